//! A zone changes its signing key.

use caracal_bus::EntryId;
use caracal_testing::wait_until;
use caracal_wire::stream;
use http::{HeaderMap, Method, StatusCode};
use serde_json::{Value, json};

use crate::stack::{Answer, SOON, Stack, header_map};

const ROTATE: &str = "/internal/zones/z1/signing-key/rotate";
const KEYS: &str = "/internal/zones/z1/signing-keys";

async fn started() -> Stack {
    Stack::start_with(&[("STS_ADMIN_TOKEN", "admin")]).await
}

async fn ask(stack: &Stack, method: Method, path: &str) -> Answer {
    let bearer = header_map(&[("authorization", "Bearer admin")]);
    stack.send(method, path, bearer, "").await
}

async fn rotate(stack: &Stack, urgency: &str) -> Value {
    let answer = ask(stack, Method::POST, &format!("{ROTATE}?urgency={urgency}")).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    answer.body
}

async fn states(stack: &Stack) -> Vec<String> {
    let answer = ask(stack, Method::GET, KEYS).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    let keys = answer.body["keys"].as_array().unwrap();
    keys.iter()
        .map(|key| key["state"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_rotation_without_hurry_publishes_the_next_key_and_keeps_signing_with_the_old() {
    let stack = started().await;
    let old = stack.one_shot("resource://crm", "crm:read").await;
    let answer = ask(&stack, Method::POST, ROTATE).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    let rotated = answer.body;
    assert_eq!(
        (&rotated["rotated"], &rotated["zone_id"]),
        (&json!(true), &json!("z1"))
    );
    assert_eq!(states(&stack).await, ["waiting", "signing"]);
    let keys = stack.get("/.well-known/jwks.json?zone_id=z1").await;
    assert_eq!(keys.body["keys"].as_array().unwrap().len(), 2);
    assert_eq!(keys.body["keys"][0]["kid"], rotated["kid"], "newest first");
    let header = |token: &str| token.split('.').next().unwrap().to_owned();
    let new = stack.one_shot("resource://crm", "crm:read").await;
    assert_eq!(header(&new), header(&old), "the new key does not sign yet");
    let again = ask(&stack, Method::POST, ROTATE).await.body;
    assert_eq!(
        (&again["rotated"], &again["kid"]),
        (&json!(false), &rotated["kid"])
    );
}

#[tokio::test]
async fn an_urgent_rotation_signs_at_once_and_is_on_record() {
    let stack = started().await;
    let old = stack.one_shot("resource://crm", "crm:read").await;
    let rotated = rotate(&stack, "emergency").await;
    assert_eq!(states(&stack).await, ["signing", "verifying"]);
    let new = stack.one_shot("resource://crm", "crm:read").await;
    for mandate in [old, new] {
        let answer = stack.at_gateway(&mandate, "resource://crm", &[]).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    }
    let events = stack
        .events(|event| event["event_type"] == "signing_key_rotated")
        .await;
    let event = &events[0];
    assert_eq!(
        (&event["decision"], &event["zone_id"]),
        (&json!("allow"), &json!("z1"))
    );
    assert_eq!(event["metadata_json"]["key_id"], rotated["kid"]);
    assert_eq!(event["metadata_json"]["urgency"], "emergency");
}

#[tokio::test]
async fn a_withdrawn_key_verifies_nothing_and_gateways_are_told() {
    let stack = started().await;
    let old = stack.one_shot("resource://crm", "crm:read").await;
    let rotated = rotate(&stack, "compromise").await;
    assert_eq!(rotated["withdrawn"].as_array().unwrap().len(), 1);
    assert_eq!(
        stack.at_gateway(&old, "resource://crm", &[]).await.refusal(),
        (401, "invalid_token", "invalid subject_token")
    );
    let keys = stack.get("/.well-known/jwks.json?zone_id=z1").await;
    assert_eq!(keys.body["keys"].as_array().unwrap().len(), 1);
    wait_until(SOON, async || {
        let read = stack
            .bus
            .read(
                &[(stream::KEYS_INVALIDATE, EntryId::ZERO)],
                10,
                std::time::Duration::ZERO,
            )
            .await
            .unwrap();
        let mut entries = read.iter().flat_map(|(_, entries)| entries);
        entries.any(|entry| entry.fields.get("zone_id").is_some_and(|zone| zone == "z1"))
    })
    .await;
}

#[tokio::test]
async fn a_key_made_elsewhere_is_taken_up_as_soon_as_it_is_announced() {
    let stack = started().await;
    stack.one_shot("resource://crm", "crm:read").await;
    stack
        .sql(
            "INSERT INTO secrets (id, zone_id, entity_id, name, type, envelope, signs_from)
             SELECT 'k-other', zone_id, entity_id, name, type, envelope, now() + interval '11 minutes' FROM secrets",
        )
        .await;
    wait_until(SOON, async || states(&stack).await == ["waiting", "signing"]).await;
}

#[tokio::test]
async fn only_an_administrator_rotates_and_only_what_exists() {
    let stack = started().await;
    for (method, path) in [(Method::POST, ROTATE), (Method::GET, KEYS)] {
        for bearer in ["Bearer wrong", "Basic admin", "Bearer ", "Bearer admin2"] {
            let headers = header_map(&[("authorization", bearer)]);
            let answer = stack.send(method.clone(), path, headers, "").await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{bearer}");
            assert_eq!(answer.headers["www-authenticate"], "Bearer realm=\"caracal-sts\"");
        }
        let answer = stack.send(method.clone(), path, HeaderMap::new(), "").await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        for zone in ["z-unknown", "no%20id"] {
            let answer = ask(&stack, method.clone(), &path.replace("z1", zone)).await;
            assert_eq!(
                answer.refusal(),
                (404, "resource_not_found", "zone not found"),
                "{zone}"
            );
        }
    }
    for query in [
        "urgency=",
        "urgency=now",
        "emergency=true",
        "urgency=planned&urgency=planned",
    ] {
        let answer = ask(&stack, Method::POST, &format!("{ROTATE}?{query}")).await;
        assert_eq!(
            answer.refusal(),
            (
                400,
                "invalid_token",
                "urgency must be planned, emergency or compromise"
            ),
            "{query}"
        );
    }
}

#[tokio::test]
async fn rotation_does_not_exist_without_an_administrators_token() {
    let stack = Stack::start().await;
    for (method, path) in [(Method::POST, ROTATE), (Method::GET, KEYS)] {
        assert_eq!(ask(&stack, method, path).await.status, StatusCode::NOT_FOUND);
    }
}
