//! May this application mint for this resource now?
//!
//! A governed request is counted once: at the direct mint of a one-shot mandate, or, for a reusable mandate, each time
//! the gateway presents it (`docs/contract/token-exchange.md`, section "Rate limits").

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use caracal_model::id::{ApplicationId, ResourceId, ZoneId};

/// How many buckets are remembered. A bucket exists per (zone, resource, application) that was used lately; all three
/// are rows of the configuration, so a stranger cannot create one.
const BUCKETS_MAX: u64 = 200_000;

type Key = (ZoneId, ResourceId, ApplicationId);

/// How many mints in how long a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    pub(crate) mints: u32,
    pub(crate) window_us: i64,
}

impl Rate {
    pub(crate) fn per_minute(mints: u32) -> Self {
        Self {
            mints,
            window_us: 60_000_000,
        }
    }

    pub(crate) fn per_seconds(mints: u32, seconds: u32) -> Self {
        Self {
            mints,
            window_us: i64::from(seconds.max(1)) * 1_000_000,
        }
    }
}

/// Local budgets per (zone, resource, application), by the generic cell rate algorithm: one timestamp per bucket, the
/// budget of a whole window may be spent at once, and it refills evenly.
#[derive(Debug)]
pub(crate) struct MintRate {
    /// The theoretical arrival time of the next request, in microseconds since the epoch.
    arrivals: moka::sync::Cache<Key, Arc<AtomicI64>>,
}

impl MintRate {
    pub(crate) fn new() -> Self {
        let arrivals = moka::sync::Cache::builder()
            .max_capacity(BUCKETS_MAX)
            .time_to_idle(std::time::Duration::from_hours(24))
            .build();
        Self { arrivals }
    }

    /// Counts one mint. `false` when the budget is spent. Cost: one map read and one compare-exchange.
    pub(crate) fn admit(&self, key: Key, rate: Rate, now_us: i64) -> bool {
        let step = rate.window_us / i64::from(rate.mints.max(1));
        let bucket = self.arrivals.get_with(key, || Arc::new(AtomicI64::new(0)));
        let mut seen = bucket.load(Ordering::Relaxed);
        loop {
            let next = seen.max(now_us).saturating_add(step);
            if next.saturating_sub(now_us) > rate.window_us {
                return false;
            }
            match bucket.compare_exchange_weak(seen, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(current) => seen = current,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(application: &str) -> Key {
        let application = ApplicationId::try_from(application).unwrap();
        (
            ZoneId::try_from("z1").unwrap(),
            ResourceId::try_from("r1").unwrap(),
            application,
        )
    }

    #[test]
    fn the_whole_budget_may_be_spent_at_once_and_not_more() {
        let rate = MintRate::new();
        let admitted = (0..1_100)
            .filter(|_| rate.admit(key("a"), Rate::per_minute(1_000), 1_000_000))
            .count();
        assert_eq!(admitted, 1_000);
    }

    #[test]
    fn the_budget_refills_evenly() {
        let rate = MintRate::new();
        while rate.admit(key("a"), Rate::per_minute(60), 0) {}
        assert!(
            !rate.admit(key("a"), Rate::per_minute(60), 999_999),
            "one per second, and the second is not over"
        );
        assert!(rate.admit(key("a"), Rate::per_minute(60), 1_000_000));
        assert!(!rate.admit(key("a"), Rate::per_minute(60), 1_000_000));
    }

    #[test]
    fn applications_do_not_share_a_budget() {
        let rate = MintRate::new();
        while rate.admit(key("a"), Rate::per_minute(5), 0) {}
        assert!(rate.admit(key("b"), Rate::per_minute(5), 0));
    }
}
