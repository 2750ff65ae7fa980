//! A signing key that was withdrawn is not believed here any longer than its announcement takes.

use std::time::Duration;

use bytes::Bytes;
use caracal_testing::{Behaviour, TestKeys, wait_until};
use caracal_wire::event::KeysInvalidate;
use caracal_wire::stream::KEYS_INVALIDATE;
use http::StatusCode;
use serde_json::json;

use crate::world::{World, ZONE};

/// Shorter than a key is believed without an announcement.
const DEADLINE: Duration = Duration::from_secs(20);

impl World {
    async fn announce_new_keys(&self) {
        let message = KeysInvalidate {
            zone_id: ZONE.try_into().unwrap(),
        };
        self.bus
            .publish(KEYS_INVALIDATE, &[message.to_fields()])
            .await
            .unwrap();
    }

    /// Looks at `session` as its application until the answer is `status`. Looking uses nothing up, however often it takes.
    async fn waits_for(&self, session: &str, status: u16) {
        let path = format!("/zones/{ZONE}/agents/{session}");
        wait_until(DEADLINE, async || {
            self.app("app-a").get(&path).await.status == status
        })
        .await;
    }
}

#[tokio::test]
async fn an_announced_withdrawal_ends_what_the_key_signed() {
    let world = World::start().await;
    let session = world.session("app-a", &json!({})).await;
    let others = TestKeys::new();
    let published = Bytes::from(others.jwks_bytes());
    world.sts.set(Behaviour::Status(StatusCode::OK, published));
    world.announce_new_keys().await;
    world.waits_for(&session, 401).await;
}

#[tokio::test]
async fn after_an_announcement_known_keys_are_not_believed_while_the_token_service_is_silent() {
    let world = World::start().await;
    let session = world.session("app-a", &json!({})).await;
    world
        .sts
        .set(Behaviour::Status(StatusCode::BAD_GATEWAY, Bytes::new()));
    world.session("app-a", &json!({})).await;
    world.announce_new_keys().await;
    world.waits_for(&session, 503).await;
    let published = Bytes::from(world.keys.jwks_bytes());
    world.sts.set(Behaviour::Status(StatusCode::OK, published));
    world.waits_for(&session, 200).await;
}
