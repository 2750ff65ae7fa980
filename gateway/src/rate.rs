//! May one more of something happen now? Budgets that refill evenly.

use tokio::time::Instant;

/// Longest wait that is told.
const WAIT_S_MAX: f64 = 3_600.0;

/// So many at once, then so many a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate {
    pub(crate) burst: f64,
    pub(crate) per_s: f64,
}

impl Rate {
    /// So many times as much.
    pub(crate) fn times(self, factor: f64) -> Self {
        Self {
            burst: self.burst * factor,
            per_s: self.per_s * factor,
        }
    }
}

/// What is left of a [`Rate`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    /// Nothing is taken yet.
    pub(crate) fn full(rate: Rate, now: Instant) -> Self {
        Self {
            left: rate.burst,
            at: now,
        }
    }

    /// Adds what was earned since, and tells whether there is one to take.
    pub(crate) fn earn(&mut self, rate: Rate, now: Instant) -> bool {
        let earned = now.duration_since(self.at).as_secs_f64() * rate.per_s;
        self.left = (self.left + earned).min(rate.burst);
        self.at = now;
        self.left >= 1.0
    }

    /// Takes one that [`Bucket::earn`] found.
    pub(crate) fn take(&mut self) {
        self.left -= 1.0;
    }

    /// Whole seconds until there is one to take, at least 1 and at most an hour.
    pub(crate) fn wait_s(&self, rate: Rate) -> u32 {
        let seconds = ((1.0 - self.left) / rate.per_s).ceil().clamp(1.0, WAIT_S_MAX);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "within 1..=3600, see above"
        )]
        let seconds = seconds as u32;
        seconds
    }

    /// Whether it would be full by `now`, so that forgetting it changes nothing.
    pub(crate) fn is_full(&self, rate: Rate, now: Instant) -> bool {
        self.left + now.duration_since(self.at).as_secs_f64() * rate.per_s >= rate.burst
    }
}
