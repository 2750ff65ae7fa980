//! How often may one client ask?
//!
//! Token buckets in the memory of this process. A bucket holds one minute's allowance and refills evenly. With several
//! replicas each grants its own allowance: the limits protect a process, they are no quota.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use caracal_chassis::Clock;
use moka::sync::Cache;

/// Buckets kept; the least used ones make room, which only ever grants more.
const BUCKETS_MAX: u64 = 100_000;
/// A bucket unused for this long is full again, so it need not be kept.
const FORGET_AFTER: Duration = Duration::from_mins(2);
const MINUTE_MS: u64 = 60_000;

/// One limit, counted apart for each key.
#[derive(Debug)]
pub(crate) struct RateLimit {
    per_minute: u64,
    buckets: Cache<String, Arc<Mutex<Bucket>>>,
    clock: Clock,
}

/// Its level is counted in request-minutes-milliseconds, so that refilling needs no fractions.
#[derive(Debug)]
struct Bucket {
    level: u64,
    refilled_at_ms: u64,
}

impl RateLimit {
    /// `per_minute` requests for each key; 0 allows everything.
    pub(crate) fn new(per_minute: u64, clock: Clock) -> Self {
        let buckets = Cache::builder()
            .max_capacity(BUCKETS_MAX)
            .time_to_idle(FORGET_AFTER)
            .build();
        Self {
            per_minute,
            buckets,
            clock,
        }
    }

    /// Takes one request from the allowance of `key`; false when none is left.
    pub(crate) fn take(&self, key: &str) -> bool {
        if self.per_minute == 0 {
            return true;
        }
        let now_ms = u64::try_from(self.clock.unix_millis()).unwrap_or_default();
        let full = self.per_minute * MINUTE_MS;
        let bucket = self.buckets.get_with_by_ref(key, || {
            Arc::new(Mutex::new(Bucket {
                level: full,
                refilled_at_ms: now_ms,
            }))
        });
        let mut bucket = bucket.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed_ms = now_ms.saturating_sub(bucket.refilled_at_ms);
        bucket.level = full.min(
            bucket
                .level
                .saturating_add(elapsed_ms.saturating_mul(self.per_minute)),
        );
        bucket.refilled_at_ms = now_ms;
        match bucket.level.checked_sub(MINUTE_MS) {
            Some(left) => {
                bucket.level = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minutes_allowance_may_be_used_at_once_and_comes_back_evenly() {
        let clock = Clock::manual(1_000);
        let limit = RateLimit::new(6, clock.clone());
        assert!((0..6).all(|_| limit.take("a")));
        assert!(!limit.take("a"));
        clock.advance(Duration::from_secs(9));
        assert!(!limit.take("a"));
        clock.advance(Duration::from_secs(1));
        assert!(limit.take("a"), "a sixth of a minute brings one request back");
        assert!(!limit.take("a"));
    }

    #[test]
    fn keys_are_counted_apart() {
        let limit = RateLimit::new(1, Clock::manual(1_000));
        assert!(limit.take("a"));
        assert!(!limit.take("a"));
        assert!(limit.take("b"));
    }

    #[test]
    fn zero_disables_the_limit() {
        let limit = RateLimit::new(0, Clock::manual(1_000));
        assert!((0..1000).all(|_| limit.take("a")));
    }
}
