//! Repeated requests.

use caracal_chassis::http_client::{Client, ClientLimits};
use caracal_testing::{Answer, Api};
use http::{HeaderMap, HeaderValue, Method};
use serde_json::{Value, json};

use crate::world::{World, mandate, refused};

const PATH: &str = "/zones/zone-1/agents";

async fn start(api: &Api, key: &str, more: &Value) -> Answer {
    let body = crate::world::merged(json!({"application_id": "app-a"}), more);
    api.clone()
        .with_header("idempotency-key", key)
        .post(PATH, &body)
        .await
}

#[track_caller]
fn is_replay(answer: &Answer) -> bool {
    answer
        .headers
        .get("idempotency-replayed")
        .is_some_and(|value| value == "true")
}

#[tokio::test]
async fn a_repeated_start_gives_the_first_answer_for_as_long_as_it_is_true() {
    let world = World::start().await;
    let app = world.app("app-a");
    let first = start(&app, "k1", &json!({})).await;
    first.expect(201);
    assert!(!is_replay(&first));
    // A retry may come with a fresh mandate, which rests on another record.
    let fresh = mandate("app-a")
        .anchored_in("record-app-a-2", "record-app-a-2")
        .sign(&world.keys);
    for api in [&app, &world.bearer(&fresh)] {
        let again = start(api, "k1", &json!({})).await;
        assert_eq!((again.expect(201), is_replay(&again)), (first.json(), true));
    }
    refused(
        &start(&app, "k1", &json!({"ttl_seconds": 5})).await,
        409,
        "idempotency_key_conflict",
    );
    let other = start(&app, "k2", &json!({})).await;
    assert_ne!(
        other.text_of("agent_session_id"),
        first.text_of("agent_session_id")
    );
    let path = format!("{PATH}/{}", first.text_of("agent_session_id"));
    app.delete(&path).await.expect(204);
    refused(
        &start(&app, "k1", &json!({})).await,
        409,
        "idempotency_result_inactive",
    );
    assert_eq!(world.column("SELECT id FROM sessions").await.len(), 2);
    let kept = world
        .column("SELECT encode(key_digest, 'escape') FROM coordinator_idempotency_receipts")
        .await;
    assert!(
        !kept.is_empty() && kept.iter().all(|digest| !digest.contains("k1")),
        "keys are not stored"
    );
}

#[tokio::test]
async fn an_expired_receipt_is_forgotten_and_a_refused_request_leaves_none() {
    let world = World::start().await;
    let app = world.app("app-a");
    refused(
        &start(&app, "k", &json!({"parent_id": "none"})).await,
        404,
        "parent_not_found",
    );
    let first = start(&app, "k", &json!({})).await;
    first.expect(201);
    let age = "UPDATE coordinator_idempotency_receipts SET created_at = now() - interval '2 days', expires_at = now() - interval '1 day' WHERE resource_id = $1";
    world.run(age, &first.text_of("agent_session_id")).await;
    let second = start(&app, "k", &json!({})).await;
    assert_ne!(
        second.expect(201)["agent_session_id"],
        first.json()["agent_session_id"]
    );
}

#[tokio::test]
async fn simultaneous_requests_with_one_key_start_one_session() {
    let world = World::start().await;
    let app = world.app("app-a");
    let starts = (0..6).map(|_| {
        let app = app.clone();
        tokio::spawn(async move { start(&app, "same", &json!({})).await })
    });
    let mut ids = std::collections::BTreeSet::new();
    for started in starts.collect::<Vec<_>>() {
        let answer = started.await.unwrap();
        answer.expect(201);
        ids.insert(answer.text_of("agent_session_id"));
    }
    assert_eq!(ids.len(), 1);
}

#[tokio::test]
async fn a_repeated_delegation_gives_the_first_answer_while_it_is_live() {
    let world = World::start().await;
    let (a, b) = (
        world.session("app-a", &json!({})).await,
        world.session("app-b", &json!({})).await,
    );
    let body = json!({
        "source_session_id": a, "issuer_application_id": "app-a", "target_session_id": b, "receiver_application_id": "app-b",
        "resource_id": "res-crm", "scopes": ["crm:read"], "ttl_seconds": 60,
    });
    let app = world.app("app-a").with_header("idempotency-key", "d1");
    let first = app.post("/zones/zone-1/delegations", &body).await;
    first.expect(201);
    let again = app.post("/zones/zone-1/delegations", &body).await;
    assert_eq!((again.expect(201), is_replay(&again)), (first.json(), true));
    let path = format!(
        "/zones/zone-1/delegations/{}/revoke",
        first.text_of("delegation_edge_id")
    );
    world.app("app-a").patch(&path, &json!({})).await.expect(200);
    refused(
        &app.post("/zones/zone-1/delegations", &body).await,
        409,
        "idempotency_result_inactive",
    );
}

#[tokio::test]
async fn a_key_that_is_no_key_is_refused() {
    let world = World::start().await;
    let app = world.app("app-a");
    for key in ["", "k\u{9}k", &"k".repeat(256)] {
        refused(
            &start(&app, key, &json!({})).await,
            400,
            "idempotency_key_invalid",
        );
    }
    start(&app, &"k".repeat(255), &json!({})).await.expect(201);
    let mut headers = HeaderMap::new();
    let bearer = format!("Bearer {}", mandate("app-a").sign(&world.keys));
    headers.insert("authorization", HeaderValue::try_from(bearer).unwrap());
    headers.append("idempotency-key", HeaderValue::from_static("one"));
    headers.append("idempotency-key", HeaderValue::from_static("two"));
    let url = format!("{}{PATH}", world.base_url);
    let client = Client::new(ClientLimits::default());
    let answer = client
        .request(Method::POST, &url, headers, r#"{"application_id":"app-a"}"#)
        .await
        .unwrap();
    assert_eq!(answer.status, 400);
    assert!(String::from_utf8_lossy(&answer.body).contains("idempotency_key_multiple"));
}
