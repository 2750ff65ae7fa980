//! One suite, two implementations.

use std::sync::Arc;
use std::time::Duration;

use caracal_bus::{
    Bus, HmacKey, MemoryBus, MemorySettings, RedisBus, RedisSettings, StoreClock, StreamKeys, StreamLengths,
};
use caracal_testing::TestRedis;
use caracal_wire::stream::Fields;

/// Long enough for a busy machine; nothing waits this long unless it fails.
pub(crate) const SOON: Duration = Duration::from_mins(1);
/// Not waiting.
pub(crate) const NOW: Duration = Duration::ZERO;

/// Runs each named promise, `async fn(Arc<dyn Bus>)`, on Redis and in process. A second list is run on buses that
/// keep 100 entries of every stream.
macro_rules! on_both {
    ($($promise:ident),* $(,)? $(; short: $($short:ident),* $(,)?)?) => {
        mod on_redis {
            $(#[tokio::test] async fn $promise() {
                let (_redis, bus) = crate::both::redis(caracal_bus::StreamLengths::default()).await;
                super::$promise(bus).await;
            })*
            $($(#[tokio::test] async fn $short() {
                let (_redis, bus) = crate::both::redis(caracal_bus::StreamLengths::new(100)).await;
                super::$short(bus).await;
            })*)?
        }
        mod in_process {
            $(#[tokio::test] async fn $promise() {
                super::$promise(crate::both::memory(caracal_bus::StreamLengths::default())).await;
            })*
            $($(#[tokio::test] async fn $short() {
                super::$short(crate::both::memory(caracal_bus::StreamLengths::new(100))).await;
            })*)?
        }
    };
}
pub(crate) use on_both;

pub(crate) async fn redis(lengths: StreamLengths) -> (TestRedis, Arc<dyn Bus>) {
    let redis = TestRedis::new().await;
    // A busy machine is not what these tests are about.
    let settings = RedisSettings {
        connect_timeout: SOON,
        response_timeout: SOON,
        lengths,
    };
    let bus = RedisBus::connect_with(redis.url(), settings).unwrap();
    (redis, Arc::new(bus))
}

pub(crate) fn memory(lengths: StreamLengths) -> Arc<dyn Bus> {
    Arc::new(MemoryBus::with(MemorySettings {
        lengths,
        ..MemorySettings::default()
    }))
}

/// Unix milliseconds.
pub(crate) fn now_ms() -> i64 {
    StoreClock::system().unix_ms()
}

pub(crate) fn keys() -> StreamKeys {
    StreamKeys::single(key(1))
}

pub(crate) fn key(byte: u8) -> HmacKey {
    HmacKey::new([byte; 32])
}

/// A message with one field `n`.
pub(crate) fn numbered(n: usize) -> Fields {
    Fields::from([("n".to_owned(), n.to_string())])
}

pub(crate) fn numbers(range: std::ops::Range<usize>) -> Vec<Fields> {
    range.map(numbered).collect()
}

/// The field `n`.
pub(crate) fn number(fields: &Fields) -> usize {
    fields["n"].parse().unwrap()
}
