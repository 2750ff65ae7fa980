//! Every row of `docs/contract/gateway.md`, "Refusals", against the real executable: what is said, that it is counted under its
//! label, and that the upstream hears nothing.

use caracal_model::{Anchor, AnchorKind};
use caracal_testing::{Behaviour, ClientCertificate, Mandate, ProofKey, TestKeys, wait_for, wait_until};
use caracal_wire::event::SessionsRevoke;
use caracal_wire::stream::{AUDIT_EVENTS, SESSIONS_REVOKE};
use caracal_wire::sts::{AuthMode, Upstream};

use crate::executable::{Executable, Plain, head};
use crate::rig::{APPLICATION, ISSUER, RESOURCE, SOON, ZONE, mandate_upstream, now, stream_keys};
use crate::sts::{Grant, one_shot, reusable};

/// What a row promises.
#[derive(Clone, Copy)]
struct Row {
    name: &'static str,
    status: u16,
    code: &'static str,
    description: &'static str,
    label: &'static str,
}

/// A refusal that is the caller's fault.
const fn row(
    name: &'static str,
    status: u16,
    code: &'static str,
    description: &'static str,
    label: &'static str,
) -> Row {
    Row {
        name,
        status,
        code,
        description,
        label,
    }
}

/// A bearer that is refused with 401.
const fn invalid(name: &'static str, description: &'static str, label: &'static str) -> Row {
    row(name, 401, "invalid_token", description, label)
}

impl Row {
    /// How long the client is told to wait.
    fn retry_after(&self) -> Option<&'static str> {
        match self.label {
            "sts_circuit_open" => Some("10"),
            "revocation_stale" | "keys_unavailable" | "replay_undecided" | "sts_timeout"
            | "sts_unreachable" | "unrecorded" => Some("1"),
            _ => None,
        }
    }

    /// Checks everything the contract says about the answer.
    fn check(&self, answer: &Plain) {
        let (name, body) = (self.name, answer.json());
        let said = (
            answer.status(),
            body["error"].as_str().unwrap_or_default(),
            body["error_description"].as_str().unwrap_or_default(),
        );
        assert_eq!(said, (self.status, self.code, self.description), "{name}");
        assert_eq!(
            body["requestId"].as_str(),
            answer.header("x-request-id"),
            "{name}"
        );
        assert!(answer.header("x-request-id").is_some(), "{name}: {answer:?}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{name}");
        assert_eq!(answer.header("retry-after"), self.retry_after(), "{name}");
        let challenge = answer.header("www-authenticate");
        if self.status == 401 {
            let scheme = challenge.and_then(|value| value.split(' ').next());
            assert!(matches!(scheme, Some("Bearer" | "DPoP")), "{name}: {challenge:?}");
        } else {
            assert_eq!(challenge, None, "{name}");
        }
    }
}

/// Sends `request`, which must be refused as `row` says, be counted, and stay unknown to the upstream.
async fn refused(gateway: &Executable, row: Row, request: String) {
    let before = gateway.denials(row.label).await;
    let answer = gateway.send(&request).await;
    row.check(&answer);
    assert_eq!(gateway.denials(row.label).await, before + 1, "{}", row.name);
    assert!(
        gateway.upstream.take_requests().is_empty(),
        "{} went upstream",
        row.name
    );
}

/// A request with this mandate and nothing unusual.
fn plain(mandate: &str) -> String {
    head("/v1/contacts", &format!("Bearer {mandate}"), "\r\n")
}

fn unsigned(without: &str) -> String {
    let mut claims = serde_json::to_value(one_shot().claims()).unwrap();
    claims.as_object_mut().unwrap().remove(without);
    let encode = |text: &str| base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, text);
    let header = encode(r#"{"alg":"ES256","kid":"k","typ":"JWT"}"#);
    format!("{header}.{}.{}", encode(&claims.to_string()), "A".repeat(86))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_may_do_wrong_is_refused_by_the_process_as_the_contract_says() {
    let gateway = Executable::start(&[
        ("MAX_HEADER_BYTES", "20KiB"),
        ("MAX_REQUEST_BYTES", "4096"),
        ("CLIENT_CERT_PROXIES", "127.0.0.0/8"),
    ])
    .await;
    let sign = |mandate: Mandate| gateway.sts.sign(mandate);
    let good = || gateway.sts.mandate();
    let key = ProofKey::new();
    let bound = || sign(one_shot().with(|claims| claims.cnf = Some(key.confirmation())));
    let certificate = ClientCertificate::new();
    let certified = || sign(one_shot().with(|claims| claims.cnf = Some(certificate.confirmation())));
    let expiring = "credential expiring within pre-flight window";
    let gone = "credential_expired_not_renewable";
    let bearer = |text: &str| format!("Bearer {text}");
    let missing = |name| invalid(name, "missing bearer token", "missing_auth");
    let malformed = |name| invalid(name, "malformed bearer token", "bad_bearer");
    let wrong = |name| invalid(name, "invalid subject_token", "wrong_subject");
    let sender = |name, description| invalid(name, description, "sender_constraint");
    let traversal = |name| {
        row(
            name,
            400,
            "invalid_token",
            "path traversal not permitted",
            "path_traversal",
        )
    };
    let nobody = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";
    let rows: Vec<(Row, String)> = vec![
        (
            row(
                "head",
                431,
                "payload_too_large",
                "request header fields too large",
                "head_too_large",
            ),
            head(
                "/",
                &bearer(&good()),
                &format!("x-long: {}\r\n\r\n", "x".repeat(21_000)),
            ),
        ),
        (
            missing("no bearer"),
            format!("{nobody}x-caracal-resource: {RESOURCE}\r\n\r\n"),
        ),
        (missing("another scheme"), head("/", "Basic YTpi", "\r\n")),
        (missing("an empty bearer"), head("/", "Bearer ", "\r\n")),
        (
            missing("two bearers"),
            head(
                "/",
                &bearer(&good()),
                &format!("authorization: Bearer {}\r\n\r\n", good()),
            ),
        ),
        (
            invalid("a long bearer", "bearer token too large", "bad_bearer"),
            head("/", &bearer(&"x".repeat(16_385)), "\r\n"),
        ),
        (malformed("two segments"), plain("one.two")),
        (malformed("no base64url"), plain("a.b.c")),
        (malformed("no exp"), plain(&unsigned("exp"))),
        (
            row("expires soon", 401, gone, expiring, "expiring"),
            plain(&sign(one_shot().issued(now() - 870, 900))),
        ),
        (
            row("expired", 401, gone, expiring, "expiring"),
            plain(&sign(one_shot().issued(now() - 5_000, 900))),
        ),
        (
            row(
                "client id",
                400,
                "invalid_token",
                "client identity derives from the bearer token",
                "bad_routing",
            ),
            head(
                "/",
                &bearer(&good()),
                &format!("x-caracal-client-id: {APPLICATION}\r\n\r\n"),
            ),
        ),
        (
            row(
                "no resource",
                400,
                "invalid_token",
                "missing routing headers",
                "bad_routing",
            ),
            format!("{nobody}authorization: Bearer {}\r\n\r\n", good()),
        ),
        (
            invalid("no zone", "missing token zone", "bad_routing"),
            plain(&unsigned("zone_id")),
        ),
        (
            invalid("no client", "missing token client", "bad_routing"),
            plain(&unsigned("client_id")),
        ),
        (traversal("dots"), head("/a/../b", &bearer(&good()), "\r\n")),
        (
            traversal("encoded dots"),
            head("/a/%2e%2e/b", &bearer(&good()), "\r\n"),
        ),
        (
            traversal("dots encoded twice"),
            head("/a/%252e%252e/b", &bearer(&good()), "\r\n"),
        ),
        (
            traversal("a backslash"),
            head("/a\\..\\b", &bearer(&good()), "\r\n"),
        ),
        (
            invalid("a stranger's key", "bearer signature invalid", "signature"),
            plain(&one_shot().sign(&TestKeys::new())),
        ),
        (
            invalid("a stranger's zone", "bearer signature invalid", "signature"),
            plain(&sign(
                one_shot().with(|claims| claims.zone_id = "zone-9".parse().unwrap()),
            )),
        ),
        (
            wrong("another issuer"),
            plain(&sign(
                one_shot().with(|claims| claims.iss = "http://other.test".into()),
            )),
        ),
        (
            wrong("another audience"),
            plain(&sign(one_shot().with(|claims| claims.aud = vec!["other".into()]))),
        ),
        (
            wrong("a resource mandate"),
            plain(&sign(
                Mandate::resource(ZONE, APPLICATION, RESOURCE, now())
                    .issuer(ISSUER)
                    .with(|claims| claims.aud.push(ISSUER.into())),
            )),
        ),
        (
            wrong("issued tomorrow"),
            plain(&sign(one_shot().issued(now() + 86_400, 900))),
        ),
        (sender("no proof", "token is bound to a key"), plain(&bound())),
        (
            sender("bound to nothing", "token is not bound to a key"),
            head("/", &format!("DPoP {}", good()), "\r\n"),
        ),
        (
            sender("no certificate", "a client certificate is required"),
            plain(&certified()),
        ),
        (
            sender("no such certificate", "the client certificate cannot be read"),
            head("/", &bearer(&certified()), "client-cert: nonsense\r\n\r\n"),
        ),
        (
            sender(
                "another certificate",
                "the token is bound to another client certificate",
            ),
            head(
                "/",
                &bearer(&certified()),
                &format!("client-cert: {}\r\n\r\n", ClientCertificate::new().header()),
            ),
        ),
        (
            row(
                "declared body",
                413,
                "payload_too_large",
                "request body too large",
                "body_too_large",
            ),
            head("/", &bearer(&good()), "content-length: 4097\r\n\r\n"),
        ),
    ];
    for (row, request) in rows {
        refused(&gateway, row, request).await;
    }
    let proof = head("/", &format!("DPoP {}", bound()), "dpop: nonsense\r\n\r\n");
    let answer = gateway.send(&proof).await;
    let said = (answer.status(), answer.json()["error"].clone());
    assert_eq!(said, (401, "invalid_dpop_proof".into()), "{answer:?}");
    assert!(
        answer
            .header("www-authenticate")
            .is_some_and(|value| value.starts_with("DPoP"))
    );
    assert!(
        gateway.sts.exchanges().is_empty(),
        "none of them cost an exchange"
    );

    let once = gateway.sts.mandate();
    assert_eq!(gateway.send(&plain(&once)).await.status(), 200);
    assert_eq!(gateway.upstream.take_requests().len(), 1);
    refused(
        &gateway,
        invalid("used twice", "token replay detected", "jti_replay"),
        plain(&once),
    )
    .await;

    gateway.sts.declare(&[("GET", "/v1/contacts", "crm:read")]);
    let reading = || sign(one_shot().scope("crm:read"));
    let removing = || plain(&reading()).replacen("GET", "DELETE", 1);
    wait_until(SOON, async || {
        let before = gateway.sts.exchanges().len();
        assert_eq!(gateway.send(&removing()).await.status(), 403);
        gateway.sts.exchanges().len() == before
    })
    .await;
    refused(
        &gateway,
        row(
            "undeclared",
            403,
            "operation_not_permitted",
            "the operation is not declared for the scopes of the presented mandate",
            "operation_not_permitted",
        ),
        removing(),
    )
    .await;
    assert_eq!(gateway.send(&plain(&reading())).await.status(), 200);
    drop(gateway.upstream.take_requests());

    let over = format!(
        "transfer-encoding: chunked\r\n\r\n1001\r\n{}\r\n0\r\n\r\n",
        "x".repeat(4_097)
    );
    let over = head("/v1/contacts", &bearer(&reading()), &over);
    refused(
        &gateway,
        row(
            "sent body",
            413,
            "payload_too_large",
            "request body too large",
            "body_too_large",
        ),
        over,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_sts_and_the_upstream_may_do_wrong_is_refused_by_the_process_as_the_contract_says() {
    let gateway = Executable::start(&[("STS_TIMEOUT", "1s"), ("UPSTREAM_TIMEOUT", "1s")]).await;
    let url = gateway.upstream.url();
    let granted = |upstream: Upstream| Grant::Upstream(upstream);
    let raw = |status, kind, body: &str| Grant::Raw(status, kind, body.to_owned());
    let custody = || Upstream {
        auth_mode: AuthMode::ProviderOauth,
        provider_token: Some("t-1".into()),
        ..mandate_upstream(url.clone())
    };
    let skewed = gateway
        .sts
        .sign(Mandate::resource(ZONE, APPLICATION, RESOURCE, now() + 300).issuer(ISSUER));
    let foreign = Mandate::resource(ZONE, APPLICATION, RESOURCE, now())
        .issuer(ISSUER)
        .sign(&TestKeys::new());
    let sts = |name, status, description, label| row(name, status, "sts_unavailable", description, label);
    let internal = |name, status, description, label| row(name, status, "internal_error", description, label);
    let answer = "sts response invalid";
    let blocked = |name| internal(name, 502, "upstream not addressable", "upstream_not_addressable");
    let unbuildable = |name| internal(name, 400, "upstream request build failed", "request_build_failed");
    let rows: Vec<(Row, Grant)> = vec![
        (
            sts("no JSON", 502, answer, "sts_invalid"),
            raw(200, "text/html", "<html>"),
        ),
        (
            sts("no fields", 502, answer, "sts_invalid"),
            raw(200, "application/json", "{}"),
        ),
        (
            sts("a foreign token", 502, answer, "sts_invalid"),
            Grant::Token(foreign, mandate_upstream(url.clone())),
        ),
        (
            sts(
                "another clock",
                503,
                "clock skew between gateway and sts",
                "clock_skew",
            ),
            Grant::Token(skewed, mandate_upstream(url.clone())),
        ),
        (
            row(
                "a refusal",
                403,
                "access_denied",
                "policy denied (no_rule_matched)",
                "sts_refused",
            ),
            raw(
                403,
                "application/json",
                r#"{"error":"access_denied","error_description":"policy denied (no_rule_matched)"}"#,
            ),
        ),
        (
            sts("a refusal without words", 418, "I'm a teapot", "sts_refused"),
            raw(418, "text/plain", "short and stout"),
        ),
        (
            sts("no answer", 504, "sts timeout", "sts_timeout"),
            Grant::Silence,
        ),
        (
            row(
                "no upstream",
                403,
                "access_denied",
                "resource upstream not configured",
                "no_upstream",
            ),
            granted(mandate_upstream("")),
        ),
        (
            blocked("metadata of the cloud"),
            granted(mandate_upstream("http://169.254.169.254/")),
        ),
        (
            blocked("the same in IPv6"),
            granted(mandate_upstream("http://[::ffff:a9fe:a9fe]/")),
        ),
        (
            blocked("the same as a number"),
            granted(mandate_upstream("http://2852039166/")),
        ),
        (
            blocked("this host"),
            granted(mandate_upstream("http://0.0.0.0:1/")),
        ),
        (
            blocked("multicast"),
            granted(mandate_upstream("http://224.0.0.1/")),
        ),
        (blocked("a file"), granted(mandate_upstream("file:///etc/passwd"))),
        (
            blocked("user and password"),
            granted(mandate_upstream(url.replace("http://", "http://a:b@"))),
        ),
        (
            internal(
                "another host's credential",
                502,
                "provider credential not allowed for upstream host",
                "provider_host_not_allowed",
            ),
            granted(Upstream {
                allowed_token_hosts: vec!["api.example".into()],
                ..custody()
            }),
        ),
        (
            unbuildable("a reserved header"),
            granted(Upstream {
                auth_header: Some("Host".into()),
                ..custody()
            }),
        ),
        (
            unbuildable("no credential"),
            granted(Upstream {
                provider_token: None,
                ..custody()
            }),
        ),
        (
            internal(
                "nobody listens",
                502,
                "upstream unreachable",
                "upstream_unreachable",
            ),
            granted(mandate_upstream("http://127.0.0.1:1")),
        ),
    ];
    for (row, grant) in rows {
        gateway.sts.grant(grant);
        refused(&gateway, row, plain(&gateway.sts.mandate())).await;
    }

    gateway.lead_to(mandate_upstream(url.clone()));
    gateway.upstream.set(Behaviour::Held);
    let timeout = internal("no answer", 504, "upstream timeout", "upstream_timeout");
    let before = gateway.denials(timeout.label).await;
    timeout.check(&gateway.send(&plain(&gateway.sts.mandate())).await);
    assert_eq!(gateway.denials(timeout.label).await, before + 1);
    gateway.upstream.set(Behaviour::Echo);
    gateway.upstream.release();

    // Keys, then the exchange, of an STS that is gone; then it is left alone.
    gateway.to_sts.refuse();
    drop(gateway.upstream.take_requests());
    let elsewhere = one_shot().with(|claims| claims.zone_id = "zone-8".parse().unwrap());
    let unknown = sts("keys", 503, "sts unavailable", "keys_unavailable");
    refused(&gateway, unknown, plain(&gateway.sts.sign(elsewhere))).await;
    let gone = sts("gone", 502, "sts unavailable", "sts_unreachable");
    refused(&gateway, gone, plain(&gateway.sts.mandate())).await;
    let open = sts("left alone", 503, "sts unavailable", "sts_circuit_open");
    let answer = wait_for(SOON, async || {
        let answer = gateway.send(&plain(&gateway.sts.mandate())).await;
        (gateway.denials(open.label).await > 0).then_some(answer)
    })
    .await;
    open.check(&answer);
    assert!(gateway.upstream.take_requests().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_decided_or_recorded_is_refused_by_the_process_as_the_contract_says() {
    let gateway = Executable::start(&[("AUDIT_SPOOL_BYTES", "64KiB")]).await;
    let anchor = Anchor::from_parts(AnchorKind::Session, "session-7").unwrap();
    let revocation = SessionsRevoke::of(ZONE.parse().unwrap(), anchor, "test");
    let publisher = caracal_bus::Publisher::new(std::sync::Arc::clone(&gateway.bus), stream_keys());
    publisher
        .publish_signed(SESSIONS_REVOKE, vec![revocation.to_fields()])
        .await
        .unwrap();
    let below = || gateway.sts.sign(reusable().bound_to("session-7", "edge-7"));
    wait_until(SOON, async || {
        gateway.send(&plain(&below())).await.status() == 401
    })
    .await;
    drop(gateway.upstream.take_requests());
    refused(
        &gateway,
        invalid("revoked", "session revoked", "revoked"),
        plain(&below()),
    )
    .await;

    // A table of uses that has lost its memory decides nothing about mandates that are older than its loss.
    let old = gateway.sts.mandate();
    gateway.redis.empty().await;
    let undecided = row(
        "a young table",
        503,
        "sts_unavailable",
        "replay state unavailable",
        "replay_undecided",
    );
    let answer = wait_for(SOON, async || {
        let answer = gateway
            .send(&plain(&gateway.sts.sign(one_shot().issued(now() - 60, 900))))
            .await;
        (answer.status() != 200 && answer.json()["error_description"] == undecided.description)
            .then_some(answer)
    })
    .await;
    undecided.check(&answer);
    assert_ne!(gateway.send(&plain(&old)).await.status(), 200);

    // The ledger takes nothing, and the spool is full.
    gateway.redis.spoil(AUDIT_EVENTS).await;
    let unrecorded = row(
        "no room",
        503,
        "internal_error",
        "audit evidence cannot be recorded",
        "unrecorded",
    );
    refused_soon(&gateway, unrecorded).await;
    gateway.redis.mend(AUDIT_EVENTS).await;

    gateway.relay.silence();
    let stale = row(
        "silence",
        503,
        "sts_unavailable",
        "revocation state unavailable",
        "revocation_stale",
    );
    refused_soon(&gateway, stale).await;
}

/// Calls until a call is refused as `row` says; the upstream has not heard of that one.
async fn refused_soon(gateway: &Executable, row: Row) {
    let reusable = gateway.sts.sign(reusable());
    let answer = wait_for(3 * SOON, async || {
        drop(gateway.upstream.take_requests());
        let answer = gateway.send(&plain(&reusable)).await;
        (answer.status() != 200 && answer.json()["error_description"] == row.description).then_some(answer)
    })
    .await;
    row.check(&answer);
    assert!(gateway.denials(row.label).await > 0, "{} is counted", row.name);
    assert!(
        gateway.upstream.take_requests().is_empty(),
        "{} went upstream",
        row.name
    );
}
