//! The service around the routes: health, headers, limits, start and stop.

use std::time::Duration;

use caracal_testing::{FaultProxy, Role, TestDatabase, wait_until};
use serde_json::json;

use crate::harness::{BOOTSTRAP, Harness};

#[tokio::test]
async fn every_answer_of_the_api_has_the_headers_and_the_request_id() {
    let api = Harness::start().await;
    let authorization = format!("Bearer {BOOTSTRAP}");
    for path in ["/v1/zones", "/v1/zones/nothing", "/v1/nothing"] {
        let headers = [
            ("authorization", authorization.as_str()),
            ("x-request-id", "mine-1"),
        ];
        let answer = api.send("GET", path, &headers, b"").await;
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        assert_eq!(answer.headers["referrer-policy"], "no-referrer");
        assert_eq!(answer.headers["cache-control"], "no-store");
        assert_eq!(answer.headers["x-request-id"], "mine-1");
        if answer.status >= 400 {
            assert_eq!(answer.body["requestId"], "mine-1");
        }
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let api = Harness::start_with(&[("API_BODY_LIMIT_BYTES", "1024")]).await;
    let answer = api.post("/v1/zones", &json!({ "name": "x".repeat(2000) })).await;
    answer.refused(413, "payload_too_large");
}

#[tokio::test]
async fn readiness_follows_the_database_and_the_outbox() {
    let api = Harness::start().await;
    api.send("GET", "/health", &[], b"").await.expect(200);
    let ready = api.send("GET", "/ready", &[], b"").await.expect(200);
    assert_eq!(ready, json!({ "ok": true, "ready": true }));
    sqlx::query(
        "INSERT INTO event_outbox (id, stream_name, payload_json, dead) VALUES ('d', 'caracal.keys.invalidate', '{}', true)",
    )
    .execute(&api.pool)
    .await
    .unwrap();
    let ready = api.send("GET", "/ready", &[], b"").await;
    assert_eq!(
        (ready.status, ready.body["reason"].as_str()),
        (503, Some("outbox_dead_messages"))
    );
}

#[tokio::test]
async fn readiness_checks_are_limited_and_metrics_are_closed() {
    let api = Harness::start_with(&[("READY_RATE_LIMIT_PER_MIN", "1"), ("METRICS_BEARER", "reader")]).await;
    api.send("GET", "/ready", &[], b"").await.expect(200);
    assert_eq!(api.send("GET", "/ready", &[], b"").await.status, 429);
    assert_eq!(api.send("GET", "/metrics", &[], b"").await.status, 401);
    api.send("GET", "/v1/zones", &[], b"")
        .await
        .refused(401, "invalid_admin_token");
    let metrics = api
        .send("GET", "/metrics", &[("authorization", "Bearer reader")], b"")
        .await
        .expect(200);
    let text = metrics.as_str().unwrap();
    for name in [
        "caracal_control_requests_total",
        "caracal_control_refusals_total",
        "caracal_api_outbox_pending_total",
    ] {
        assert!(text.contains(name), "{name} is missing in:\n{text}");
    }
}

#[tokio::test]
async fn a_lost_database_is_answered_503_and_comes_back() {
    let database = TestDatabase::new().await;
    let pool = database.pool().await;
    let url = database.url_as(Role::Api);
    let proxy = FaultProxy::before(&url).await;
    let through = proxy.url_through(&url);
    let settings = [
        ("DATABASE_URL", through.as_str()),
        ("DB_CONNECTION_TIMEOUT_MS", "300"),
    ];
    let api = Harness::on(database, pool, &settings).await;
    api.get("/v1/zones").await.expect(200);
    proxy.refuse();
    proxy.cut();
    let answer = api.get("/v1/zones").await;
    answer.refused(503, "postgres_unreachable");
    assert!(answer.headers.contains_key("retry-after"));
    proxy.resume();
    wait_until(Duration::from_secs(20), async || {
        api.get("/v1/zones").await.status == 200
    })
    .await;
}

#[tokio::test]
async fn a_service_stops_when_asked() {
    let api = Harness::start().await;
    api.get("/v1/zones").await.expect(200);
    api.stop().await;
}
