//! What is answered while a store or the token service is away.

use bytes::Bytes;
use caracal_testing::{Behaviour, FaultProxy, Role, TestDatabase};
use http::StatusCode;
use serde_json::json;

use crate::world::{World, mandate, refused};

#[tokio::test]
async fn without_the_database_requests_are_refused_for_now_and_work_again_later() {
    let database = TestDatabase::new().await;
    let url = database.url_as(Role::Coordinator);
    let proxy = FaultProxy::before(&url).await;
    let world = World::start_on(database, &proxy.url_through(&url), &[]).await;
    world.session("app-a", &json!({})).await;
    proxy.refuse();
    let answer = world.try_session("app-a", &json!({})).await;
    refused(&answer, 503, "service_unavailable");
    assert!(answer.headers.contains_key("retry-after"));
    assert_eq!(world.api(None).get("/ready").await.status, 503);
    proxy.resume();
    world.session("app-a", &json!({})).await;
    assert_eq!(world.column("SELECT id FROM sessions").await.len(), 2);
}

#[tokio::test]
async fn without_the_token_service_known_keys_serve_on_and_unknown_ones_are_not_trusted() {
    let world = World::start().await;
    world
        .sts
        .set(Behaviour::Status(StatusCode::BAD_GATEWAY, Bytes::new()));
    refused(
        &world.try_session("app-a", &json!({})).await,
        503,
        "service_unavailable",
    );
    world.sts.set(Behaviour::Status(
        StatusCode::OK,
        Bytes::from(world.keys.jwks_bytes()),
    ));
    world.session("app-a", &json!({})).await;
    world
        .sts
        .set(Behaviour::Status(StatusCode::BAD_GATEWAY, Bytes::new()));
    let stranger = caracal_testing::TestKeys::new();
    let forged = world.bearer(&mandate("app-a").sign(&stranger));
    refused(
        &forged.post("/zones/zone-1/agents", &json!({})).await,
        401,
        "invalid_token",
    );
    world.session("app-a", &json!({})).await;
}
