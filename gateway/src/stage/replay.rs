//! Stage 5: is this the first use of a one-shot mandate? A look in memory early, one Redis round trip beside the
//! exchange.
//!
//! A one-shot mandate is burned by its `jti` until it has expired, leeway included: forgetting it earlier would let
//! it pass again while verifiers still accept it (RFC 7519 section 4.1.4). Whatever fails afterwards, it stays burned.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use caracal_bus::Claim;
use caracal_token::Claims;
use caracal_token::dpop::Proof;
use caracal_token::sender::{ProofFault, SenderFault, Shown};
use caracal_wire::key_name::{seen_token, used_proof};

use super::authenticate::{Caller, LEEWAY_S};
use super::revocation::Standing;
use crate::Gateway;
use crate::context::Observation;
use crate::denial::Denial;

/// Power of two; requests of different mandates rarely meet.
const SHARDS: usize = 16;
/// Entries of one shard. Together about a million uses remembered; beyond that the shared table decides alone.
const SHARD_ENTRIES_MAX: usize = 65_536;

/// Until when each use, by half a digest of its name, is remembered.
type Uses = HashMap<[u8; 16], i64>;

/// Mandates burned by this process: a replay that comes back here is refused without asking anybody.
#[derive(Debug)]
pub(crate) struct BurnedTable {
    shards: Vec<Mutex<Uses>>,
}

impl Default for BurnedTable {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_shard| Mutex::default()).collect(),
        }
    }
}

impl BurnedTable {
    /// Whether `jti` is burned. As [`BurnedTable::burn`], without burning.
    fn holds(&self, jti: &str, now_unix_s: i64) -> bool {
        let shard = self.shard(jti);
        shard.is_none_or(|(key, shard)| shard.get(&key).is_some_and(|expires| *expires > now_unix_s))
    }

    /// Burns `jti` until `expires_unix_s`; false when it was burned before. One hash and one map operation.
    fn burn(&self, jti: &str, expires_unix_s: i64, now_unix_s: i64) -> bool {
        let Some((key, mut shard)) = self.shard(jti) else {
            return false;
        };
        if shard.get(&key).is_some_and(|expires| *expires > now_unix_s) {
            return false;
        }
        if shard.len() < SHARD_ENTRIES_MAX {
            shard.insert(key, expires_unix_s);
        }
        true
    }

    /// Forgets one use.
    fn forget(&self, jti: &str) {
        if let Some((key, mut shard)) = self.shard(jti) {
            shard.remove(&key);
        }
    }

    /// Where a mandate is remembered, and by what.
    fn shard(&self, jti: &str) -> Option<([u8; 16], MutexGuard<'_, Uses>)> {
        let digest = caracal_token::digest(jti.as_bytes());
        let [.., shard] = digest;
        let mut key = [0; 16];
        key.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        let shard = self.shards.get(usize::from(shard) % SHARDS)?;
        Some((key, shard.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Forgets what has expired.
    pub(crate) fn prune(&self, now_unix_s: i64) {
        for shard in &self.shards {
            shard
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .retain(|_jti, expires| *expires > now_unix_s);
        }
    }

    /// Number of mandates remembered.
    pub(crate) fn len(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len())
            .sum()
    }
}

/// A genuine mandate that this process has not seen used, and has now burned in its own table.
#[derive(Debug)]
pub(crate) struct Unseen(Caller);

impl Unseen {
    pub(super) fn into_caller(self) -> Caller {
        self.0
    }
}

/// Looks in the table of this process. Memory only.
///
/// # Errors
/// [`Denial::Replayed`] or [`Denial::Sender`]. What a gateway which keeps the only table might have forgotten, because it was made
/// before the gateway started or in the same second, counts as used when it is a mandate, and is [`Denial::ReplayUndecided`]
/// when it is a proof, of which the sender can make another one.
pub(crate) fn look(gateway: &Gateway, caller: Caller) -> Result<Unseen, Denial> {
    let Some(once) = Once::of(&caller) else {
        return Ok(Unseen(caller));
    };
    let now = gateway.clock.unix_seconds();
    if once.is_forgotten(gateway) {
        return Err(once.undecided());
    }
    if !gateway.burned.burn(&once.key(), once.until_unix_s(), now) {
        return Err(once.repeated());
    }
    Ok(Unseen(caller))
}

/// The same of a caller that gets no further: nothing is burned.
///
/// # Errors
/// As [`look`].
pub(super) fn peek(gateway: &Gateway, caller: &Caller) -> Result<(), Denial> {
    match Once::of(caller) {
        Some(once) if once.is_forgotten(gateway) => Err(once.undecided()),
        Some(once) if gateway.burned.holds(&once.key(), gateway.clock.unix_seconds()) => Err(once.repeated()),
        _ => Ok(()),
    }
}

/// What may be used once: a one-shot mandate; for a reusable one the proof it came with, if it is bound to a key. The proof of a
/// one-shot mandate is for that mandate only (`ath`), so it is used up with it.
enum Once<'a> {
    Mandate(&'a Claims),
    Proof(&'a Proof),
}

impl<'a> Once<'a> {
    fn of(caller: &'a Caller) -> Option<Self> {
        if caller.is_reusable() {
            caller.shown().and_then(Shown::proof).map(Self::Proof)
        } else {
            Some(Self::Mandate(caller.claims()))
        }
    }

    /// Its name in both tables. That of a proof is the same in every service: where no public URLs are configured, a proof that
    /// was used at one could pass at another.
    fn key(&self) -> String {
        match self {
            Self::Mandate(claims) => seen_token(&claims.jti),
            Self::Proof(proof) => used_proof(&proof.jkt.to_string(), &proof.jti),
        }
    }

    /// Whether the only table might have forgotten it.
    fn is_forgotten(&self, gateway: &Gateway) -> bool {
        let since = gateway.remembers_since_unix_s;
        since.is_some_and(|started| self.made_at_unix_s() <= started)
    }

    fn made_at_unix_s(&self) -> i64 {
        match self {
            Self::Mandate(claims) => claims.iat,
            Self::Proof(proof) => proof.made_at.get(),
        }
    }

    /// Until when nobody would accept it anyway.
    fn until_unix_s(&self) -> i64 {
        match self {
            Self::Mandate(claims) => claims.exp.saturating_add(LEEWAY_S),
            Self::Proof(proof) => proof.until.get(),
        }
    }

    /// What is answered when a first use may have been forgotten.
    fn undecided(&self) -> Denial {
        match self {
            Self::Mandate(_) => Denial::Replayed,
            Self::Proof(_) => Denial::ReplayUndecided,
        }
    }

    /// What a second use is answered.
    fn repeated(&self) -> Denial {
        match self {
            Self::Mandate(_) => Denial::Replayed,
            Self::Proof(_) => Denial::Sender(SenderFault::Proof(ProofFault::Used)),
        }
    }
}

/// Whether what is claimed costs its sender nothing: mints have budgets, proofs have none. Then it is remembered only for a call
/// that is granted, so that refused calls fill no table.
pub(crate) fn is_free_for_its_sender(standing: &Standing) -> bool {
    matches!(Once::of(standing.caller()), Some(Once::Proof(_)))
}

/// Proof that a mandate may be used now: it is reusable, or this is its first use anywhere. Holds whether the shared table
/// remembers it for this request.
#[derive(Debug)]
pub struct FirstUse(bool);

/// How much longer than a mandate can be accepted its use is remembered by the shared table, in seconds: a table whose clock
/// is ahead by less forgets nothing too early.
const TABLE_AHEAD_S: i64 = 60;
/// How far the clocks of the STS and of the shared table may be apart, in milliseconds.
const CLOCKS_APART_MS: i64 = 1_000;

/// Whether a table that remembers since then knows every use of a mandate issued at `iat_unix_s`.
pub(crate) fn is_remembered(iat_unix_s: i64, remembers_since_unix_ms: i64) -> bool {
    iat_unix_s.saturating_mul(1_000) >= remembers_since_unix_ms.saturating_add(CLOCKS_APART_MS)
}

/// Burns the mandate, or the proof it came with, for every gateway. One round trip; none for a reusable mandate that is bound
/// to no key.
///
/// # Errors
/// [`Denial::Replayed`]; [`Denial::ReplayUndecided`] when the shared table does not answer, or has lost its memory since
/// the mandate was issued.
pub(crate) async fn claim(
    gateway: &Gateway,
    standing: &Standing,
    seen: &Observation,
) -> Result<FirstUse, Denial> {
    let Some(once) = Once::of(standing.caller()) else {
        return Ok(FirstUse(false));
    };
    gateway.metrics.replay_claims.inc();
    let key = once.key();
    let kept_until_s = once.until_unix_s().saturating_add(TABLE_AHEAD_S);
    let expires_ms = kept_until_s.saturating_mul(1_000);
    match gateway
        .bus
        .claim_once(&key, seen.request_id.as_str(), expires_ms)
        .await
    {
        Ok(Claim::First {
            remembers_since_unix_ms,
        }) if is_remembered(once.made_at_unix_s(), remembers_since_unix_ms) => Ok(FirstUse(true)),
        Ok(Claim::First { .. }) => {
            tracing::warn!(
                "the shared replay table is younger than the mandate, whose first use it may have forgotten"
            );
            Err(Denial::ReplayUndecided)
        }
        Ok(Claim::Repeated) => Err(once.repeated()),
        Err(error) if gateway.config.jti_fail_open => {
            tracing::warn!(%error, "the shared replay table failed; JTI_FAIL_OPEN lets the request pass");
            Ok(FirstUse(false))
        }
        Err(error) => {
            tracing::warn!(%error, "the shared replay table failed");
            Err(Denial::ReplayUndecided)
        }
    }
}

/// Takes the burn back of what turned out to be no mandate: the STS does not know its signature, which a MAC does not cover.
/// Who saw a mandate without its signature could use it up otherwise. Only what this request has burned, which nothing else
/// can have passed with since.
pub(crate) async fn give_back(gateway: &Gateway, standing: &Standing, first: FirstUse) {
    let (FirstUse(true), Some(once)) = (first, Once::of(standing.caller())) else {
        return;
    };
    let key = once.key();
    match gateway.bus.give_back(&key).await {
        Ok(()) => gateway.burned.forget(&key),
        Err(error) => {
            tracing::warn!(%error, "a mandate stays burned that was presented with another signature");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_lost_its_memory_decides_only_about_what_is_younger() {
        assert!(is_remembered(1_000, i64::MIN));
        assert!(is_remembered(1_001, 1_000_000));
        assert!(
            !is_remembered(1_000, 1_000_000),
            "its first use may have been in the same second"
        );
        assert!(!is_remembered(1_000, 2_000_000));
    }

    #[test]
    fn a_mandate_burns_once_until_it_has_expired() {
        let table = BurnedTable::default();
        assert!(table.burn("jti-1", 160, 100));
        assert!(!table.burn("jti-1", 160, 159));
        assert!(
            table.burn("jti-2", 160, 100),
            "another mandate is another mandate"
        );
        table.prune(160);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn of_many_concurrent_uses_one_is_first() {
        let table = BurnedTable::default();
        let first = std::thread::scope(|scope| {
            let uses: Vec<_> = (0..8)
                .map(|_thread| scope.spawn(|| table.burn("jti-1", 160, 100)))
                .collect();
            uses.into_iter()
                .filter(|_use| true)
                .map(|thread| usize::from(thread.join().unwrap()))
                .sum::<usize>()
        });
        assert_eq!(first, 1);
    }
}
