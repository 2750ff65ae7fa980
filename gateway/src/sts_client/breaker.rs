//! Is this STS worth asking? Left alone after repeated failures, then tried with one request.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row that open the breaker.
const FAILURES_MAX: u32 = 3;
/// How long it stays open.
const OPEN_FOR: Duration = Duration::from_secs(10);

/// The breaker of one STS address.
#[derive(Debug)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Clone, Copy, Debug)]
enum State {
    /// Asked freely; so many failures in a row so far.
    Closed { failures: u32 },
    /// Not asked until then.
    Open { until: Instant },
    /// One request is out to see.
    Probing,
}

/// Leave to ask. Says how it went, or, dropped without a word, leaves the question open for the next one.
#[derive(Debug)]
pub(super) struct Pass<'b> {
    breaker: &'b Breaker,
    is_probe: bool,
    reported: bool,
}

impl Default for Breaker {
    fn default() -> Self {
        Self(Mutex::new(State::Closed { failures: 0 }))
    }
}

impl Breaker {
    /// Asks for leave. One lock, held for a comparison.
    pub(super) fn pass(&self) -> Option<Pass<'_>> {
        let mut state = self.lock();
        let is_probe = match *state {
            State::Closed { .. } => false,
            State::Open { until } if Instant::now() >= until => true,
            State::Open { .. } | State::Probing => return None,
        };
        if is_probe {
            *state = State::Probing;
        }
        Some(Pass {
            breaker: self,
            is_probe,
            reported: false,
        })
    }

    /// Whether requests are refused without asking.
    pub(super) fn is_open(&self) -> bool {
        matches!(*self.lock(), State::Open { .. } | State::Probing)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass<'_> {
    /// The STS did its work.
    pub(super) fn succeeded(mut self) {
        self.reported = true;
        *self.breaker.lock() = State::Closed { failures: 0 };
    }

    /// The STS failed. True when this opened the breaker.
    pub(super) fn failed(mut self) -> bool {
        self.reported = true;
        let mut state = self.breaker.lock();
        let failures = match *state {
            State::Closed { failures } => failures.saturating_add(1),
            State::Probing if self.is_probe => FAILURES_MAX,
            State::Open { .. } | State::Probing => return false,
        };
        let opens = failures >= FAILURES_MAX;
        *state = if opens {
            State::Open {
                until: Instant::now() + OPEN_FOR,
            }
        } else {
            State::Closed { failures }
        };
        opens
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.is_probe && !self.reported {
            *self.breaker.lock() = State::Open {
                until: Instant::now(),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> Breaker {
        let breaker = Breaker::default();
        for _failure in 0..FAILURES_MAX {
            breaker.pass().unwrap().failed();
        }
        breaker
    }

    #[tokio::test(start_paused = true)]
    async fn three_failures_in_a_row_open_it_and_a_success_between_them_does_not() {
        let breaker = Breaker::default();
        assert!(!breaker.pass().unwrap().failed());
        assert!(!breaker.pass().unwrap().failed());
        breaker.pass().unwrap().succeeded();
        assert!(!breaker.pass().unwrap().failed());
        assert!(!breaker.pass().unwrap().failed());
        assert!(
            breaker.pass().unwrap().failed(),
            "the third failure in a row opens it"
        );
        assert!(breaker.pass().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_pause_one_request_tries() {
        let breaker = open();
        tokio::time::advance(OPEN_FOR).await;
        let probe = breaker.pass().unwrap();
        assert!(breaker.pass().is_none(), "one probe at a time");
        probe.succeeded();
        assert!(breaker.pass().is_some());
        assert!(!breaker.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_probe_opens_it_again_and_an_abandoned_one_leaves_the_question_open() {
        let breaker = open();
        tokio::time::advance(OPEN_FOR).await;
        drop(breaker.pass().unwrap());
        let probe = breaker.pass().expect("the next request may try");
        assert!(probe.failed());
        assert!(breaker.pass().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_failure_does_not_prolong_the_pause() {
        let breaker = Breaker::default();
        let late = breaker.pass().unwrap();
        for _failure in 0..FAILURES_MAX {
            breaker.pass().unwrap().failed();
        }
        tokio::time::advance(OPEN_FOR / 2).await;
        assert!(!late.failed());
        tokio::time::advance(OPEN_FOR / 2).await;
        assert!(breaker.pass().is_some());
    }
}
