//! Stage 5: is this the first use of a one-shot mandate? A look in memory early, one Redis round trip beside the
//! exchange.
//!
//! A one-shot mandate is burned by its `jti` until it has expired, leeway included: forgetting it earlier would let
//! it pass again while verifiers still accept it (RFC 7519 section 4.1.4). Whatever fails afterwards, it stays burned, unless
//! what failed was not it: `once` is the only way on, and every failure on it passes there.

mod burned;
mod give_back;

use std::sync::{Arc, OnceLock};

use caracal_bus::Claim;
use caracal_token::Claims;
use caracal_token::dpop::Proof;
use caracal_token::sender::{ProofFault, SenderFault, Shown};
use caracal_wire::key_name::{seen_token, used_proof};

use super::authenticate::{Caller, LEEWAY_S, Signature, signature};
use super::revocation::Standing;
use crate::Gateway;
use crate::context::Observation;
use crate::denial::Denial;

use self::burned::Burn;
pub(crate) use self::burned::BurnedTable;
use self::give_back::GiveBack;
pub(crate) use self::give_back::{GiveBacks, work_off};

/// One use of a mandate, burned in the table of this process where it may be used once.
#[derive(Debug)]
pub(crate) struct OneUse {
    caller: Caller,
    /// Tells it from every other use of the process.
    number: u64,
    /// Whether another presentation of it was refused or taken back before.
    is_doubted: bool,
    /// Under which value it was claimed in the shared table, or may have been.
    claimed_as: OnceLock<String>,
}

impl OneUse {
    /// Whose use it is.
    pub(super) fn caller(&self) -> &Caller {
        &self.caller
    }
}

/// A genuine mandate that this process has not seen used, and has now burned in its own table.
#[derive(Debug)]
pub(crate) struct Unseen(Arc<OneUse>);

impl Unseen {
    pub(super) fn into_use(self) -> Arc<OneUse> {
        self.0
    }
}

/// Burns the mandate in the table of this process, and goes on with `rest`. Memory only.
///
/// If that fails for a mandate that only a MAC has proven, its signature is checked now: where it is wrong, this was not the
/// mandate but its first two segments, and whoever holds the whole can use it still (docs/contract/gateway.md, "Replay"). The
/// same of a mandate for which that has happened before is found out before it burns anything.
///
/// # Errors
/// Those of `rest`; [`Denial::Replayed`] or [`Denial::Sender`]; [`Denial::Signature`]. What a gateway which keeps the only table
/// might have forgotten, because it was made before the gateway started or in the same second, counts as used when it is a
/// mandate, and is [`Denial::ReplayUndecided`] when it is a proof, of which the sender can make another one.
pub(crate) async fn once<T, Rest>(
    gateway: &Gateway,
    caller: Caller,
    rest: impl FnOnce(Unseen) -> Rest,
) -> Result<T, Denial>
where
    Rest: Future<Output = Result<T, Denial>>,
{
    let number = gateway.burned.next_number();
    let is_doubted = match Once::of(&caller) {
        Some(once) => burn(gateway, &caller, &once, number).await?,
        None => false,
    };
    let this = Arc::new(OneUse {
        caller,
        number,
        is_doubted,
        claimed_as: OnceLock::new(),
    });
    let outcome = rest(Unseen(Arc::clone(&this))).await;
    if outcome.is_err() {
        // Rare, and large.
        Box::pin(give_back_unless_signed(gateway, &this)).await;
    }
    outcome
}

/// Burns it here; whether it was in doubt.
async fn burn(gateway: &Gateway, caller: &Caller, once: &Once<'_>, number: u64) -> Result<bool, Denial> {
    if once.is_forgotten(gateway) {
        return Err(once.undecided());
    }
    let key = once.key();
    let burn = |is_doubted| {
        let now = gateway.clock.unix_seconds();
        gateway
            .burned
            .burn(&key, once.until_unix_s(), number, is_doubted, now)
    };
    let first = burn(caller.is_proven_by_mac());
    let is_doubted = first == Burn::Doubtful;
    let outcome = match first {
        Burn::Doubtful if Box::pin(signature(gateway, caller)).await == Signature::Wrong => {
            return Err(Denial::Signature);
        }
        Burn::Doubtful => burn(false),
        outcome => outcome,
    };
    match outcome {
        Burn::First => Ok(is_doubted),
        Burn::Repeated | Burn::Doubtful => Err(once.repeated()),
    }
}

/// Takes the burn back, in both tables, of what is not the mandate that it burned: its signature is not the one that was made,
/// which a MAC does not cover. It was not forwarded, so nothing passed with it. No other use is touched.
async fn give_back_unless_signed(gateway: &Gateway, this: &OneUse) {
    let caller = &this.caller;
    let Some(once) = Once::of(caller) else { return };
    // What is proven by its signature stays burned, and so does what cannot be checked now.
    if !caller.is_proven_by_mac() || signature(gateway, caller).await != Signature::Wrong {
        return;
    }
    let key = once.key();
    gateway.burned.give_back(&key, this.number);
    let Some(value) = this.claimed_as.get() else {
        gateway.metrics.replay_given_back.inc();
        return;
    };
    let claim = GiveBack {
        key,
        value: value.clone(),
        until_unix_s: once.kept_until_unix_s(),
    };
    gateway.give_backs.give_back(gateway, claim).await;
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

    /// Until when the shared table remembers it.
    fn kept_until_unix_s(&self) -> i64 {
        self.until_unix_s().saturating_add(TABLE_AHEAD_S)
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

/// Whether the shared table must say yes before anything is asked of the STS: a mandate that it has refused here costs its sender
/// nothing to show again, and would cost an exchange and its evidence each time.
pub(crate) fn is_doubted(standing: &Standing) -> bool {
    standing.one_use().is_doubted
}

/// Proof that a mandate may be used now: it is reusable, or this is its first use anywhere.
#[derive(Debug)]
pub struct FirstUse(());

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
        return Ok(FirstUse(()));
    };
    gateway.metrics.replay_claims.inc();
    let key = once.key();
    let expires_ms = once.kept_until_unix_s().saturating_mul(1_000);
    let this = standing.one_use();
    let value = this
        .claimed_as
        .get_or_init(|| gateway.burned.claim_value(seen.request_id.as_str(), this.number));
    match gateway.bus.claim_once(&key, value, expires_ms).await {
        Ok(Claim::First {
            remembers_since_unix_ms,
        }) if is_remembered(once.made_at_unix_s(), remembers_since_unix_ms) => Ok(FirstUse(())),
        Ok(Claim::First { .. }) => {
            tracing::warn!(
                "the shared replay table is younger than the mandate, whose first use it may have forgotten"
            );
            Err(Denial::ReplayUndecided)
        }
        Ok(Claim::Repeated) => {
            if standing.caller().is_proven_by_mac() {
                // Who claimed it may have shown another signature, and give it back. So only the shared table knows, and the next
                // one with it asks there again.
                gateway.burned.give_back(&key, this.number);
            }
            Err(once.repeated())
        }
        Err(error) if gateway.config.jti_fail_open => {
            tracing::warn!(%error, "the shared replay table failed; JTI_FAIL_OPEN lets the request pass");
            Ok(FirstUse(()))
        }
        Err(error) => {
            tracing::warn!(%error, "the shared replay table failed");
            Err(Denial::ReplayUndecided)
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
}
