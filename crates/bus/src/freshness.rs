//! Up to which moment is what this replica knows complete?

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Furthest a proof may lie in the future of the local clock and still count as now. Beyond it one of the two clocks
/// is wrong, and age means nothing.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_mins(1);

const NEVER: i64 = i64::MIN;

/// The moment up to which every committed change is known here, shared between the reader of the streams and the
/// request path. Reading it is one atomic load (docs/contract/event-bus.md, "Freshness").
#[derive(Clone, Debug)]
pub struct Freshness(Arc<AtomicI64>);

impl Default for Freshness {
    fn default() -> Self {
        Self::new()
    }
}

impl Freshness {
    /// Nothing proved yet.
    pub fn new() -> Self {
        Self(Arc::new(AtomicI64::new(NEVER)))
    }

    /// Unix microseconds of the proved moment; `None` when nothing is proved. One atomic load.
    pub fn as_of_unix_us(&self) -> Option<i64> {
        let micros = self.0.load(Ordering::Acquire);
        (micros != NEVER).then_some(micros)
    }

    /// The proved moment; `None` when nothing is proved.
    pub fn as_of(&self) -> Option<SystemTime> {
        let micros = u64::try_from(self.as_of_unix_us()?).ok()?;
        UNIX_EPOCH.checked_add(Duration::from_micros(micros))
    }

    /// How old the knowledge is at `now`; `None` when nothing is proved, or when the proof lies more than
    /// [`CLOCK_SKEW_MAX`] in the future.
    pub fn age(&self, now: SystemTime) -> Option<Duration> {
        let as_of = self.as_of()?;
        match now.duration_since(as_of) {
            Ok(age) => Some(age),
            Err(ahead) if ahead.duration() <= CLOCK_SKEW_MAX => Some(Duration::ZERO),
            Err(_far_ahead) => None,
        }
    }

    /// Whether the knowledge is at most `bound` old at `now`.
    pub fn is_fresh(&self, now: SystemTime, bound: Duration) -> bool {
        self.age(now).is_some_and(|age| age <= bound)
    }

    /// Records that everything committed before this moment is known. An earlier moment than the recorded one
    /// changes nothing.
    pub fn advance(&self, as_of_unix_us: i64) {
        self.0.fetch_max(as_of_unix_us, Ordering::AcqRel);
    }

    /// Records that nothing is known to be complete any more.
    pub fn forget(&self) {
        self.0.store(NEVER, Ordering::Release);
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
        assert!(freshness.is_fresh(at(100), Duration::ZERO));
        freshness.forget();
        assert_eq!(freshness.as_of(), None);
        assert!(!freshness.is_fresh(at(100), Duration::MAX));
    }

    #[test]
    fn an_earlier_proof_does_not_make_knowledge_older() {
        let freshness = Freshness::new();
        freshness.advance(100_000_000);
        freshness.advance(90_000_000);
        assert_eq!(freshness.age(at(101)), Some(Duration::from_secs(1)));
        assert!(freshness.is_fresh(at(105), Duration::from_secs(5)));
        assert!(!freshness.is_fresh(at(106), Duration::from_secs(5)));
    }

    #[test]
    fn a_proof_from_the_far_future_proves_nothing() {
        let freshness = Freshness::new();
        freshness.advance(160_000_000);
        assert_eq!(
            freshness.age(at(100)),
            Some(Duration::ZERO),
            "a minute of skew is tolerated"
        );
        assert_eq!(freshness.age(at(99)), None);
        assert!(
            !freshness.is_fresh(at(99), Duration::MAX),
            "else a wrong clock would keep a replica fresh for ever"
        );
    }
}
