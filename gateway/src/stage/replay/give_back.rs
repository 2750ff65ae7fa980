//! What happens to a claim in the shared table that is to be taken back, when the table does not answer? It waits here and is
//! tried again, until the table has done it or nobody would accept the mandate any more.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use caracal_chassis::backoff::Backoff;
use caracal_chassis::shutdown::Shutdown;
use tokio::sync::Notify;
use tokio::time::Duration;

use crate::Gateway;

/// Claims that may wait. Who cuts signatures off in masses while Redis is away gains nothing by more.
const WAITING_MAX: usize = 10_000;
/// The first wait before a claim is tried again.
const RETRY_FIRST: Duration = Duration::from_millis(200);
/// The longest.
const RETRY_LONGEST: Duration = Duration::from_secs(5);

/// A claim to be taken back.
#[derive(Debug)]
pub(super) struct GiveBack {
    pub(super) key: String,
    /// Of no other use: whoever has claimed the key since keeps it, however late this is done.
    pub(super) value: String,
    /// When the claim is over anyway.
    pub(super) until_unix_s: i64,
}

/// The claims of this process that wait to be taken back.
#[derive(Debug, Default)]
pub(crate) struct GiveBacks {
    waiting: Mutex<VecDeque<GiveBack>>,
    added: Notify,
}

impl GiveBacks {
    /// Takes a claim back now, or leaves it to the background. One round trip.
    pub(super) async fn give_back(&self, gateway: &Gateway, claim: GiveBack) {
        let Err(error) = attempt(gateway, &claim).await else {
            return;
        };
        if self.add(claim) {
            tracing::debug!(%error, "a mandate that was presented with another signature stays burned for now");
        } else {
            tracing::warn!(%error, "a mandate stays burned that was presented with another signature");
        }
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// `false` when there is no room.
    fn add(&self, claim: GiveBack) -> bool {
        let mut waiting = self.lock();
        if waiting.len() >= WAITING_MAX {
            return false;
        }
        waiting.push_back(claim);
        self.added.notify_one();
        true
    }

    /// The first of those that are not over.
    fn next(&self, now_unix_s: i64) -> Option<GiveBack> {
        let mut waiting = self.lock();
        loop {
            let first = waiting.pop_front()?;
            if first.until_unix_s > now_unix_s {
                return Some(first);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<GiveBack>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn attempt(gateway: &Gateway, claim: &GiveBack) -> Result<(), caracal_bus::BusError> {
    gateway.bus.give_back(&claim.key, &claim.value).await?;
    gateway.metrics.replay_given_back.inc();
    Ok(())
}

/// Takes back what waits for it, until the gateway stops.
pub(crate) async fn work_off(gateway: Arc<Gateway>, stop: Shutdown) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
    loop {
        tokio::select! {
            () = stop.requested() => return,
            () = gateway.give_backs.added.notified() => {}
        }
        while let Some(claim) = gateway.give_backs.next(gateway.clock.unix_seconds()) {
            let Err(error) = attempt(&gateway, &claim).await else {
                backoff.reset();
                continue;
            };
            // At the end: the table may have a reason to refuse just this one.
            if !gateway.give_backs.add(claim) {
                tracing::warn!(%error, "a mandate stays burned that was presented with another signature");
            }
            tokio::select! {
                () = stop.requested() => return,
                () = backoff.wait() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(until_unix_s: i64) -> GiveBack {
        GiveBack {
            key: format!("seen:{until_unix_s}"),
            value: String::new(),
            until_unix_s,
        }
    }

    #[test]
    fn what_waits_is_bounded_in_number_and_by_its_own_end() {
        let waiting = GiveBacks::default();
        for number in 0..WAITING_MAX {
            assert!(waiting.add(claim(i64::try_from(number).unwrap())));
        }
        assert!(!waiting.add(claim(0)), "no room");
        let next = waiting.next(9_000).unwrap();
        assert_eq!(
            (next.until_unix_s, waiting.len()),
            (9_001, 998),
            "the older are over"
        );
        assert!(waiting.next(i64::MAX).is_none());
        assert_eq!(waiting.len(), 0);
    }
}
