//! Up to which moment is what this replica knows complete?

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Furthest a proof may lie in the future of the local clock and still count as now. Beyond it one of the two clocks
/// is wrong, and age means nothing.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_mins(1);

const NEVER: i64 = i64::MIN;

/// The moment up to which every committed change is known here, shared between the reader of the streams and the
/// request path. Asking for its age is two atomic loads and a look at the monotonic clock
/// (docs/contract/event-bus.md, "Freshness").
#[derive(Clone, Debug)]
pub struct Freshness(Arc<Proof>);

#[derive(Debug)]
struct Proof {
    /// Unix microseconds by the prover's clock, or [`NEVER`].
    as_of_unix_us: AtomicI64,
    /// What `arrived_us` counts from.
    origin: Instant,
    /// When the proof was read, in microseconds of this machine's monotonic clock. Written after `as_of_unix_us` and
    /// never set back, so that a reader between the two takes a new proof for an older one.
    arrived_us: AtomicU64,
}

impl Default for Freshness {
    fn default() -> Self {
        Self::new()
    }
}

impl Freshness {
    /// Nothing proved yet.
    pub fn new() -> Self {
        Self(Arc::new(Proof {
            as_of_unix_us: AtomicI64::new(NEVER),
            origin: Instant::now(),
            arrived_us: AtomicU64::new(0),
        }))
    }

    /// Unix microseconds of the proved moment; `None` when nothing is proved. One atomic load.
    pub fn as_of_unix_us(&self) -> Option<i64> {
        let micros = self.0.as_of_unix_us.load(Ordering::Acquire);
        (micros != NEVER).then_some(micros)
    }

    /// The proved moment; `None` when nothing is proved.
    pub fn as_of(&self) -> Option<SystemTime> {
        let micros = u64::try_from(self.as_of_unix_us()?).ok()?;
        UNIX_EPOCH.checked_add(Duration::from_micros(micros))
    }

    /// How old the knowledge is at `now`; `None` when nothing is proved, or when the proof lies more than
    /// [`CLOCK_SKEW_MAX`] in the future. At least the time since the proof was read, so that a clock behind the
    /// prover's does not keep the knowledge young.
    pub fn age(&self, now: SystemTime) -> Option<Duration> {
        self.age_at(now, Instant::now())
    }

    fn age_at(&self, now: SystemTime, monotonic: Instant) -> Option<Duration> {
        let as_of = self.as_of()?;
        let since_read = self.since_read(monotonic);
        match now.duration_since(as_of) {
            Ok(age) => Some(age.max(since_read)),
            Err(ahead) if ahead.duration() <= CLOCK_SKEW_MAX => Some(since_read),
            Err(_far_ahead) => None,
        }
    }

    fn since_read(&self, monotonic: Instant) -> Duration {
        let arrived = Duration::from_micros(self.0.arrived_us.load(Ordering::Acquire));
        monotonic
            .saturating_duration_since(self.0.origin)
            .saturating_sub(arrived)
    }

    /// Whether the knowledge is at most `bound` old at `now`.
    pub fn is_fresh(&self, now: SystemTime, bound: Duration) -> bool {
        self.age(now).is_some_and(|age| age <= bound)
    }

    /// Records that everything committed before this moment is known, by a proof read now. An earlier moment than
    /// the recorded one changes nothing.
    pub fn advance(&self, as_of_unix_us: i64) {
        self.advance_since(as_of_unix_us, Instant::now());
    }

    /// As [`Freshness::advance`], by a proof that was read at `arrived`.
    pub fn advance_since(&self, as_of_unix_us: i64, arrived: Instant) {
        if self.0.as_of_unix_us.fetch_max(as_of_unix_us, Ordering::AcqRel) < as_of_unix_us {
            let since_origin = arrived.saturating_duration_since(self.0.origin);
            let arrived_us = u64::try_from(since_origin.as_micros()).unwrap_or(u64::MAX);
            self.0.arrived_us.fetch_max(arrived_us, Ordering::AcqRel);
        }
    }

    /// Records that nothing is known to be complete any more.
    pub fn forget(&self) {
        self.0.as_of_unix_us.store(NEVER, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn nothing_is_fresh_before_the_first_proof_and_after_a_loss() {
        let freshness = Freshness::new();
        assert!(!freshness.is_fresh(at(0), Duration::MAX));
        freshness.advance(100_000_000);
        assert!(freshness.is_fresh(at(100), Duration::from_secs(5)));
        freshness.forget();
        assert_eq!(freshness.as_of(), None);
        assert!(!freshness.is_fresh(at(100), Duration::MAX));
    }

    #[test]
    fn an_earlier_proof_does_not_make_knowledge_older() {
        let freshness = Freshness::new();
        freshness.advance(100_000_000);
        freshness.advance(90_000_000);
        assert_eq!(
            freshness.age_at(at(101), freshness.0.origin),
            Some(Duration::from_secs(1))
        );
        assert!(freshness.is_fresh(at(105), Duration::from_secs(5)));
        assert!(!freshness.is_fresh(at(106), Duration::from_secs(5)));
    }

    #[test]
    fn a_proof_from_the_far_future_proves_nothing() {
        let freshness = Freshness::new();
        freshness.advance(160_000_000);
        assert_eq!(
            freshness.age_at(at(100), freshness.0.origin),
            Some(Duration::ZERO),
            "a minute of skew is tolerated"
        );
        assert_eq!(freshness.age(at(99)), None);
        assert!(
            !freshness.is_fresh(at(99), Duration::MAX),
            "else a wrong clock would keep a replica fresh for ever"
        );
    }

    #[test]
    fn a_local_clock_that_is_behind_does_not_keep_knowledge_young() {
        let freshness = Freshness::new();
        let second = |n: u64| freshness.0.origin + Duration::from_secs(n);
        freshness.advance_since(150_000_000, second(0));
        assert_eq!(
            freshness.age_at(at(100), second(0)),
            Some(Duration::ZERO),
            "the local clock is 50 s behind"
        );
        assert_eq!(freshness.age_at(at(106), second(6)), Some(Duration::from_secs(6)));
        freshness.advance_since(150_000_000, second(6));
        assert_eq!(
            freshness.age_at(at(106), second(6)),
            Some(Duration::from_secs(6)),
            "the same proof again is no news"
        );
        freshness.advance_since(156_000_000, second(6));
        assert_eq!(freshness.age_at(at(106), second(6)), Some(Duration::ZERO));
    }

    #[test]
    fn a_monotonic_clock_that_stood_still_does_not_keep_knowledge_young() {
        let freshness = Freshness::new();
        freshness.advance_since(100_000_000, freshness.0.origin);
        assert_eq!(
            freshness.age_at(at(400), freshness.0.origin),
            Some(Duration::from_mins(5))
        );
    }
}
