//! The whole life of a zone's signing keys, through the service, by a clock that is only moved.

use std::time::Duration;

use caracal_chassis::Clock;
use caracal_model::{KeyId, UnixSeconds, ZoneId};
use caracal_token::UnverifiedToken;

use super::ring::{GRACE_SECONDS, KeyState};
use super::rotation::{Urgency, WAIT_SECONDS, rotate};
use crate::rig::Rig;

const DAY: Duration = Duration::from_hours(24);
const WAIT: Duration = Duration::from_secs(WAIT_SECONDS.unsigned_abs());

struct Life {
    rig: Rig,
    zone: ZoneId,
}

impl Life {
    async fn begin() -> Self {
        let now = Clock::system().unix_seconds();
        let rig = Rig::at(Clock::manual(now)).await;
        let life = Self {
            rig,
            zone: ZoneId::try_from("z1").unwrap(),
        };
        // The first mandate makes the first key.
        life.signer().await;
        life
    }

    fn pass(&self, time: Duration) {
        self.rig.sts.clock.advance(time);
        self.rig.prove_fresh();
    }

    async fn mandate(&self) -> String {
        self.rig.direct(&[("scope", "crm:read")]).await.access_token
    }

    /// The key that signs.
    async fn signer(&self) -> String {
        let mandate = self.mandate().await;
        UnverifiedToken::parse(&mandate)
            .unwrap()
            .unverified_kid()
            .to_owned()
    }

    async fn rotate(&self, urgency: Urgency) -> (KeyId, bool) {
        let rotation = rotate(&self.rig.sts, &self.zone, urgency, "req-1").await.unwrap();
        (rotation.kid, rotation.is_new)
    }

    async fn states(&self) -> Vec<KeyState> {
        let zone = self.rig.sts.zones.model(&self.zone).await.unwrap();
        let now = UnixSeconds(self.rig.sts.clock.unix_seconds());
        zone.keys.views(now).into_iter().map(|view| view.state).collect()
    }

    async fn published(&self) -> usize {
        let zone = self.rig.sts.zones.model(&self.zone).await.unwrap();
        let now = UnixSeconds(self.rig.sts.clock.unix_seconds());
        zone.keys.published(now).unwrap().keys.len()
    }
}

#[tokio::test]
async fn a_planned_key_is_published_before_it_signs_and_the_old_one_outlives_its_tokens() {
    use KeyState::{Retired, Signing, Verifying, Waiting};
    let life = Life::begin().await;
    let first = life.signer().await;
    let (second, _) = life.rotate(Urgency::Planned).await;
    assert_eq!(life.states().await, [Waiting, Signing]);
    assert_eq!(life.published().await, 2, "published before it signs");

    life.pass(WAIT.checked_sub(Duration::from_secs(1)).unwrap());
    assert_eq!(life.signer().await, first, "ten minutes and one have not passed");
    let last_of_first = life.mandate().await;
    life.pass(Duration::from_secs(1));
    assert_eq!(
        life.signer().await,
        second.as_str(),
        "by the clock alone, without a reload"
    );
    assert_eq!(life.states().await, [Signing, Verifying]);
    life.rig.at_gateway(&last_of_first).await;

    life.pass(DAY);
    assert_eq!(GRACE_SECONDS.unsigned_abs(), DAY.as_secs());
    assert_eq!(life.states().await, [Signing, Retired]);
    assert_eq!(life.published().await, 1);
}

#[tokio::test]
async fn a_planned_rotation_while_a_key_waits_is_the_same_rotation() {
    let life = Life::begin().await;
    let (waiting, is_new) = life.rotate(Urgency::Planned).await;
    assert!(is_new);
    assert_eq!(life.rotate(Urgency::Planned).await, (waiting.clone(), false));
    life.pass(WAIT);
    let (next, is_new) = life.rotate(Urgency::Planned).await;
    assert!(is_new && next != waiting);
}

#[tokio::test]
async fn an_emergency_signs_at_once_and_what_was_signed_still_counts() {
    let life = Life::begin().await;
    let before = life.mandate().await;
    life.rotate(Urgency::Planned).await;
    let (urgent, _) = life.rotate(Urgency::Emergency).await;
    assert_eq!(life.signer().await, urgent.as_str());
    life.rig.at_gateway(&before).await;
    life.pass(WAIT);
    assert_eq!(
        life.signer().await,
        urgent.as_str(),
        "the key that waited was overtaken"
    );
}

#[tokio::test]
async fn a_compromise_ends_everything_signed_before() {
    let life = Life::begin().await;
    let before = life.mandate().await;
    life.rig.at_gateway(&before).await;
    let (fresh, _) = life.rotate(Urgency::Compromise).await;
    assert_eq!(life.states().await, [KeyState::Signing, KeyState::Withdrawn]);
    let refused = life.rig.try_at_gateway(&before).await;
    assert_eq!(refused.as_u16(), 401, "known by digest, and refused all the same");
    assert_eq!(life.signer().await, fresh.as_str());
}

#[tokio::test]
async fn a_zone_does_not_collect_keys_without_end() {
    let life = Life::begin().await;
    let mut made = 0;
    while rotate(&life.rig.sts, &life.zone, Urgency::Emergency, "req-1")
        .await
        .is_ok()
    {
        made += 1;
        assert!(made < 100, "there is no end");
    }
    assert_eq!(made, 23);
    life.rotate(Urgency::Compromise).await;
    assert_eq!(
        life.published().await,
        1,
        "a compromise is always possible, and makes room"
    );
}
