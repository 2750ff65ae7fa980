//! How many refusals of one source are recorded? A share each; the rest is counted.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

/// Refusals of one source recorded at once; then [`DENIALS_PER_S`].
const DENIALS_BURST: f64 = 20.0;
/// Refusals of one source recorded per second in the long run.
const DENIALS_PER_S: f64 = 5.0;
/// Sources told apart. Further ones share one budget.
const SOURCES_MAX: usize = 8_192;

/// How many refusals of each source are still recorded.
#[derive(Debug, Default)]
pub(super) struct DenialBudget(Mutex<HashMap<Option<IpAddr>, Share>>);

#[derive(Clone, Copy, Debug)]
struct Share {
    left: f64,
    at: Instant,
    suppressed: u64,
}

impl DenialBudget {
    /// Takes one from the source's share: how many were left out before this one, or `None` when this one is too.
    pub(super) fn take(&self, source: IpAddr) -> Option<u64> {
        let now = Instant::now();
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = shares.contains_key(&Some(source)) || shares.len() < SOURCES_MAX;
        let share = shares.entry(is_known.then_some(source)).or_insert(Share {
            left: DENIALS_BURST,
            at: now,
            suppressed: 0,
        });
        let earned = now.duration_since(share.at).as_secs_f64() * DENIALS_PER_S;
        share.left = (share.left + earned).min(DENIALS_BURST);
        share.at = now;
        if share.left < 1.0 {
            share.suppressed += 1;
            return None;
        }
        share.left -= 1.0;
        Some(std::mem::take(&mut share.suppressed))
    }

    /// What was left out since, and forgets sources that have been quiet.
    pub(super) fn drain(&self) -> Vec<(Option<IpAddr>, u64)> {
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let suppressed = shares
            .iter_mut()
            .filter(|(_source, share)| share.suppressed > 0)
            .map(|(source, share)| (*source, std::mem::take(&mut share.suppressed)))
            .collect();
        shares.retain(|_source, share| share.at.elapsed().as_secs_f64() * DENIALS_PER_S < DENIALS_BURST);
        suppressed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 7));

    #[tokio::test(start_paused = true)]
    async fn refusals_beyond_a_sources_share_are_counted_instead_of_recorded() {
        let budget = DenialBudget::default();
        let recorded = (0..100).filter(|_denial| budget.take(SOURCE).is_some()).count();
        assert_eq!(recorded, 20);
        assert!(
            budget.take(IpAddr::from([203, 0, 113, 8])).is_some(),
            "another source has its own share"
        );
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(
            budget.take(SOURCE),
            Some(80),
            "the next one recorded says how many were left out"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_left_out_is_summed_up_and_quiet_sources_are_forgotten() {
        let budget = DenialBudget::default();
        for _denial in 0..25 {
            let _recorded = budget.take(SOURCE);
        }
        assert_eq!(budget.drain(), [(Some(SOURCE), 5)]);
        assert_eq!(budget.drain(), []);
        tokio::time::advance(Duration::from_mins(1)).await;
        let _nothing_left_out = budget.drain();
        assert!(budget.0.lock().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn many_sources_share_one_budget_beyond_the_limit() {
        let budget = DenialBudget::default();
        let recorded = (0..SOURCES_MAX + 100)
            .filter(|source| {
                budget
                    .take(IpAddr::from(u32::try_from(*source).unwrap().to_be_bytes()))
                    .is_some()
            })
            .count();
        assert_eq!(recorded, SOURCES_MAX + 20);
    }
}
