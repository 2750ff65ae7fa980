//! How many refusals of one source are written to the ledger?
//!
//! A refusal before the caller has proved who it is costs the ledger a row, and anybody can cause one. So each source
//! address has a budget; what exceeds it is counted and reported with the next refusal that is written.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

const WINDOW_US: i64 = 60_000_000;
const SOURCES_MAX: u64 = 50_000;

#[derive(Debug, Default)]
struct Window {
    started_us: i64,
    written: u32,
    suppressed: u64,
}

/// Budgets per source address.
#[derive(Debug)]
pub(crate) struct DenialBudget {
    per_minute: u32,
    windows: moka::sync::Cache<IpAddr, Arc<Mutex<Window>>>,
}

impl DenialBudget {
    /// `per_minute` refusals of one source are written, the rest counted.
    pub(crate) fn new(per_minute: u32) -> Self {
        let windows = moka::sync::Cache::builder()
            .max_capacity(SOURCES_MAX)
            .time_to_idle(std::time::Duration::from_mins(10))
            .build();
        Self { per_minute, windows }
    }

    /// `Some(n)`: write this one, and say that `n` before it were not written. `None`: do not write.
    pub(crate) fn take(&self, source: IpAddr, now_us: i64) -> Option<u64> {
        let window = self.windows.get_with(source, Arc::default);
        let mut window = window.lock().unwrap_or_else(PoisonError::into_inner);
        if window.written == 0 || now_us.saturating_sub(window.started_us) >= WINDOW_US {
            window.started_us = now_us;
            window.written = 0;
        }
        if window.written >= self.per_minute {
            window.suppressed += 1;
            return None;
        }
        window.written += 1;
        Some(std::mem::take(&mut window.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_exceeds_the_budget_is_counted_and_reported_later() {
        let budget = DenialBudget::new(2);
        let source = IpAddr::from([192, 0, 2, 1]);
        assert_eq!(budget.take(source, 0), Some(0));
        assert_eq!(budget.take(source, 1), Some(0));
        assert_eq!(budget.take(source, 2), None);
        assert_eq!(budget.take(source, 3), None);
        assert_eq!(
            budget.take(IpAddr::from([192, 0, 2, 2]), 3),
            Some(0),
            "sources do not share a budget"
        );
        assert_eq!(budget.take(source, 60_000_000), Some(2));
        assert_eq!(budget.take(source, 60_000_001), Some(0));
    }
}
