//! Every refusal has the contract's status, code and description, and leaves evidence.

use caracal_model::{Anchor, AnchorKind};
use caracal_testing::{Behaviour, Mandate, TestKeys, wait_until};
use caracal_wire::sts::{AuthMode, Upstream};
use http::request::Builder;

use crate::client::{Answer, exchange_raw};
use crate::rig::{APPLICATION, ISSUER, RESOURCE, Rig, SOON, ZONE, mandate_upstream, now};
use crate::sts::{Grant, one_shot, reusable};

const DENIED: &str = "gateway_request_denied";

/// Asserts what a refusal says, and that the ledger has it.
async fn assert_refused(rig: &Rig, answer: &Answer, expected: (u16, &str, &str), event: (&str, &str)) {
    let (status, code, description) = answer.refusal();
    assert_eq!((status, code.as_str(), description.as_str()), expected);
    let request_id = answer
        .header("x-request-id")
        .expect("every answer names its request");
    assert_eq!(answer.json()["requestId"], request_id);
    let recorded = rig.event(request_id, event.0, event.1).await;
    assert_eq!(recorded["decision"], "deny", "{recorded}");
    if status == 401 {
        assert!(
            answer
                .header("www-authenticate")
                .is_some_and(|value| value.starts_with("Bearer"))
        );
    }
}

fn bare(rig: &Rig, mandate: &str) -> Builder {
    rig.request("GET", "/v1/contacts", mandate)
}

#[tokio::test]
async fn bearers_that_are_no_mandate_are_refused() {
    let rig = Rig::start().await;
    let without = |name: &'static str| {
        // Signed by nobody: the claims are looked at before the signature.
        let mut claims = serde_json::to_value(one_shot().claims()).unwrap();
        claims.as_object_mut().unwrap().remove(name);
        unsigned(&claims)
    };
    let cases: Vec<(String, (u16, &str, &str), &str)> = vec![
        (
            "Basic abc".into(),
            (401, "invalid_token", "missing bearer token"),
            "missing_auth",
        ),
        (
            "Bearer ".into(),
            (401, "invalid_token", "missing bearer token"),
            "missing_auth",
        ),
        (
            format!("Bearer {}", "x".repeat(16_385)),
            (401, "invalid_token", "bearer token too large"),
            "bad_bearer",
        ),
        (
            "Bearer one.two".into(),
            (401, "invalid_token", "malformed bearer token"),
            "bad_bearer",
        ),
        (
            "Bearer a.b.c".into(),
            (401, "invalid_token", "malformed bearer token"),
            "bad_bearer",
        ),
        (
            format!("Bearer {}", without("exp")),
            (401, "invalid_token", "malformed bearer token"),
            "bad_bearer",
        ),
        (
            format!("Bearer {}", without("zone_id")),
            (401, "invalid_token", "missing token zone"),
            "bad_routing",
        ),
        (
            format!("Bearer {}", without("client_id")),
            (401, "invalid_token", "missing token client"),
            "bad_routing",
        ),
        (
            format!("bearer {}", rig.sts.sign(one_shot().issued(now() - 866, 900))),
            (
                401,
                "credential_expired_not_renewable",
                "credential expiring within pre-flight window",
            ),
            "expiring",
        ),
        (
            format!("Bearer {}", rig.sts.sign(one_shot().issued(now() - 5_000, 900))),
            (
                401,
                "credential_expired_not_renewable",
                "credential expiring within pre-flight window",
            ),
            "expiring",
        ),
    ];
    for (authorization, expected, label) in cases {
        let request = http::Request::get("/v1/contacts")
            .header("host", "x")
            .header("authorization", authorization.as_str())
            .header("x-caracal-resource", RESOURCE);
        let answer = rig.send(request).await;
        assert_refused(&rig, &answer, expected, (DENIED, label)).await;
    }
    assert!(rig.sts.exchanges().is_empty(), "none of them cost an exchange");
    assert_eq!(rig.sts.key_requests(), 0, "none of them cost a key lookup");
}

/// A token with these claims and a signature that is none.
fn unsigned(claims: &serde_json::Value) -> String {
    let header = r#"{"alg":"ES256","kid":"k","typ":"JWT"}"#;
    let encode =
        |bytes: &[u8]| base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, bytes);
    format!(
        "{}.{}.{}",
        encode(header.as_bytes()),
        encode(claims.to_string().as_bytes()),
        encode(&[1; 64])
    )
}

#[tokio::test]
async fn two_bearers_are_none() {
    let rig = Rig::start().await;
    let answer = rig
        .send(rig.get("/").header("authorization", "Bearer other"))
        .await;
    assert_eq!(answer.refusal().2, "missing bearer token");
}

#[tokio::test]
async fn requests_without_one_meaning_are_refused() {
    let rig = Rig::start().await;
    let mandate = rig.sts.mandate();
    let authorization = format!("Bearer {mandate}");
    let plain = |target: &str| {
        http::Request::get(target)
            .header("host", "x")
            .header("authorization", authorization.as_str())
    };
    let traversal = (400, "invalid_token", "path traversal not permitted");
    let routing = (400, "invalid_token", "missing routing headers");
    for (request, expected, label) in [
        (
            bare(&rig, &mandate).header("x-caracal-client-id", "app-2"),
            (
                400,
                "invalid_token",
                "client identity derives from the bearer token",
            ),
            "bad_routing",
        ),
        (plain("/v1"), routing, "bad_routing"),
        (
            plain("/v1").header("x-caracal-resource", " "),
            routing,
            "bad_routing",
        ),
        (
            plain("/v1")
                .header("x-caracal-resource", "a")
                .header("x-caracal-resource", "b"),
            routing,
            "bad_routing",
        ),
        (
            rig.request("GET", "/a/%2e%2e/b", &mandate),
            traversal,
            "path_traversal",
        ),
        (
            rig.request("GET", "/a/%252e%252e/b", &mandate),
            traversal,
            "path_traversal",
        ),
        (
            rig.request("GET", "/a%5cb", &mandate),
            traversal,
            "path_traversal",
        ),
        (
            rig.request("GET", "/a/..;/b", &mandate),
            traversal,
            "path_traversal",
        ),
    ] {
        let answer = rig.send(request).await;
        assert_refused(&rig, &answer, expected, (DENIED, label)).await;
    }
    let raw = format!(
        "GET /a/../b HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: {authorization}\r\nx-caracal-resource: {RESOURCE}\r\n\r\n"
    );
    let answer = exchange_raw(rig.gateway.addresses.main, &raw).await;
    assert!(answer.contains("path traversal not permitted"), "{answer}");
    assert!(rig.sts.exchanges().is_empty());
}

#[tokio::test]
async fn mandates_that_are_not_genuine_or_not_for_here_are_refused() {
    let rig = Rig::start().await;
    let signature = (401, "invalid_token", "bearer signature invalid");
    let subject = (401, "invalid_token", "invalid subject_token");
    let foreign = TestKeys::new();
    let base = || one_shot();
    for (mandate, expected, label) in [
        (base().sign(&foreign), signature, "signature"),
        (
            rig.sts
                .sign(base().with(|claims| claims.zone_id = "zone-2".parse().unwrap())),
            signature,
            "signature",
        ),
        (
            rig.sts.sign(base().issuer("http://other.test")),
            subject,
            "wrong_subject",
        ),
        (
            rig.sts
                .sign(base().with(|claims| claims.aud = vec!["http://other.test".into()])),
            subject,
            "wrong_subject",
        ),
        (
            rig.sts.sign(
                Mandate::resource(ZONE, APPLICATION, RESOURCE, now())
                    .issuer(ISSUER)
                    .with(|claims| {
                        claims.aud.push(ISSUER.into());
                    }),
            ),
            subject,
            "wrong_subject",
        ),
        (
            rig.sts.sign(base().issued(now() + 120, 900)),
            subject,
            "wrong_subject",
        ),
    ] {
        let answer = rig.send(bare(&rig, &mandate)).await;
        assert_refused(&rig, &answer, expected, (DENIED, label)).await;
    }
    let tampered = {
        let mandate = rig.sts.mandate();
        let (head, signature) = mandate.rsplit_once('.').unwrap();
        let flipped = if signature.starts_with('A') { "B" } else { "A" };
        format!("{head}.{flipped}{}", &signature[1..])
    };
    let answer = rig.send(bare(&rig, &tampered)).await;
    assert_refused(&rig, &answer, signature, (DENIED, "signature")).await;
    assert!(rig.sts.exchanges().is_empty(), "nothing unproven reaches the STS");
}

#[tokio::test]
async fn a_stranger_causes_one_key_lookup_per_zone() {
    let rig = Rig::start().await;
    let foreign = TestKeys::new();
    for _attempt in 0..10 {
        let zone = one_shot().with(|claims| claims.zone_id = "zone-9".parse().unwrap());
        let answer = rig.send(bare(&rig, &zone.sign(&foreign))).await;
        assert_eq!(answer.refusal().2, "bearer signature invalid");
        let answer = rig.send(bare(&rig, &one_shot().sign(&foreign))).await;
        assert_eq!(answer.refusal().2, "bearer signature invalid");
    }
    assert_eq!(
        rig.sts.key_requests(),
        2,
        "one for the unknown zone, one for the known one"
    );
}

#[tokio::test]
async fn what_stands_on_a_revoked_anchor_is_refused() {
    let rig = Rig::start().await;
    let expected = (401, "invalid_token", "session revoked");
    let build = || {
        one_shot()
            .anchored_in("ar-1", "ar-0")
            .bound_to("session-1", "edge-1")
    };
    let revoked = [
        Anchor::from_parts(AnchorKind::AuthorityRecord, "ar-0").unwrap(),
        Anchor::from_parts(AnchorKind::Session, "session-2").unwrap(),
        Anchor::from_parts(AnchorKind::Delegation, "edge-3").unwrap(),
    ];
    for anchor in &revoked {
        rig.revoke(anchor.clone()).await;
    }
    for mandate in [
        build(),
        one_shot().anchored_in("ar-0", "ar-0"),
        one_shot().bound_to("session-2", "edge-9"),
        one_shot().bound_to("session-9", "edge-3"),
    ] {
        let claims = mandate.claims().clone();
        wait_until(SOON, async || {
            let fresh = Mandate::gateway(ZONE, APPLICATION, now()).with(|other| {
                let jti = other.jti.clone();
                *other = claims.clone();
                other.jti = jti;
            });
            rig.send(bare(&rig, &rig.sts.sign(fresh))).await.status == 401
        })
        .await;
        let answer = rig.send(bare(&rig, &rig.sts.sign(mandate))).await;
        assert_refused(&rig, &answer, expected, (DENIED, "revoked")).await;
    }
    assert_eq!(rig.send(rig.get("/")).await.status, 200, "others go on");
}

#[tokio::test]
async fn revocations_of_the_snapshot_count() {
    let rig = Rig::start().await;
    for session in ["session-5", "session-6", "session-7"] {
        rig.sts.revoke_in_snapshot(AnchorKind::Session, session);
    }
    let gateway = crate::rig::Gateway::start(std::sync::Arc::clone(&rig.bus) as _, &rig.sts.url(), &[]).await;
    crate::client::wait_for_status(gateway.addresses.admin, "/ready", http::StatusCode::OK).await;
    // Those of its first part and of its last.
    for session in ["session-5", "session-7"] {
        let mandate = rig.sts.sign(one_shot().bound_to(session, "edge-1"));
        let request = bare(&rig, &mandate)
            .body(http_body_util::Full::default())
            .unwrap();
        let answer = crate::client::send(gateway.addresses.main, request).await;
        assert_eq!(answer.refusal().2, "session revoked", "{session}");
    }
}

#[tokio::test]
async fn what_the_sts_refuses_is_refused_with_its_words() {
    let rig = Rig::start().await;
    let body = |code: &str, text: &str| {
        format!(r#"{{"error":"{code}","error_description":"{text}","requestId":"x"}}"#)
    };
    for (status, body, expected) in [
        (
            403,
            body("access_denied", "policy denied (role_scope_mismatch)"),
            ("access_denied", "policy denied (role_scope_mismatch)"),
        ),
        (
            401,
            body("interaction_required", "approval needed"),
            ("interaction_required", "approval needed"),
        ),
        (
            409,
            body("approval_consumed", "spent"),
            ("approval_consumed", "spent"),
        ),
        (
            403,
            body("operation_not_permitted", "no"),
            ("operation_not_permitted", "no"),
        ),
        (
            502,
            body("http_request_failed", "idp"),
            ("http_request_failed", "idp"),
        ),
        (
            500,
            "oops".to_owned(),
            ("sts_unavailable", "Internal Server Error"),
        ),
    ] {
        rig.sts.grant(Grant::Raw(status, "application/json", body));
        let answer = rig.send(rig.get("/v1/contacts")).await;
        assert_refused(
            &rig,
            &answer,
            (status, expected.0, expected.1),
            (DENIED, "sts_refused"),
        )
        .await;
    }
    assert!(rig.upstream.requests().is_empty());
}

#[tokio::test]
async fn an_answer_of_the_sts_that_proves_nothing_is_refused() {
    let rig = Rig::start().await;
    let upstream = mandate_upstream(rig.upstream.url());
    let resource = |zone: &str, application: &str, resource: &str| {
        Mandate::resource(zone, application, resource, now()).issuer(ISSUER)
    };
    let good = resource(ZONE, APPLICATION, RESOURCE);
    let foreign = TestKeys::new();
    let tokens = [
        "garbage".to_owned(),
        good.sign(&foreign),
        rig.sts.sign(resource("zone-2", APPLICATION, RESOURCE)),
        rig.sts.sign(resource(ZONE, "app-2", RESOURCE)),
        rig.sts.sign(resource(ZONE, APPLICATION, "resource://other")),
        rig.sts.sign(
            good.clone()
                .with(|claims| claims.target = vec!["resource://other".into()]),
        ),
        rig.sts.sign(good.clone().issuer("http://other.test")),
        rig.sts
            .sign(one_shot().with(|claims| claims.aud.push(RESOURCE.into()))),
    ];
    let invalid = (502, "sts_unavailable", "sts response invalid");
    for token in tokens {
        rig.sts.grant(Grant::Token(token, upstream.clone()));
        let answer = rig.send(rig.get("/v1/contacts")).await;
        assert_refused(&rig, &answer, invalid, (DENIED, "sts_invalid")).await;
    }
    for (content_type, body) in [
        ("text/html", "<html>"),
        ("application/json", "{"),
        ("application/json", "{}"),
    ] {
        rig.sts.grant(Grant::Raw(200, content_type, body.to_owned()));
        let answer = rig.send(rig.get("/v1/contacts")).await;
        assert_refused(&rig, &answer, invalid, (DENIED, "sts_invalid")).await;
    }
    assert!(rig.upstream.requests().is_empty(), "nothing was forwarded");
}

#[tokio::test]
async fn clocks_that_disagree_refuse_and_show_in_readiness() {
    let rig = Rig::start().await;
    let upstream = mandate_upstream(rig.upstream.url());
    for at in [now() + 300, now() - 5_000] {
        let skewed = Mandate::resource(ZONE, APPLICATION, RESOURCE, at).issuer(ISSUER);
        rig.sts
            .grant(Grant::Token(rig.sts.sign(skewed), upstream.clone()));
        let answer = rig.send(rig.get("/v1/contacts")).await;
        let expected = (503, "sts_unavailable", "clock skew between gateway and sts");
        assert_refused(&rig, &answer, expected, (DENIED, "clock_skew")).await;
    }
    let ready = http::Request::get("/ready")
        .header("host", "x")
        .body(http_body_util::Full::default())
        .unwrap();
    let ready = crate::client::send(rig.gateway.addresses.admin, ready).await;
    assert_eq!(
        (ready.status, ready.json()["reason"].as_str()),
        (503, Some("clock_skew"))
    );
    rig.sts.grant(Grant::Upstream(upstream));
    assert_eq!(rig.send(rig.get("/v1/contacts")).await.status, 200);
    crate::client::wait_for_status(rig.gateway.addresses.admin, "/ready", http::StatusCode::OK).await;
}

#[tokio::test]
async fn upstreams_and_credentials_that_do_not_fit_are_refused() {
    let rig = Rig::start().await;
    let url = rig.upstream.url();
    let oauth = Upstream {
        auth_mode: AuthMode::ProviderOauth,
        provider_token: Some("t-1".into()),
        ..mandate_upstream(url.clone())
    };
    let blocked = (502, "internal_error", "upstream not addressable");
    let unbuildable = (400, "internal_error", "upstream request build failed");
    for (upstream, expected, label) in [
        (
            mandate_upstream(""),
            (403, "access_denied", "resource upstream not configured"),
            "no_upstream",
        ),
        (
            mandate_upstream("http://169.254.169.254/"),
            blocked,
            "upstream_not_addressable",
        ),
        (
            mandate_upstream("http://[::ffff:a9fe:a9fe]/"),
            blocked,
            "upstream_not_addressable",
        ),
        (
            mandate_upstream("http://2852039166/"),
            blocked,
            "upstream_not_addressable",
        ),
        (
            mandate_upstream("http://0.0.0.0:1/"),
            blocked,
            "upstream_not_addressable",
        ),
        (
            mandate_upstream("file:///etc/passwd"),
            blocked,
            "upstream_not_addressable",
        ),
        (mandate_upstream("not a url"), blocked, "upstream_not_addressable"),
        (
            mandate_upstream(url.replace("http://", "http://user:pw@")),
            blocked,
            "upstream_not_addressable",
        ),
        (
            Upstream {
                allowed_token_hosts: vec!["api.example".into()],
                ..oauth.clone()
            },
            (
                502,
                "internal_error",
                "provider credential not allowed for upstream host",
            ),
            "provider_host_not_allowed",
        ),
        (
            Upstream {
                auth_header: Some("Host".into()),
                ..oauth.clone()
            },
            unbuildable,
            "request_build_failed",
        ),
        (
            Upstream {
                provider_token: None,
                ..oauth.clone()
            },
            unbuildable,
            "request_build_failed",
        ),
    ] {
        rig.sts.grant(Grant::Upstream(upstream));
        let answer = rig.send(rig.get("/v1/contacts")).await;
        assert_refused(&rig, &answer, expected, (DENIED, label)).await;
    }
    let mandate = rig.sts.mandate();
    rig.sts.grant(Grant::Upstream(mandate_upstream(url)));
    let answer = rig
        .send(rig.request("GET", &format!("/x?token={mandate}"), &mandate))
        .await;
    assert_refused(&rig, &answer, unbuildable, (DENIED, "request_build_failed")).await;
    assert!(rig.upstream.requests().is_empty(), "nothing was forwarded");
}

#[tokio::test]
async fn bodies_over_the_limit_are_refused_declared_or_not() {
    let rig = Rig::with(&[("MAX_REQUEST_BYTES", "100000")]).await;
    let expected = (413, "payload_too_large", "request body too large");
    let declared = rig.request("POST", "/v1/upload", &rig.sts.mandate());
    let answer = rig.send_with(declared, vec![b'x'; 100_001]).await;
    assert_refused(&rig, &answer, expected, (DENIED, "body_too_large")).await;
    assert!(rig.sts.exchanges().is_empty(), "a declared length costs nothing");

    let chunk = "x".repeat(50_000);
    let chunked = format!(
        "POST /v1/upload HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\nx-caracal-resource: {RESOURCE}\r\ntransfer-encoding: chunked\r\n\r\n{}",
        rig.sts.mandate(),
        format!("c350\r\n{chunk}\r\n").repeat(3) + "0\r\n\r\n"
    );
    let answer = exchange_raw(rig.gateway.addresses.main, &chunked).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("request body too large"), "{answer}");
    assert!(
        rig.upstream.requests().is_empty(),
        "no whole request reached the upstream"
    );

    let fitting = rig.request("POST", "/v1/upload", &rig.sts.mandate());
    assert_eq!(rig.send_with(fitting, vec![b'x'; 100_000]).await.status, 200);
}

#[tokio::test]
async fn a_request_head_over_the_limit_is_refused() {
    let rig = Rig::with(&[("MAX_HEADER_BYTES", "8KiB")]).await;
    let answer = rig.send(rig.get("/").header("x-long", "x".repeat(9_000))).await;
    assert_eq!(answer.status, 431);
}

#[tokio::test]
async fn an_upstream_that_is_not_there_or_silent_is_told_apart() {
    let rig = Rig::with(&[("UPSTREAM_TIMEOUT", "300ms")]).await;
    rig.sts
        .grant(Grant::Upstream(mandate_upstream("http://127.0.0.1:1")));
    let answer = rig.send(rig.get("/")).await;
    assert_eq!(
        answer.refusal(),
        (502, "internal_error".into(), "upstream unreachable".into())
    );
    let request_id = answer.header("x-request-id").unwrap();
    let outcome = rig
        .event(request_id, "gateway_resource_request", "upstream_error")
        .await;
    assert_eq!(outcome["metadata_json"]["error_kind"], "transport_error");
    assert_eq!(outcome["metadata_json"]["gateway_status"], 502);

    rig.sts
        .grant(Grant::Upstream(mandate_upstream(rig.upstream.url())));
    rig.upstream.set(Behaviour::Held);
    let answer = rig.send(rig.get("/")).await;
    assert_eq!(
        answer.refusal(),
        (504, "internal_error".into(), "upstream timeout".into())
    );
}

#[tokio::test]
async fn a_flood_of_refusals_is_counted_instead_of_recorded() {
    let rig = Rig::start().await;
    for _refusal in 0..60 {
        let request = http::Request::get("/")
            .header("host", "x")
            .header("x-caracal-resource", RESOURCE);
        assert_eq!(rig.send(request).await.status, 401);
    }
    wait_until(SOON, async || {
        let events = rig.events().await;
        events
            .iter()
            .any(|event| event["evaluation_status"] == "suppressed")
    })
    .await;
    let events = rig.events().await;
    let recorded = events
        .iter()
        .filter(|event| event["evaluation_status"] == "missing_auth")
        .count();
    assert!(
        (20..60).contains(&recorded),
        "{recorded} were recorded one by one"
    );
}

#[tokio::test]
async fn without_room_for_evidence_nothing_is_forwarded() {
    let rig = Rig::with(&[("AUDIT_SPOOL_BYTES", "64KiB")]).await;
    rig.bus
        .publishing_fails
        .store(true, std::sync::atomic::Ordering::SeqCst);
    let refused = caracal_testing::wait_for(SOON, async || {
        let answer = rig.send(rig.get("/")).await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    assert_eq!(
        refused.refusal(),
        (
            503,
            "internal_error".into(),
            "audit evidence cannot be recorded".into()
        )
    );
    let forwarded = rig.upstream.requests().len();
    assert_eq!(rig.send(rig.get("/")).await.status, 503);
    assert_eq!(
        rig.upstream.requests().len(),
        forwarded,
        "a request that cannot be recorded is not forwarded"
    );
    rig.bus
        .publishing_fails
        .store(false, std::sync::atomic::Ordering::SeqCst);
    wait_until(SOON, async || rig.send(rig.get("/")).await.status == 200).await;
}

#[tokio::test]
async fn reusable_mandates_are_the_stss_decision() {
    let rig = Rig::start().await;
    let answer = rig.send(bare(&rig, &rig.sts.sign(reusable()))).await;
    assert_eq!(answer.status, 200);
    assert_eq!(rig.sts.exchanges()[0].form["application_id"], APPLICATION);
}
