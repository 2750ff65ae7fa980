//! Is a provider worth asking? After five failures in five minutes it is left alone for half a minute.
//!
//! Each replica counts for itself: of `n` replicas, a provider that is down is asked up to `5 n` times before all leave
//! it alone.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

const FAILURES_MAX: usize = 5;
const WINDOW_SECONDS: i64 = 300;
const PAUSE_SECONDS: i64 = 30;

/// The failures of one provider. Times are in Unix seconds.
#[derive(Debug, Default)]
pub(super) struct Circuit(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: VecDeque<i64>,
    open_until: i64,
}

impl Circuit {
    /// Whether the provider may be asked.
    pub(super) fn is_closed(&self, now: i64) -> bool {
        self.state().open_until <= now
    }

    /// Takes note of a failure; whether the provider is left alone from now on.
    pub(super) fn count_failure(&self, now: i64) -> bool {
        let mut state = self.state();
        state
            .failures
            .retain(|at| now.saturating_sub(*at) < WINDOW_SECONDS);
        state.failures.push_back(now);
        let opens = state.failures.len() >= FAILURES_MAX;
        if opens {
            state.open_until = now.saturating_add(PAUSE_SECONDS);
            // The next failure after the pause opens it again, the next success closes it.
            state.failures.pop_front();
        }
        opens
    }

    /// Takes note of a success: earlier failures do not count any more.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.failures.clear();
        state.open_until = 0;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_failures_in_five_minutes_open_it_for_half_a_minute() {
        let circuit = Circuit::default();
        for failure in 0..4 {
            assert!(!circuit.count_failure(1_000 + failure * 60));
        }
        assert!(circuit.is_closed(1_180));
        assert!(circuit.count_failure(1_200));
        assert!(!circuit.is_closed(1_229));
        assert!(circuit.is_closed(1_230), "one attempt after the pause");
        assert!(circuit.count_failure(1_231), "which fails again");
        assert!(!circuit.is_closed(1_260));
        circuit.close();
        assert!(circuit.is_closed(1_232));
        assert!(!circuit.count_failure(1_233), "a success forgets");
    }

    #[test]
    fn failures_far_apart_do_not_open_it() {
        let circuit = Circuit::default();
        for failure in 0..20 {
            assert!(!circuit.count_failure(failure * 76));
        }
    }
}
