//! How long to wait before the next try, and when to say that something is down.

use std::error::Error;
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);

/// Doubling pauses. Says once that something fails and once that it works again.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    failures: u64,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self {
            next: FIRST,
            failures: 0,
        }
    }

    /// The pause before the next try.
    pub(crate) fn failed(&mut self, what: &str, error: &(dyn Error + 'static)) -> Duration {
        if self.failures == 0 {
            tracing::warn!(error = error, "{what} fails; trying again until it works");
        }
        self.failures += 1;
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST);
        pause
    }

    pub(crate) fn succeeded(&mut self, what: &str) {
        if self.failures > 0 {
            tracing::info!(failures = self.failures, "{what} works again");
        }
        *self = Self::new();
    }
}
