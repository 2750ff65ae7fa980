//! Redis that is down, hangs, or comes back.

use std::sync::Arc;
use std::time::Duration;

use caracal_bus::{Bus, BusError, EntryId, RedisBus, RedisSettings};
use caracal_testing::{FaultProxy, TestRedis, wait_until};
use tokio::time::Instant;

use crate::both::{NOW, SOON, now_ms, numbered, numbers};
use crate::cursor::{follow, publish};

async fn through_a_proxy() -> (TestRedis, FaultProxy, Arc<dyn Bus>) {
    let redis = TestRedis::new().await;
    let proxy = FaultProxy::before(redis.url()).await;
    let settings = RedisSettings {
        connect_timeout: Duration::from_millis(500),
        response_timeout: Duration::from_millis(500),
        ..RedisSettings::default()
    };
    let bus = RedisBus::connect_with(&proxy.url_through(redis.url()), settings).unwrap();
    (redis, proxy, Arc::new(bus))
}

#[tokio::test]
async fn a_redis_that_is_down_is_a_prompt_error_for_every_caller_and_heals_by_itself() {
    let (_redis, proxy, bus) = through_a_proxy().await;
    bus.ping().await.unwrap();
    proxy.refuse();
    let started = Instant::now();
    let callers = (0..100).map(|n| {
        let bus = Arc::clone(&bus);
        tokio::spawn(async move { bus.claim_once(&n.to_string(), "", now_ms() + 60_000).await })
    });
    for caller in callers.collect::<Vec<_>>() {
        let error = caller.await.unwrap().unwrap_err();
        assert!(error.is_unavailable(), "{error:?}");
    }
    assert!(
        bus.publish("s", &[numbered(0)])
            .await
            .unwrap_err()
            .is_unavailable()
    );
    assert!(
        bus.read(&[("s", EntryId::ZERO)], 1, SOON)
            .await
            .unwrap_err()
            .is_unavailable()
    );
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
    proxy.resume();
    wait_until(SOON, async || {
        bus.claim_once("after", "", now_ms() + 60_000).await.is_ok()
    })
    .await;
    wait_until(SOON, async || bus.publish("s", &[numbered(0)]).await.is_ok()).await;
    wait_until(SOON, async || {
        bus.read(&[("s", EntryId::ZERO)], 1, NOW).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_hangs_is_an_error_within_the_response_timeout() {
    let (_redis, proxy, bus) = through_a_proxy().await;
    bus.ping().await.unwrap();
    bus.publish("s", &[numbered(0)]).await.unwrap();
    bus.read(&[("s", EntryId::ZERO)], 1, NOW).await.unwrap();
    proxy.pause();
    let started = Instant::now();
    assert!(
        bus.claim_once("key", "", now_ms() + 60_000)
            .await
            .unwrap_err()
            .is_unavailable()
    );
    assert!(
        bus.publish("s", &[numbered(1)])
            .await
            .unwrap_err()
            .is_unavailable()
    );
    assert!(
        bus.read(&[("s", EntryId::ZERO)], 1, NOW)
            .await
            .unwrap_err()
            .is_unavailable()
    );
    assert!(
        started.elapsed() < Duration::from_secs(4),
        "{:?}",
        started.elapsed()
    );
    proxy.resume();
    wait_until(SOON, async || bus.ping().await.is_ok()).await;
}

#[tokio::test]
async fn a_read_that_waits_does_not_delay_a_claim() {
    let (_redis, _proxy, bus) = through_a_proxy().await;
    let readers: Vec<_> = (0..5)
        .map(|_| {
            let bus = Arc::clone(&bus);
            tokio::spawn(async move { bus.read(&[("silent", EntryId::ZERO)], 1, SOON).await })
        })
        .collect();
    let started = Instant::now();
    for n in 0..100 {
        assert!(
            bus.claim_once(&n.to_string(), "", now_ms() + 60_000)
                .await
                .unwrap()
        );
    }
    assert!(started.elapsed() < SOON / 4, "{:?}", started.elapsed());
    assert!(
        readers.iter().all(|reader| !reader.is_finished()),
        "they are still waiting"
    );
    readers.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_cursor_survives_a_broken_connection_without_losing_anything() {
    let (redis, proxy, bus) = through_a_proxy().await;
    let beside: Arc<dyn Bus> = Arc::new(RedisBus::connect(redis.url()).unwrap());
    let running = follow(&bus, &["s"]).await;
    publish(&beside, "s", numbers(0..5)).await;
    running.saw(&[0, 1, 2, 3, 4]).await;
    proxy.refuse();
    publish(&beside, "s", numbers(5..10)).await;
    proxy.resume();
    running.saw(&(0..10).collect::<Vec<_>>()).await;
    proxy.cut();
    publish(&beside, "s", numbers(10..11)).await;
    running.saw(&(0..11).collect::<Vec<_>>()).await;
    assert_eq!(running.losses(), 0, "the same Redis with everything in it");
    running.stop().await;
}

#[tokio::test]
async fn a_bus_may_be_made_before_its_redis_is_there() {
    let port = caracal_testing::free_port();
    let bus = RedisBus::connect(&format!("redis://127.0.0.1:{port}/0")).unwrap();
    assert!(bus.ping().await.unwrap_err().is_unavailable());
}

#[test]
fn an_address_that_cannot_be_used_is_refused_without_repeating_its_password() {
    for url in [
        "",
        "localhost:6379",
        "http://user:hunter2@localhost",
        "redis://user:hunter2@localhost:port",
    ] {
        let error = RedisBus::connect(url).unwrap_err();
        assert!(matches!(error, BusError::Address(_)), "{url}");
        let shown = format!("{error:?} {error}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    let bus = RedisBus::connect("redis://user:hunter2@localhost:6379/3").unwrap();
    assert!(!format!("{bus:?}").contains("hunter2"));
}
