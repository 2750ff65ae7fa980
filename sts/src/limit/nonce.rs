//! Has this gateway signature been presented before?
//!
//! A signature is acceptable for 60 s around its timestamp, so its nonce is remembered in a bucket of that minute and
//! forgotten when the whole bucket has become unacceptable. Local to this replica; fails closed when full.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, PoisonError};

/// How far a gateway's clock may be from ours, in seconds.
pub(crate) const SKEW_SECONDS: i64 = 60;

const BUCKET_SECONDS: i64 = 60;

/// The nonces of the signatures that would still be accepted.
#[derive(Debug)]
pub(crate) struct NonceTable {
    /// Signatures made before this process started may have been spent on its predecessor, whose table is gone.
    started_unix: i64,
    capacity: usize,
    buckets: Mutex<Buckets>,
}

#[derive(Debug, Default)]
struct Buckets {
    /// Minute of the timestamp -> nonces, by the first half of their SHA-256: a collision refuses a request, never
    /// admits one.
    by_minute: BTreeMap<i64, HashSet<u128>>,
    held: usize,
}

/// Why a nonce was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NonceRefused {
    #[error("the nonce was used before")]
    Used,
    #[error("the signature is older than this process")]
    BeforeStart,
    #[error("the nonce table is full")]
    Full,
}

impl NonceTable {
    /// `capacity` is the number of nonces held at most, about two minutes of exchanges.
    pub(crate) fn new(started_unix: i64, capacity: usize) -> Self {
        Self {
            started_unix,
            capacity,
            buckets: Mutex::default(),
        }
    }

    /// Spends `nonce`. The caller has already checked that `signed_unix` is within [`SKEW_SECONDS`] of `now_unix`.
    /// Cost: one SHA-256, one short lock.
    ///
    /// # Errors
    /// [`NonceRefused`]; the request must then be refused.
    pub(crate) fn spend(&self, nonce: &str, signed_unix: i64, now_unix: i64) -> Result<(), NonceRefused> {
        if signed_unix < self.started_unix {
            return Err(NonceRefused::BeforeStart);
        }
        let key = half_digest(nonce);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.forget_before((now_unix - SKEW_SECONDS).div_euclid(BUCKET_SECONDS));
        if buckets.held >= self.capacity {
            return Err(NonceRefused::Full);
        }
        // A nonce is spent for every minute it could be signed for: the timestamp is signed together with it, so the
        // same nonce under another timestamp is another signature, and still refused.
        if buckets.by_minute.values().any(|bucket| bucket.contains(&key)) {
            return Err(NonceRefused::Used);
        }
        buckets
            .by_minute
            .entry(signed_unix.div_euclid(BUCKET_SECONDS))
            .or_default()
            .insert(key);
        buckets.held += 1;
        Ok(())
    }
}

impl Buckets {
    fn forget_before(&mut self, minute: i64) {
        while let Some(bucket) = self
            .by_minute
            .first_entry()
            .filter(|bucket| *bucket.key() < minute)
        {
            self.held -= bucket.remove().len();
        }
    }
}

fn half_digest(nonce: &str) -> u128 {
    caracal_token::digest(nonce.as_bytes())
        .iter()
        .take(16)
        .fold(0, |key, byte| (key << 8) | u128::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_accepted_once() {
        let table = NonceTable::new(0, 10);
        assert_eq!(table.spend("n1", 1_000, 1_000), Ok(()));
        assert_eq!(table.spend("n1", 1_000, 1_001), Err(NonceRefused::Used));
        assert_eq!(
            table.spend("n1", 1_059, 1_059),
            Err(NonceRefused::Used),
            "also under a later timestamp"
        );
        assert_eq!(table.spend("n2", 1_000, 1_001), Ok(()));
    }

    #[test]
    fn a_nonce_is_remembered_as_long_as_its_signature_is_acceptable() {
        let table = NonceTable::new(0, 10);
        for (signed, now) in [(940, 1_000), (1_060, 1_000), (999, 1_000)] {
            assert_eq!(table.spend("n", signed, now), Ok(()));
            assert_eq!(
                table.spend("n", signed, signed + SKEW_SECONDS),
                Err(NonceRefused::Used)
            );
            table.buckets.lock().unwrap().by_minute.clear();
        }
    }

    #[test]
    fn old_buckets_make_room() {
        let table = NonceTable::new(0, 2);
        table.spend("a", 1_000, 1_000).unwrap();
        table.spend("b", 1_000, 1_000).unwrap();
        assert_eq!(
            table.spend("c", 1_000, 1_000),
            Err(NonceRefused::Full),
            "full fails closed"
        );
        assert_eq!(table.spend("c", 1_200, 1_200), Ok(()));
    }

    #[test]
    fn a_signature_older_than_the_process_is_refused() {
        let table = NonceTable::new(1_000, 10);
        assert_eq!(table.spend("n", 999, 1_001), Err(NonceRefused::BeforeStart));
    }
}
