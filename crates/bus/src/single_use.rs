//! Was this used before, anywhere?
//!
//! What is good once - client assertions, proofs of possession, ID tokens - is remembered by the event bus, so that every
//! replica of every service refuses what one of them has taken. Kept as long as it could be accepted. Not on the path of a
//! governed request.

use std::sync::Arc;

use caracal_model::UnixSeconds;
use caracal_wire::key_name::{used_once, used_proof};

use crate::{Bus, BusError, Claim};

/// How much longer than asked an id is remembered, in seconds: a store whose clock is ahead by less forgets none too early.
const STORE_AHEAD_S: i64 = 60;

/// How far the clocks of this process and of the store may be apart, in milliseconds.
const CLOCKS_APART_MS: i64 = 1_000;

/// Why nobody can tell whether an id was used.
#[derive(Debug, thiserror::Error)]
pub enum Undecided {
    /// There is no answer.
    #[error("the event bus does not answer")]
    Bus(#[from] BusError),
    /// Its memory began later.
    #[error("the event bus remembers nothing from when this was made")]
    Forgotten,
}

/// The ids in use.
#[derive(Debug)]
pub struct SingleUse {
    bus: Arc<dyn Bus>,
    /// The value of what this process takes, so that it gives nothing else back.
    taker: String,
}

impl SingleUse {
    /// Those that `bus` remembers.
    pub fn new(bus: Arc<dyn Bus>) -> Self {
        let mut taker = [0; 16];
        // Without randomness processes share a value; what is given back was still taken by the same request.
        let _filled = aws_lc_rs::rand::fill(&mut taker);
        Self {
            bus,
            taker: format!("{:032x}", u128::from_be_bytes(taker)),
        }
    }

    /// Takes the id `parts` name together, of something made at `made_at`; `false` when it was taken before. Cost: one round
    /// trip.
    ///
    /// # Errors
    /// [`Undecided`] when nobody can tell: the caller refuses.
    pub async fn take(
        &self,
        kind: &str,
        parts: &[&str],
        made_at: UnixSeconds,
        until: UnixSeconds,
    ) -> Result<bool, Undecided> {
        self.claim(&used_once(kind, parts), made_at, until).await
    }

    /// Takes a proof of possession, by the thumbprint of its key and its id; `false` when any service has taken it before. Cost:
    /// one round trip.
    ///
    /// # Errors
    /// [`Undecided`] when nobody can tell: the caller refuses.
    pub async fn take_proof(
        &self,
        (key, id): (&str, &str),
        made_at: UnixSeconds,
        until: UnixSeconds,
    ) -> Result<bool, Undecided> {
        self.claim(&used_proof(key, id), made_at, until).await
    }

    async fn claim(&self, key: &str, made_at: UnixSeconds, until: UnixSeconds) -> Result<bool, Undecided> {
        let until_ms = until.get().saturating_add(STORE_AHEAD_S).saturating_mul(1_000);
        match self.bus.claim_once(key, &self.taker, until_ms).await? {
            Claim::Repeated => Ok(false),
            Claim::First {
                remembers_since_unix_ms,
            } if remembers_since_unix_ms.saturating_add(CLOCKS_APART_MS)
                > made_at.get().saturating_mul(1_000) =>
            {
                Err(Undecided::Forgotten)
            }
            Claim::First { .. } => Ok(true),
        }
    }

    /// Makes the id that this caller took good again, because nothing came of it. Cost: one round trip.
    ///
    /// # Errors
    /// [`BusError`]: the id stays used.
    pub async fn give_back(&self, kind: &str, parts: &[&str]) -> Result<(), BusError> {
        self.bus.give_back(&used_once(kind, parts), &self.taker).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryBus;

    #[tokio::test]
    async fn an_id_is_taken_once_and_its_parts_do_not_run_together() {
        let ids = SingleUse::new(Arc::new(MemoryBus::new()));
        let (made, until) = (UnixSeconds(1_700_000_000), UnixSeconds(4_000_000_000));
        let take = async |kind: &str, parts: &[&str]| ids.take(kind, parts, made, until).await.unwrap();
        assert!(take("assertion", &["z1", "app-1", "j"]).await);
        assert!(!take("assertion", &["z1", "app-1", "j"]).await);
        assert!(take("assertion", &["z1", "app-2", "j"]).await);
        assert!(take("assertion", &["z1a", "pp-1", "j"]).await);
        assert!(take("proof", &["z1", "app-1", "j"]).await);
    }
}
