//! Redis that is down, hangs, or comes back.

use std::sync::Arc;
use std::time::Duration;

use caracal_bus::{Bus, BusError, EntryId, RedisBus, RedisSettings};
use caracal_testing::{FaultProxy, TestRedis, wait_until};

use crate::both::{NOW, SOON, now_ms, numbered, numbers};
use crate::cursor::{follow, publish};

const HOUR: Duration = Duration::from_hours(1);

/// A bus whose connections can be broken, and which waits `timeout` for Redis.
async fn through_a_proxy(timeout: Duration) -> (TestRedis, FaultProxy, Arc<dyn Bus>) {
    let redis = TestRedis::new().await;
    let proxy = FaultProxy::before(redis.url()).await;
    let settings = RedisSettings {
        connect_timeout: timeout,
        response_timeout: timeout,
        ..RedisSettings::default()
    };
    let bus: Arc<dyn Bus> =
        Arc::new(RedisBus::connect_with(&proxy.url_through(redis.url()), settings).unwrap());
    wait_until(SOON, async || works(&bus).await.is_ok()).await;
    (redis, proxy, bus)
}

/// One command on each kind of connection.
async fn works(bus: &Arc<dyn Bus>) -> Result<(), BusError> {
    bus.ping().await?;
    bus.publish("s", &[numbered(0)]).await?;
    bus.read(&[("s", EntryId::ZERO)], 1, NOW).await.map(drop)
}

/// Every kind of command fails as it does when Redis is away.
async fn is_unavailable(bus: &Arc<dyn Bus>) {
    let claimed = bus.claim_once("key", "", now_ms() + 60_000).await.unwrap_err();
    let published = bus.publish("s", &[numbered(1)]).await.unwrap_err();
    let read = bus.read(&[("silent", EntryId::ZERO)], 1, NOW).await.unwrap_err();
    for error in [claimed, published, read] {
        assert!(error.is_unavailable(), "{error:?}");
    }
}

#[tokio::test]
async fn a_redis_that_is_down_is_a_prompt_error_for_every_caller_and_heals_by_itself() {
    let (_redis, proxy, bus) = through_a_proxy(HOUR).await;
    proxy.refuse();
    let callers = (0..100).map(|n| {
        let bus = Arc::clone(&bus);
        tokio::spawn(async move { bus.claim_once(&n.to_string(), "", now_ms() + 60_000).await })
    });
    let refusals = async {
        for caller in callers.collect::<Vec<_>>() {
            let error = caller.await.unwrap().unwrap_err();
            assert!(error.is_unavailable(), "{error:?}");
        }
        is_unavailable(&bus).await;
    };
    tokio::time::timeout(SOON, refusals).await.unwrap();
    proxy.resume();
    wait_until(SOON, async || works(&bus).await.is_ok()).await;
    assert!(
        bus.claim_once("after", "", now_ms() + 60_000)
            .await
            .unwrap()
            .is_first()
    );
}

#[tokio::test]
async fn a_redis_that_hangs_is_an_error_within_the_response_timeout() {
    let (_redis, proxy, bus) = through_a_proxy(Duration::from_millis(500)).await;
    proxy.pause();
    tokio::time::timeout(SOON, is_unavailable(&bus)).await.unwrap();
    proxy.resume();
    wait_until(SOON, async || works(&bus).await.is_ok()).await;
}

#[tokio::test]
async fn a_read_that_waits_does_not_delay_a_claim() {
    let (_redis, _proxy, bus) = through_a_proxy(HOUR).await;
    let readers: Vec<_> = (0..5)
        .map(|_| {
            let bus = Arc::clone(&bus);
            tokio::spawn(async move { bus.read(&[("silent", EntryId::ZERO)], 1, HOUR).await })
        })
        .collect();
    let claims = async {
        for n in 0..100 {
            assert!(
                bus.claim_once(&n.to_string(), "", now_ms() + 600_000)
                    .await
                    .unwrap()
                    .is_first()
            );
        }
    };
    tokio::time::timeout(SOON, claims).await.unwrap();
    assert!(
        readers.iter().all(|reader| !reader.is_finished()),
        "they are still waiting"
    );
    readers.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn a_cursor_survives_a_broken_connection_without_losing_anything() {
    let (redis, proxy, bus) = through_a_proxy(HOUR).await;
    let beside = RedisSettings {
        connect_timeout: HOUR,
        response_timeout: HOUR,
        ..RedisSettings::default()
    };
    let beside: Arc<dyn Bus> = Arc::new(RedisBus::connect_with(redis.url(), beside).unwrap());
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
