//! How many refusals of one source are written to the ledger?
//!
//! A refusal before the caller has proved who it is costs the ledger a row, and anybody can cause one. So each source
//! address has a budget; what exceeds it is counted and reported with the next refusal that is written. What strangers cause
//! through a gateway has one for each zone: gateways speak for many, and no zone's strangers are to use up another's budget.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use caracal_model::ZoneId;

const WINDOW_US: i64 = 60_000_000;
const ACCOUNTS_MAX: u64 = 50_000;

/// Whose budget a refusal is written from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Account {
    /// That of an address.
    Source(IpAddr),
    /// That of what comes through gateways for a zone.
    Gateways(ZoneId),
}

#[derive(Debug, Default)]
struct Window {
    started_us: i64,
    written: u32,
    suppressed: u64,
}

/// The budgets.
#[derive(Debug)]
pub(crate) struct DenialBudget {
    per_minute: u32,
    windows: moka::sync::Cache<Account, Arc<Mutex<Window>>>,
}

impl DenialBudget {
    /// `per_minute` refusals of one account are written, the rest counted.
    pub(crate) fn new(per_minute: u32) -> Self {
        let windows = moka::sync::Cache::builder()
            .max_capacity(ACCOUNTS_MAX)
            .time_to_idle(std::time::Duration::from_mins(10))
            .build();
        Self { per_minute, windows }
    }

    /// `Some(n)`: write this one, and say that `n` before it were not written. `None`: do not write.
    pub(crate) fn take(&self, account: Account, now_us: i64) -> Option<u64> {
        let window = self.windows.get_with(account, Arc::default);
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
        let source = || Account::Source(IpAddr::from([192, 0, 2, 1]));
        assert_eq!(budget.take(source(), 0), Some(0));
        assert_eq!(budget.take(source(), 1), Some(0));
        assert_eq!(budget.take(source(), 2), None);
        assert_eq!(budget.take(source(), 3), None);
        assert_eq!(
            budget.take(Account::Source(IpAddr::from([192, 0, 2, 2])), 3),
            Some(0),
            "sources do not share a budget"
        );
        let zone = |id: &str| Account::Gateways(id.parse().unwrap());
        for taken in [Some(0), Some(0), None] {
            assert_eq!(budget.take(zone("z1"), 3), taken);
        }
        assert_eq!(budget.take(zone("z2"), 3), Some(0), "nor do zones");
        assert_eq!(budget.take(source(), 60_000_000), Some(2));
        assert_eq!(budget.take(source(), 60_000_001), Some(0));
    }
}
