//! What time is it? The only place of the workspace that asks the operating system.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where the present time comes from. Cheap to clone; every clone of a manual clock shows the same time.
///
/// Reading the system clock costs one vDSO call (about 25 ns), so it may be read on the request path.
#[derive(Clone, Debug)]
pub struct Clock(Time);

#[derive(Clone, Debug)]
enum Time {
    System,
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// The operating system's clock.
    pub fn system() -> Self {
        Self(Time::System)
    }

    /// A clock that stands still at `unix_seconds` until a test moves it.
    pub fn manual(unix_seconds: i64) -> Self {
        Self(Time::Manual(Arc::new(AtomicI64::new(
            unix_seconds.saturating_mul(1_000_000),
        ))))
    }

    /// The present time.
    pub fn now(&self) -> SystemTime {
        let micros = self.unix_micros();
        let distance = Duration::from_micros(micros.unsigned_abs());
        if micros < 0 {
            UNIX_EPOCH - distance
        } else {
            UNIX_EPOCH + distance
        }
    }

    /// Whole seconds since 1970-01-01T00:00:00Z, rounded down: the unit of `iat` and `exp` (RFC 7519 section 2).
    pub fn unix_seconds(&self) -> i64 {
        self.unix_micros().div_euclid(1_000_000)
    }

    /// Whole milliseconds since 1970-01-01T00:00:00Z, rounded down.
    pub fn unix_millis(&self) -> i64 {
        self.unix_micros().div_euclid(1_000)
    }

    /// Whole microseconds since 1970-01-01T00:00:00Z: the precision of PostgreSQL's `timestamptz`.
    pub fn unix_micros(&self) -> i64 {
        match &self.0 {
            Time::System => system_micros(),
            Time::Manual(micros) => micros.load(Ordering::SeqCst),
        }
    }

    /// Moves a manual clock forward. The system clock cannot be moved: there the call does nothing in a release
    /// build and fails a debug build.
    pub fn advance(&self, by: Duration) {
        let by = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        match &self.0 {
            Time::System => debug_assert!(false, "only a manual clock can be moved"),
            Time::Manual(micros) => {
                micros.fetch_add(by, Ordering::SeqCst);
            }
        }
    }

    /// Sets a manual clock, forward or back. See [`Clock::advance`] for the system clock.
    pub fn set_unix_seconds(&self, unix_seconds: i64) {
        match &self.0 {
            Time::System => debug_assert!(false, "only a manual clock can be set"),
            Time::Manual(micros) => micros.store(unix_seconds.saturating_mul(1_000_000), Ordering::SeqCst),
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

/// A machine whose clock is before 1970 reads as 1970: every token is then "not yet valid", which refuses.
fn system_micros() -> i64 {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one clock everything else is given"
    )]
    let now = SystemTime::now();
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_clone_of_a_manual_clock_shows_the_same_time() {
        let clock = Clock::manual(1_700_000_000);
        let other = clock.clone();
        clock.advance(Duration::from_millis(1_500));
        assert_eq!(other.unix_seconds(), 1_700_000_001);
        assert_eq!(other.unix_millis(), 1_700_000_001_500);
        assert_eq!(other.now(), UNIX_EPOCH + Duration::from_millis(1_700_000_001_500));
        other.set_unix_seconds(10);
        assert_eq!(clock.unix_micros(), 10_000_000);
    }

    #[test]
    fn seconds_before_the_epoch_are_rounded_down() {
        let clock = Clock::manual(-2);
        clock.advance(Duration::from_millis(1));
        assert_eq!(clock.unix_seconds(), -2);
        assert_eq!(clock.now(), UNIX_EPOCH - Duration::from_millis(1_999));
    }

    #[test]
    fn the_system_clock_is_after_the_day_this_was_written() {
        assert!(Clock::system().unix_seconds() > 1_700_000_000);
    }
}
