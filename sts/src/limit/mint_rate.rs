//! May this application mint for this resource now?
//!
//! A governed request is counted once: at the direct mint of a one-shot mandate, or, for a reusable mandate, each time
//! the gateway presents it (`docs/contract/token-exchange.md`, section "Rate limits").

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use caracal_model::id::{ApplicationId, ResourceId, ZoneId};

pub(crate) mod sharing;

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

/// Budgets per (zone, resource, application), by the generic cell rate algorithm: one timestamp per bucket, the budget
/// of a whole window may be spent at once, and it refills evenly. Decided in memory; [`sharing`] tells the other replicas
/// what was counted here and counts what they tell.
#[derive(Debug)]
pub(crate) struct MintRate {
    buckets: moka::sync::Cache<Key, Arc<Bucket>>,
    /// The buckets with something the other replicas were not told yet.
    untold: Mutex<Vec<(Key, Arc<Bucket>)>>,
}

/// All in microseconds.
#[derive(Debug, Default)]
struct Bucket {
    /// The theoretical arrival time of the next request, since the epoch.
    arrival: AtomicI64,
    /// How much of the window was spent here since the other replicas were told.
    untold: AtomicI64,
    window: AtomicI64,
}

/// The budget is spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spent {
    /// When the next mint is admitted, in seconds from now, at least 1.
    pub(crate) retry_after_s: u32,
}

impl MintRate {
    pub(crate) fn new() -> Self {
        let buckets = moka::sync::Cache::builder()
            .max_capacity(BUCKETS_MAX)
            .time_to_idle(std::time::Duration::from_hours(24))
            .build();
        Self {
            buckets,
            untold: Mutex::default(),
        }
    }

    /// Counts one mint. Cost: one map read and one compare-exchange.
    ///
    /// # Errors
    /// [`Spent`]: not counted, and not to be minted.
    pub(crate) fn admit(&self, key: Key, rate: Rate, now_us: i64) -> Result<(), Spent> {
        let step = rate.window_us / i64::from(rate.mints.max(1));
        let bucket = self.buckets.get_with_by_ref(&key, Arc::default);
        let mut seen = bucket.arrival.load(Ordering::Relaxed);
        loop {
            let next = seen.max(now_us).saturating_add(step);
            let excess = next.saturating_sub(now_us).saturating_sub(rate.window_us);
            if excess > 0 {
                let seconds = excess.saturating_add(999_999) / 1_000_000;
                return Err(Spent {
                    retry_after_s: u32::try_from(seconds).unwrap_or(u32::MAX),
                });
            }
            match bucket
                .arrival
                .compare_exchange_weak(seen, next, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => break,
                Err(current) => seen = current,
            }
        }
        bucket.window.store(rate.window_us, Ordering::Relaxed);
        if bucket.untold.fetch_add(step, Ordering::AcqRel) == 0 {
            self.untold().push((key, bucket));
        }
        Ok(())
    }

    fn untold(&self) -> MutexGuard<'_, Vec<(Key, Arc<Bucket>)>> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bucket {
    /// Moves the arrival time to what `next` makes of it. At most one window ahead: nobody owes more than his budget.
    fn advance(&self, now_us: i64, window_us: i64, next: impl Fn(i64) -> i64) {
        let most = now_us.saturating_add(window_us);
        let _always_some = self
            .arrival
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |seen| {
                Some(next(seen.max(now_us)).min(most).max(seen))
            });
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
            .filter(|_| rate.admit(key("a"), Rate::per_minute(1_000), 1_000_000).is_ok())
            .count();
        assert_eq!(admitted, 1_000);
    }

    #[test]
    fn the_budget_refills_evenly() {
        let rate = MintRate::new();
        while rate.admit(key("a"), Rate::per_minute(60), 0).is_ok() {}
        let spent = Err(Spent { retry_after_s: 1 });
        assert_eq!(
            rate.admit(key("a"), Rate::per_minute(60), 999_999),
            spent,
            "one per second, and the second is not over"
        );
        assert_eq!(rate.admit(key("a"), Rate::per_minute(60), 1_000_000), Ok(()));
        assert_eq!(rate.admit(key("a"), Rate::per_minute(60), 1_000_000), spent);
    }

    #[test]
    fn applications_do_not_share_a_budget() {
        let rate = MintRate::new();
        while rate.admit(key("a"), Rate::per_minute(5), 0).is_ok() {}
        assert_eq!(rate.admit(key("b"), Rate::per_minute(5), 0), Ok(()));
    }

    #[test]
    fn the_wait_is_until_the_next_mint_is_earned() {
        let rate = MintRate::new();
        while rate.admit(key("a"), Rate::per_minute(5), 0).is_ok() {}
        assert_eq!(
            rate.admit(key("a"), Rate::per_minute(5), 1_500_000),
            Err(Spent { retry_after_s: 11 })
        );
    }
}
