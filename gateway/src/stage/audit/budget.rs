//! How many refusals are recorded? A share for each source, and one for all of them; the rest is counted.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use crate::rate::{Bucket, Rate};
use crate::source::network;

/// What one source may have recorded.
const OF_SOURCE: Rate = Rate {
    burst: 20.0,
    per_s: 5.0,
};
/// What all sources together may, so that a client of many addresses does not fill the spool.
const OF_ALL: Rate = Rate {
    burst: 1_000.0,
    per_s: 200.0,
};
/// Sources told apart. Further ones share one budget.
const SOURCES_MAX: usize = 8_192;

/// How many refusals are still recorded.
#[derive(Debug, Default)]
pub(super) struct DenialBudget(Mutex<Shares>);

#[derive(Debug, Default)]
struct Shares {
    all: Option<Share>,
    sources: HashMap<Option<IpAddr>, Share>,
}

#[derive(Clone, Copy, Debug)]
struct Share {
    bucket: Bucket,
    suppressed: u64,
}

impl Share {
    fn full(rate: Rate, now: Instant) -> Self {
        Self {
            bucket: Bucket::full(rate, now),
            suppressed: 0,
        }
    }
}

impl DenialBudget {
    /// Takes one from the source's share and one from everybody's: how many of the source were left out before this
    /// one, or `None` when this one is too.
    pub(super) fn take(&self, source: IpAddr) -> Option<u64> {
        let now = Instant::now();
        let source = network(source);
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Shares { all, sources } = &mut *shares;
        let is_known = sources.contains_key(&Some(source)) || sources.len() < SOURCES_MAX;
        let share = sources
            .entry(is_known.then_some(source))
            .or_insert_with(|| Share::full(OF_SOURCE, now));
        let all = all.get_or_insert_with(|| Share::full(OF_ALL, now));
        if !share.bucket.earn(OF_SOURCE, now) {
            share.suppressed += 1;
            return None;
        }
        if !all.bucket.earn(OF_ALL, now) {
            // Not counted by source: a summary of each would fill the spool as well.
            all.suppressed += 1;
            return None;
        }
        share.bucket.take();
        all.bucket.take();
        Some(std::mem::take(&mut share.suppressed))
    }

    /// What was left out since, and forgets sources that have been quiet. Without a source: of sources not told apart.
    pub(super) fn drain(&self) -> Vec<(Option<IpAddr>, u64)> {
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Shares { all, sources } = &mut *shares;
        let by_source = sources.iter_mut().map(|(source, share)| (*source, share));
        let suppressed = by_source
            .chain(all.iter_mut().map(|all| (None, all)))
            .filter(|(_source, share)| share.suppressed > 0)
            .map(|(source, share)| (source, std::mem::take(&mut share.suppressed)))
            .collect();
        let now = Instant::now();
        sources.retain(|_source, share| !share.bucket.is_full(OF_SOURCE, now));
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
        assert!(budget.0.lock().unwrap().sources.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn many_sources_share_one_budget_beyond_the_limit() {
        let budget = DenialBudget::default();
        let mut recorded = 0;
        for source in 0..SOURCES_MAX + 100 {
            if source % 500 == 0 {
                tokio::time::advance(Duration::from_secs(5)).await;
            }
            let source = IpAddr::from(u32::try_from(source).unwrap().to_be_bytes());
            recorded += usize::from(budget.take(source).is_some());
        }
        assert_eq!(recorded, SOURCES_MAX + 20);
    }

    #[tokio::test(start_paused = true)]
    async fn the_addresses_of_an_ipv6_network_share_one_budget() {
        let budget = DenialBudget::default();
        let address = |host: u16| IpAddr::from([0x2001, 0xdb8, 1, 2, host, host, host, host]);
        let recorded = (0..100)
            .filter(|host| budget.take(address(*host)).is_some())
            .count();
        assert_eq!(recorded, 20);
        assert!(
            budget
                .take(IpAddr::from([0x2001, 0xdb8, 1, 3, 0, 0, 0, 1]))
                .is_some(),
            "another network has its own share"
        );
        assert_eq!(budget.drain(), [(Some("2001:db8:1:2::".parse().unwrap()), 80)]);
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_that_change_with_every_request_do_not_fill_the_spool() {
        let budget = DenialBudget::default();
        let flood = |first: u32| {
            (first..first + 5_000)
                .filter(|source| budget.take(IpAddr::from(source.to_be_bytes())).is_some())
                .count()
        };
        assert_eq!(flood(0), 1_000);
        assert_eq!(
            budget.drain(),
            [(None, 4_000)],
            "what was left out is counted once"
        );
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(flood(10_000), 200);
    }
}
