//! A mandate that is bound to a key passes only with a proof of that key for this very request (RFC 9449), one that is bound to a
//! client certificate only from who has shown it to a terminator we believe (RFC 8705, RFC 9440).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use caracal_bus::SingleUse;
use caracal_model::UnixSeconds;
use caracal_testing::{ClientCertificate, Mandate, ProofKey};
use caracal_token::{Confirmation, Possession};
use http::request::Builder;

use crate::client::Answer;
use crate::rig::{RESOURCE, Rig, now};
use crate::sts::{one_shot, reusable};

const HERE: &str = "http://gateway.test:8081/v1/contacts";

fn bound(mandate: Mandate, key: &ProofKey) -> Mandate {
    mandate.with(|claims| claims.cnf = Some(key.confirmation()))
}

fn certified(mandate: Mandate, confirmation: Confirmation) -> Mandate {
    mandate.with(|claims| claims.cnf = Some(confirmation))
}

/// The peer of these tests is a terminator that is believed.
const TERMINATOR: (&str, &str) = ("CLIENT_CERT_PROXIES", "127.0.0.0/8");

fn request(scheme: &str, mandate: &str, proofs: &[String]) -> Builder {
    let mut request = http::Request::get("/v1/contacts?page=2")
        .header("host", "gateway.test:8081")
        .header("authorization", format!("{scheme} {mandate}"))
        .header("x-caracal-resource", RESOURCE);
    for proof in proofs {
        request = request.header("dpop", proof);
    }
    request
}

fn claims(rig: &Rig) -> usize {
    rig.bus.claims.load(Ordering::SeqCst)
}

#[track_caller]
fn assert_refused(answer: &Answer, code: &str, description: &str, challenge: &str) {
    let (status, said, sentence) = answer.refusal();
    assert_eq!(
        (status, said.as_str(), sentence.as_str()),
        (401, code, description)
    );
    assert_eq!(answer.header("www-authenticate"), Some(challenge));
}

#[tokio::test]
async fn a_bound_mandate_passes_with_a_proof_and_the_proof_stays_here() {
    let rig = Rig::start().await;
    let key = ProofKey::new();
    for mandate in [one_shot(), reusable()] {
        let mandate = rig.sts.sign(bound(mandate, &key));
        let proof = key.proof("GET", HERE).token(&mandate).sign();
        let answer = rig.send(request("DPoP", &mandate, &[proof])).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let request_id = answer.header("x-request-id").unwrap();
        let intent = rig
            .event(request_id, "gateway_resource_request", "forwarding")
            .await;
        let shown = &intent["metadata_json"]["token_confirmation"];
        assert_eq!(
            *shown,
            serde_json::json!(key.confirmation()),
            "the ledger tells calls with a proof"
        );
    }
    let jkt = key.confirmation().jkt().unwrap().to_string();
    for exchange in rig.sts.exchanges() {
        assert_eq!(exchange.form["sender_jkt"], jkt, "the STS is told what was shown");
        assert!(!exchange.form.contains_key("sender_x5t_s256"));
    }
    for forwarded in rig.upstream.requests() {
        assert!(forwarded.headers.get("dpop").is_none(), "{forwarded:?}");
    }
    let unbound = rig.sts.mandate();
    let forged = [("sender_jkt", "x")];
    let answer = rig
        .send(request("Bearer", &unbound, &[]).header(forged[0].0, forged[0].1))
        .await;
    assert_eq!(answer.status, 200);
    let last = rig.sts.exchanges().pop().unwrap();
    assert!(
        !last.form.contains_key("sender_jkt"),
        "nothing was shown: {last:?}"
    );
}

#[tokio::test]
async fn a_bound_mandate_without_the_right_proof_is_refused() {
    let rig = Rig::start().await;
    let (key, other) = (ProofKey::new(), ProofKey::new());
    let mandate = rig.sts.sign(bound(one_shot(), &key));
    let another = rig.sts.sign(bound(one_shot(), &key));
    let usual = || key.proof("GET", HERE).token(&mandate);
    let rows: Vec<(Vec<String>, &str)> = vec![
        (vec![], "a proof of possession is required"),
        (
            vec![usual().sign(), usual().sign()],
            "there is more than one proof",
        ),
        (vec!["x".to_owned()], "the proof is malformed"),
        (
            vec![usual().header("typ", "JWT").sign()],
            "the proof is malformed",
        ),
        (
            vec![usual().header("jwk", other.jwk()).sign()],
            "the signature of the proof is invalid",
        ),
        (
            vec![other.proof("GET", HERE).token(&mandate).sign()],
            "the proof is by another key",
        ),
        (
            vec![key.proof("POST", HERE).token(&mandate).sign()],
            "the proof is for another method",
        ),
        (
            vec![
                key.proof("GET", "http://gateway.test:8081/v1/other")
                    .token(&mandate)
                    .sign(),
            ],
            "the proof is for another address",
        ),
        (
            vec![
                key.proof("GET", "https://gateway.test:8081/v1/contacts")
                    .token(&mandate)
                    .sign(),
            ],
            "the proof is for another address",
        ),
        (
            vec![usual().claim("iat", now() - 150).sign()],
            "the proof is too old",
        ),
        (
            vec![usual().claim("iat", now() + 150).sign()],
            "the proof is from the future",
        ),
        (
            vec![usual().claim("jti", "").sign()],
            "the proof has no usable id",
        ),
        (
            vec![key.proof("GET", HERE).sign()],
            "the proof is for another token",
        ),
        (
            vec![key.proof("GET", HERE).token(&another).sign()],
            "the proof is for another token",
        ),
    ];
    for (proofs, description) in rows {
        let answer = rig.send(request("DPoP", &mandate, &proofs)).await;
        let challenge = "DPoP error=\"invalid_dpop_proof\", algs=\"ES256\"";
        assert_refused(&answer, "invalid_dpop_proof", description, challenge);
        let request_id = answer.header("x-request-id").unwrap();
        let recorded = rig
            .event(request_id, "gateway_request_denied", "sender_constraint")
            .await;
        assert_eq!(recorded["decision"], "deny");
    }
    for proofs in [vec![], vec![usual().sign()]] {
        let answer = rig.send(request("Bearer", &mandate, &proofs)).await;
        let challenge = "DPoP error=\"invalid_token\", algs=\"ES256\"";
        assert_refused(&answer, "invalid_token", "token is bound to a key", challenge);
    }
    assert!(rig.sts.exchanges().is_empty(), "none of them cost an exchange");
    let passed = rig.send(request("dpop", &mandate, &[usual().sign()])).await;
    assert_eq!(passed.status, 200, "none of them used the mandate up");
}

#[tokio::test]
async fn a_mandate_that_is_bound_to_nothing_is_no_dpop_token() {
    let rig = Rig::start().await;
    let mandate = rig.sts.mandate();
    let proof = ProofKey::new().proof("GET", HERE).token(&mandate).sign();
    let answer = rig.send(request("DPoP", &mandate, &[proof])).await;
    let challenge = "Bearer error=\"invalid_token\"";
    assert_refused(&answer, "invalid_token", "token is not bound to a key", challenge);
}

#[tokio::test]
async fn a_proof_is_used_once_and_costs_a_round_trip_only_where_the_mandate_does_not() {
    let rig = Rig::start().await;
    let key = ProofKey::new();
    let mandate = rig.sts.sign(bound(reusable(), &key));
    let proof = key.proof("GET", HERE).token(&mandate).sign();
    let first = rig
        .send(request("DPoP", &mandate, std::slice::from_ref(&proof)))
        .await;
    assert_eq!(first.status, 200, "{first:?}");
    assert_eq!(claims(&rig), 1, "the proof is claimed for every gateway");
    let again = rig.send(request("DPoP", &mandate, &[proof])).await;
    let challenge = "DPoP error=\"invalid_dpop_proof\", algs=\"ES256\"";
    assert_refused(
        &again,
        "invalid_dpop_proof",
        "the proof was used before",
        challenge,
    );
    let another = key.proof("GET", HERE).token(&mandate).sign();
    assert_eq!(rig.send(request("DPoP", &mandate, &[another])).await.status, 200);

    let mandate = rig.sts.sign(bound(one_shot(), &key));
    let before = claims(&rig);
    let proof = key.proof("GET", HERE).token(&mandate).sign();
    assert_eq!(rig.send(request("DPoP", &mandate, &[proof])).await.status, 200);
    assert_eq!(
        claims(&rig),
        before + 1,
        "a one-shot mandate is claimed; its proof is for it alone"
    );
    let fresh = key.proof("GET", HERE).token(&mandate).sign();
    let replayed = rig.send(request("DPoP", &mandate, &[fresh])).await;
    assert_eq!(replayed.refusal().2, "token replay detected");
}

#[tokio::test]
async fn a_proof_that_was_used_at_the_coordinator_is_used_here_and_the_other_way_round() {
    let rig = Rig::start().await;
    // What the coordinator remembers proofs with, on the same bus.
    let coordinator = SingleUse::new(Arc::clone(&rig.bus) as Arc<dyn caracal_bus::Bus>);
    let key = ProofKey::new();
    let jkt = key.confirmation().jkt().unwrap().to_string();
    let take = async |id: &str| {
        let (made_at, until) = (UnixSeconds(now()), UnixSeconds(now() + 120));
        coordinator.take_proof((&jkt, id), made_at, until).await.unwrap()
    };
    let mandate = rig.sts.sign(bound(reusable(), &key));
    let proof = |id: &str| key.proof("GET", HERE).token(&mandate).claim("jti", id).sign();

    assert!(take("there").await);
    let answer = rig.send(request("DPoP", &mandate, &[proof("there")])).await;
    assert_eq!(answer.refusal().2, "the proof was used before");

    let answer = rig.send(request("DPoP", &mandate, &[proof("here")])).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(!take("here").await);
}

#[tokio::test]
async fn proofs_of_calls_that_are_refused_are_not_remembered_for_every_gateway() {
    let rig = Rig::start().await;
    let key = ProofKey::new();
    let mandate = rig.sts.sign(bound(reusable(), &key));
    let refusal = r#"{"error":"access_denied"}"#.into();
    rig.sts
        .grant(crate::sts::Grant::Raw(403, "application/json", refusal));
    for _ in 0..20 {
        let proof = key.proof("GET", HERE).token(&mandate).sign();
        assert_eq!(rig.send(request("DPoP", &mandate, &[proof])).await.status, 403);
    }
    assert_eq!(claims(&rig), 0);
}

#[tokio::test]
async fn proofs_are_for_the_public_address_where_one_is_configured() {
    let urls = "https://gw.example.com, https://example.com/agents/";
    let rig = Rig::with(&[("GATEWAY_PUBLIC_URLS", urls)]).await;
    let key = ProofKey::new();
    for (url, passes) in [
        ("https://gw.example.com/v1/contacts", true),
        ("https://GW.example.com:443/v1/contacts?page=2", true),
        ("https://example.com/agents/v1/contacts", true),
        ("https://example.com/v1/contacts", false),
        (HERE, false),
    ] {
        let mandate = rig.sts.sign(bound(one_shot(), &key));
        let proof = key.proof("GET", url).token(&mandate).sign();
        let answer = rig.send(request("DPoP", &mandate, &[proof])).await;
        assert_eq!(answer.status == 200, passes, "{url}");
    }
}

#[tokio::test]
async fn a_mandate_that_is_bound_to_a_certificate_passes_with_it() {
    let rig = Rig::with(&[TERMINATOR]).await;
    let (ours, other) = (ClientCertificate::new(), ClientCertificate::new());
    let challenge = "Bearer error=\"invalid_token\"";
    for mandate in [one_shot(), reusable()] {
        let mandate = rig.sts.sign(certified(mandate, ours.confirmation()));
        let plain = || request("Bearer", &mandate, &[]);
        let required = "a client certificate is required";
        let unreadable = "the client certificate cannot be read";
        let another = "the token is bound to another client certificate";
        for (request, description) in [
            (plain(), required),
            (plain().header("client_cert", ours.header()), required),
            (plain().header("client-cert", "nonsense"), unreadable),
            (
                plain()
                    .header("client-cert", ours.header())
                    .header("client-cert", ours.header()),
                unreadable,
            ),
            (plain().header("client-cert", other.header()), another),
        ] {
            assert_refused(&rig.send(request).await, "invalid_token", description, challenge);
        }
        let dpop = request("DPoP", &mandate, &[]).header("client-cert", ours.header());
        assert_refused(
            &rig.send(dpop).await,
            "invalid_token",
            "token is not bound to a key",
            challenge,
        );
        let before = rig.sts.exchanges().len();
        let answer = rig.send(plain().header("Client-Cert", ours.header())).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let exchanges = rig.sts.exchanges();
        assert_eq!(exchanges.len(), before + 1, "what was refused cost no exchange");
        let form = &exchanges[before].form;
        assert_eq!(
            form["sender_x5t_s256"],
            ours.confirmation().x5t_s256().unwrap().to_string()
        );
        assert!(!form.contains_key("sender_jkt"));
    }
    for forwarded in rig.upstream.requests() {
        assert!(forwarded.headers.get("client-cert").is_none(), "{forwarded:?}");
    }
}

#[tokio::test]
async fn a_certificate_counts_only_from_a_listed_terminator() {
    let certificate = ClientCertificate::new();
    let proxies_alone = [("TRUST_PROXY", "true")];
    for settings in [&[][..], &proxies_alone, &[("CLIENT_CERT_PROXIES", "10.0.0.0/8")]] {
        let rig = Rig::with(settings).await;
        let mandate = rig.sts.sign(certified(one_shot(), certificate.confirmation()));
        let bound = request("Bearer", &mandate, &[]).header("client-cert", certificate.header());
        let answer = rig.send(bound).await;
        assert_eq!(
            answer.refusal().2,
            "a client certificate is required",
            "{settings:?}"
        );
        let unbound = rig.sts.mandate();
        let request = request("Bearer", &unbound, &[]).header("client-cert", certificate.header());
        assert_eq!(
            rig.send(request).await.status,
            200,
            "it is passed over, and kept back"
        );
        let forwarded = rig.upstream.requests().pop().unwrap();
        assert!(forwarded.headers.get("client-cert").is_none());
    }
}

#[tokio::test]
async fn a_mandate_that_is_bound_to_both_keys_needs_both() {
    let rig = Rig::with(&[TERMINATOR]).await;
    let (certificate, key) = (ClientCertificate::new(), ProofKey::new());
    let jkt = Possession {
        jkt: key.confirmation().jkt().copied(),
        ..Possession::default()
    };
    let mandate = rig
        .sts
        .sign(certified(one_shot(), certificate.confirmation_with(jkt)));
    let proof = || vec![key.proof("GET", HERE).token(&mandate).sign()];
    let header = certificate.header();
    for (scheme, proofs, shown, description) in [
        ("DPoP", proof(), None, "a client certificate is required"),
        ("DPoP", vec![], Some(&header), "a proof of possession is required"),
        ("Bearer", vec![], Some(&header), "token is bound to a key"),
        ("Bearer", proof(), Some(&header), "token is bound to a key"),
    ] {
        let mut request = request(scheme, &mandate, &proofs);
        if let Some(header) = shown {
            request = request.header("client-cert", header);
        }
        assert_eq!(rig.send(request).await.refusal().2, description);
    }
    let both = request("DPoP", &mandate, &proof()).header("client-cert", header);
    let answer = rig.send(both).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let form = &rig.sts.exchanges()[0].form;
    assert!(form.contains_key("sender_jkt") && form.contains_key("sender_x5t_s256"));
}
