//! First use.

use std::sync::Arc;

use caracal_bus::{Bus, BusError, MemoryBus, MemorySettings};
use caracal_testing::wait_until;

use crate::both::{SOON, now_ms, on_both};

on_both!(
    exactly_one_of_a_hundred_claims_is_the_first,
    a_claim_lasts_until_its_expiry_and_no_longer,
    a_claim_that_cannot_be_remembered_is_an_error,
);

async fn exactly_one_of_a_hundred_claims_is_the_first(bus: Arc<dyn Bus>) {
    let expires = now_ms() + 60_000;
    let claims = (0..100).map(|n| {
        let bus = Arc::clone(&bus);
        tokio::spawn(async move {
            bus.claim_once("seen:jti:1", &n.to_string(), expires)
                .await
                .unwrap()
        })
    });
    let mut first = 0;
    for claim in claims.collect::<Vec<_>>() {
        first += usize::from(claim.await.unwrap());
    }
    assert_eq!(first, 1);
    assert!(
        bus.claim_once("seen:jti:2", "", expires).await.unwrap(),
        "another key is another claim"
    );
}

async fn a_claim_lasts_until_its_expiry_and_no_longer(bus: Arc<dyn Bus>) {
    let expires = now_ms() + 1_500;
    assert!(bus.claim_once("key", "", expires).await.unwrap());
    wait_until(SOON, async || {
        let first_again = bus.claim_once("key", "", now_ms() + 60_000).await.unwrap();
        assert_eq!(
            first_again,
            first_again && now_ms() >= expires,
            "not before the expiry"
        );
        first_again
    })
    .await;
    assert!(!bus.claim_once("key", "", now_ms() + 60_000).await.unwrap());
}

async fn a_claim_that_cannot_be_remembered_is_an_error(bus: Arc<dyn Bus>) {
    for expires in [now_ms() - 60_000, 1, 0, -1, i64::MIN] {
        let answer = bus.claim_once("key", "", expires).await;
        assert!(
            matches!(answer, Err(BusError::NotRemembered)),
            "{expires}: {answer:?}"
        );
    }
    assert!(
        bus.claim_once("key", "", now_ms() + 60_000).await.unwrap(),
        "it was not claimed by the failures"
    );
}

#[tokio::test]
async fn a_full_table_in_process_refuses_new_claims_and_still_knows_the_old_ones() {
    let bus = MemoryBus::with(MemorySettings {
        claims_max: 10,
        ..MemorySettings::default()
    });
    let expires = now_ms() + 60_000;
    for key in 0..10 {
        assert!(bus.claim_once(&key.to_string(), "", expires).await.unwrap());
    }
    assert!(matches!(
        bus.claim_once("one more", "", expires).await,
        Err(BusError::Full)
    ));
    assert!(!bus.claim_once("3", "", expires).await.unwrap());
}
