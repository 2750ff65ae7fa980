//! Endpoints between services and for administrators.

use caracal_chassis::Clock;
use caracal_testing::{FaultProxy, Role, TestDatabase};
use http::{HeaderMap, Method, StatusCode};
use serde_json::{Value, json};

use super::Stack;
use crate::seed;
use crate::stack::{Answer, header_map, nonce, signature};

const SIMULATE: &str = "/internal/policy/simulate";
const STATUS: &str = "/internal/policy/status/z1";
const REVOCATIONS: &str = "/internal/gateway/revocations";
const OPERATIONS: &str = "/internal/gateway/operations?zone_id=z1";
const DOCUMENT: &str = "/internal/gateway/documents/acme";
const DOCUMENT_LEASE: &str = "/internal/gateway/documents/acme/lease";
const ROTATE: &str = "/internal/zones/z1/signing-key/rotate";

type Signed = [(&'static str, String); 3];

async fn send(stack: &Stack, method: &Method, path: &str, signed: &Signed, body: &str) -> Answer {
    let headers: Vec<(&str, &str)> = signed
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    stack.send(method.clone(), path, header_map(&headers), body).await
}

fn sign(at: i64, method: &Method, path: &str, body: &str) -> Signed {
    signature(at, &nonce(), method.as_str(), path, body)
}

fn simulation(members: &Value) -> String {
    let mut document = json!({
        "policy_set_id": "ps-9", "version_id": "psv-9", "manifest_sha256": "ab",
        "policies": [{"id": "pv-9", "content": seed::POLICY}],
    });
    document
        .as_object_mut()
        .unwrap()
        .extend(members.as_object().unwrap().clone());
    document.to_string()
}

#[tokio::test]
async fn only_a_fresh_signature_over_the_request_opens_what_is_between_services() {
    let stack = Stack::start().await;
    let now = Clock::system().unix_seconds();
    let refused = (401, "access_denied", "invalid gateway signature");
    let body = simulation(&json!({}));
    for (method, path, body) in [
        (Method::POST, SIMULATE, body.as_str()),
        (Method::GET, STATUS, ""),
        (Method::GET, REVOCATIONS, ""),
        (Method::GET, OPERATIONS, ""),
        (Method::GET, DOCUMENT, ""),
        (Method::POST, DOCUMENT_LEASE, "holder=gw-1&seconds=60"),
        (Method::POST, DOCUMENT, "document=YQ&holder=gw-1&version=0"),
    ] {
        let wrong = [
            ("old", sign(now - 61, &method, path, body)),
            ("for another path", sign(now, &method, "/internal/other", body)),
            ("for another query", sign(now, &method, &format!("{path}0"), body)),
            ("for another method", sign(now, &Method::PUT, path, body)),
            ("for another body", sign(now, &method, path, "other")),
        ];
        for (what, signed) in wrong {
            let answer = send(&stack, &method, path, &signed, body).await;
            assert_eq!(answer.refusal(), refused, "{path} {what}");
        }
        let once = sign(now, &method, path, body);
        assert_eq!(
            send(&stack, &method, path, &once, body).await.status,
            200,
            "{path}"
        );
        let again = send(&stack, &method, path, &once, body).await;
        assert_eq!(again.refusal(), refused, "{path} again");
    }
}

#[tokio::test]
async fn a_simulation_that_cannot_be_says_what_is_wrong() {
    let stack = Stack::start().await;
    let now = Clock::system().unix_seconds();
    let ask = async |body: &str| {
        let signed = sign(now, &Method::POST, SIMULATE, body);
        send(&stack, &Method::POST, SIMULATE, &signed, body).await
    };
    for body in ["{", "[]", "{\"policies\": 1}"] {
        let expected = (400, "invalid_token", "malformed request body");
        assert_eq!(ask(body).await.refusal(), expected, "{body}");
    }
    let expected = (400, "invalid_token", "at least one policy is required");
    assert_eq!(ask("{\"policies\": []}").await.refusal(), expected);
    let too_large = simulation(&json!({"x": "x".repeat(70_000)}));
    let expected = (413, "payload_too_large", "request body too large");
    assert_eq!(ask(&too_large).await.refusal(), expected);
    for (version, status) in [(json!(""), 200), (json!("2020-01-01"), 422)] {
        let input = json!({
            "schema_version": version,
            "principal": {"type": "Application", "id": "app-1", "zone_id": "z1", "labels": []},
            "resource": {"type": "Resource", "identifier": "resource://crm"},
            "action": {"id": "TokenExchange"},
            "context": {"requested_scopes": ["crm:read"]},
        });
        let answer = ask(&simulation(&json!({ "input": input }))).await;
        assert_eq!(answer.status, status, "{}", answer.body);
    }
}

#[tokio::test]
async fn strangers_get_plain_words_at_the_administrators_endpoints() {
    let stack = Stack::start_with(&[("STS_ADMIN_TOKEN", "admin")]).await;
    let answer = stack.send(Method::POST, ROTATE, HeaderMap::new(), "").await;
    assert_eq!(
        (answer.status, answer.bytes.as_ref()),
        (StatusCode::UNAUTHORIZED, b"unauthorized\n".as_slice())
    );
    let closed = Stack::start().await;
    let bearer = header_map(&[("authorization", "Bearer admin")]);
    let answer = closed.send(Method::POST, ROTATE, bearer, "").await;
    assert_eq!(
        (answer.status, answer.bytes.as_ref()),
        (StatusCode::NOT_FOUND, b"not found\n".as_slice())
    );
}

#[tokio::test]
async fn keys_are_not_made_without_end_but_a_compromise_is_always_answered() {
    let stack = Stack::start_with(&[("STS_ADMIN_TOKEN", "admin")]).await;
    stack.delegated(&[]).await.token();
    stack
        .sql(
            "INSERT INTO secrets (id, zone_id, entity_id, name, type, envelope)
             SELECT 'k-' || number, zone_id, entity_id, name, type, envelope FROM secrets, generate_series(1, 24) number",
        )
        .await;
    let rotate = async |urgency: &str| {
        let bearer = header_map(&[("authorization", "Bearer admin")]);
        stack
            .send(Method::POST, &format!("{ROTATE}?urgency={urgency}"), bearer, "")
            .await
    };
    let expected = (
        409,
        "operation_not_permitted",
        "too many signing keys of the zone may still verify",
    );
    assert_eq!(rotate("emergency").await.refusal(), expected);
    let rotated = rotate("compromise").await;
    assert_eq!(rotated.status, 200, "{}", rotated.body);
    let event = &stack
        .events(|event| event["event_type"] == "signing_key_rotated")
        .await[0];
    assert_eq!(
        (&event["decision"], &event["evaluation_status"]),
        (&json!("allow"), &json!("complete"))
    );
    let metadata = &event["metadata_json"];
    assert_eq!(metadata["urgency"], "compromise");
    assert_eq!(metadata["withdrawn_key_ids"].as_array().unwrap().len(), 25);
}

#[tokio::test]
async fn without_the_database_administrators_and_gateways_are_told_so() {
    let database = TestDatabase::new().await;
    let direct = database.url_as(Role::Sts);
    let proxy = FaultProxy::before(&direct).await;
    let settings = [
        ("DB_CONNECT_TIMEOUT", "500ms"),
        ("REVOCATION_FRESHNESS", "60s"),
        ("STS_ADMIN_TOKEN", "admin"),
    ];
    let stack = Stack::start_on(database, &proxy.url_through(&direct), &settings).await;
    stack
        .mint(&[("resource", "resource://crm"), ("scope", "agent:lifecycle")])
        .await
        .token();
    proxy.refuse();
    let signed = sign(Clock::system().unix_seconds(), &Method::GET, REVOCATIONS, "");
    let answer = send(&stack, &Method::GET, REVOCATIONS, &signed, "").await;
    let expected = (503, "sts_unavailable", "revocation state unavailable");
    assert_eq!(answer.refusal(), expected);
    let signed = sign(Clock::system().unix_seconds(), &Method::GET, DOCUMENT, "");
    let answer = send(&stack, &Method::GET, DOCUMENT, &signed, "").await;
    let expected = (503, "sts_unavailable", "documents of gateways unavailable");
    assert_eq!(answer.refusal(), expected);
    let bearer = header_map(&[("authorization", "Bearer admin")]);
    let answer = stack.send(Method::POST, ROTATE, bearer, "").await;
    assert_eq!(answer.refusal(), (500, "internal_error", "rotation failed"));
    let ready = stack.get("/ready").await;
    assert_eq!(
        (ready.status, ready.body),
        (
            StatusCode::SERVICE_UNAVAILABLE,
            json!({"ok": false, "ready": false, "reason": "postgres_unreachable"})
        )
    );
}
