//! First use.

use std::sync::Arc;

use caracal_bus::{Bus, BusError, Claim, MemoryBus, MemorySettings, RedisBus};
use caracal_testing::{TestRedis, wait_until};

use crate::both::{SOON, now_ms, on_both};

on_both!(
    exactly_one_of_a_hundred_claims_is_the_first,
    a_claim_lasts_until_its_expiry_and_no_longer,
    a_claim_that_cannot_be_remembered_is_an_error,
    a_claim_given_back_is_there_for_the_next_and_lasts_as_long_as_that_one_asks,
    nobody_gives_back_the_claim_of_another,
);

async fn nobody_gives_back_the_claim_of_another(bus: Arc<dyn Bus>) {
    let claim = async |value: &str| {
        let until = now_ms() + 60_000;
        bus.claim_once("theirs", value, until).await.unwrap().is_first()
    };
    assert!(claim("first").await);
    assert!(!claim("second").await);
    for other in ["second", "", "firs"] {
        bus.give_back("theirs", other).await.unwrap();
        assert!(!claim("second").await, "given back by {other:?}");
    }
    bus.give_back("theirs", "first").await.unwrap();
    assert!(claim("second").await);
    bus.give_back("theirs", "first").await.unwrap();
    assert!(!claim("third").await, "what came late gave back another claim");
}

async fn a_claim_given_back_is_there_for_the_next_and_lasts_as_long_as_that_one_asks(bus: Arc<dyn Bus>) {
    let claim = async |until: i64| bus.claim_once("back", "", until).await.unwrap().is_first();
    assert!(bus.claim_once("first words", "", now_ms() + 60_000).await.is_ok());
    let (soon, later) = (now_ms() + 5_000, now_ms() + 120_000);
    assert!(claim(soon).await);
    bus.give_back("back", "").await.unwrap();
    assert!(claim(later).await && !claim(later).await);
    wait_until(SOON, async || now_ms() > soon + 100).await;
    assert!(!claim(later).await, "the first claim's end is not this one's");
    bus.give_back("never claimed", "").await.unwrap();
}

async fn exactly_one_of_a_hundred_claims_is_the_first(bus: Arc<dyn Bus>) {
    let expires = now_ms() + 60_000;
    let claims = (0..100).map(|n| {
        let bus = Arc::clone(&bus);
        tokio::spawn(async move {
            bus.claim_once("seen:jti:1", &n.to_string(), expires)
                .await
                .unwrap()
                .is_first()
        })
    });
    let mut first = 0;
    for claim in claims.collect::<Vec<_>>() {
        first += usize::from(claim.await.unwrap());
    }
    assert_eq!(first, 1);
    assert!(
        bus.claim_once("seen:jti:2", "", expires)
            .await
            .unwrap()
            .is_first(),
        "another key is another claim"
    );
}

async fn a_claim_lasts_until_its_expiry_and_no_longer(bus: Arc<dyn Bus>) {
    let expires = now_ms() + 1_500;
    assert!(bus.claim_once("key", "", expires).await.unwrap().is_first());
    wait_until(SOON, async || {
        let first_again = bus
            .claim_once("key", "", now_ms() + 60_000)
            .await
            .unwrap()
            .is_first();
        assert_eq!(
            first_again,
            first_again && now_ms() >= expires,
            "not before the expiry"
        );
        first_again
    })
    .await;
    assert!(
        !bus.claim_once("key", "", now_ms() + 60_000)
            .await
            .unwrap()
            .is_first()
    );
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
        bus.claim_once("key", "", now_ms() + 60_000)
            .await
            .unwrap()
            .is_first(),
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
        assert!(
            bus.claim_once(&key.to_string(), "", expires)
                .await
                .unwrap()
                .is_first()
        );
    }
    assert!(matches!(
        bus.claim_once("one more", "", expires).await,
        Err(BusError::Full)
    ));
    assert!(!bus.claim_once("3", "", expires).await.unwrap().is_first());
}

#[tokio::test]
async fn a_redis_that_lost_its_memory_says_since_when_it_remembers() {
    let redis = TestRedis::new().await;
    let bus = RedisBus::connect(redis.url()).unwrap();
    let before = bus.remembers_since().await.unwrap();
    let expires = now_ms() + 60_000;
    let first = Claim::First {
        remembers_since_unix_ms: before,
    };
    assert_eq!(bus.claim_once("key", "", expires).await.unwrap(), first);
    let other = RedisBus::connect(redis.url()).unwrap();
    assert_eq!(
        other.remembers_since().await.unwrap(),
        before,
        "memory begins once, whoever asks"
    );

    wait_until(SOON, async || now_ms() > before + 5).await;
    redis.empty().await;
    assert!(matches!(
        bus.claim_once("key", "", expires).await,
        Err(BusError::Forgotten)
    ));
    let after = bus.remembers_since().await.unwrap();
    assert!(after > before);
    assert_eq!(
        bus.claim_once("key 2", "", expires).await.unwrap(),
        Claim::First {
            remembers_since_unix_ms: after
        }
    );

    // Another life of the server: the note is there, and was written by somebody else.
    let mut connection = redis.connection().await;
    let _replaced: i64 = redis::cmd("HSET")
        .arg("caracal:claims")
        .arg("run_id")
        .arg("of another server")
        .query_async(&mut connection)
        .await
        .unwrap();
    wait_until(SOON, async || now_ms() > after + 5).await;
    let later = RedisBus::connect(redis.url()).unwrap();
    assert!(later.remembers_since().await.unwrap() > after);
    assert_eq!(
        later.claim_once("key 2", "", expires).await.unwrap(),
        Claim::Repeated,
        "what is remembered stays remembered"
    );
}
