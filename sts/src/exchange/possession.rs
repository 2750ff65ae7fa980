//! Which keys has the sender of a request shown to hold? (`docs/contract/sender-constraint.md`)
//!
//! A client shows a key with a DPoP proof (RFC 9449). For the holder of a mandate the gateway has looked, and says what was
//! shown in fields that only count under its signature.

use std::sync::atomic::{AtomicBool, Ordering};

use caracal_chassis::Secret;
use caracal_model::UnixSeconds;
use caracal_token::dpop::{ProofError, ProofRules, Target, UnverifiedProof};
use caracal_token::{Claims, Confirmation, Possession};
use caracal_wire::sts::{BEARER, DPOP};

use super::client::{Caller, Via};
use super::refusal::Refusal;
use super::request::ExchangeRequest;
use crate::state::Sts;

/// How old a proof may be, in seconds.
const AGE_MAX_SECONDS: i64 = 60;
/// Clock difference granted, in seconds.
const LEEWAY_SECONDS: i64 = 60;

/// What the sender of a request says about the keys it holds. Nothing of it is proven.
#[derive(Debug, Default)]
pub(crate) struct Sender {
    pub(crate) proof: Option<PresentedProof>,
    /// What a gateway was shown; believed only with its signature.
    pub(crate) unverified_shown: Possession,
}

/// A DPoP proof as it came with a request.
#[derive(Debug)]
pub(crate) struct PresentedProof {
    /// `None` when there were several.
    text: Option<Secret>,
    /// The address of the request, as its sender knows it.
    target: Option<Target>,
    /// Whether this request has used it up. A request that is looked at twice, because the configuration moved meanwhile,
    /// still stands on it.
    is_taken: AtomicBool,
}

/// Why a proof is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProofFault {
    #[error("there is more than one proof")]
    Several,
    #[error(transparent)]
    Proof(#[from] ProofError),
    #[error("the proof was used before")]
    Used,
    #[error("a mandate for the control endpoint cannot be bound")]
    ControlKey,
}

impl PresentedProof {
    /// The proof that came with a request, if one did; `address` says where it went.
    pub(crate) fn of(headers: &http::HeaderMap, address: impl FnOnce() -> String) -> Option<Self> {
        let mut values = headers.get_all(caracal_token::dpop::PROOF_HEADER).iter();
        let first = values.next()?;
        let text = first.to_str().ok().map(Secret::from);
        Some(Self {
            text: text.filter(|_text| values.next().is_none()),
            target: Target::parse(&address()),
            is_taken: AtomicBool::new(false),
        })
    }
}

/// How a token is sent (RFC 9449 section 5, RFC 8705 section 3).
pub(crate) fn token_type(claims: &Claims) -> &'static str {
    match claims.cnf.as_ref().and_then(Confirmation::jkt) {
        Some(_) => DPOP,
        None => BEARER,
    }
}

/// The keys the sender has shown. Cost for a client without a proof, and for a gateway: none. With a proof one signature check and
/// one round trip to the event bus.
///
/// # Errors
/// [`Refusal::Proof`] for everything that is wrong with the proof, and when it was used before; [`Refusal::ProofNonce`] when
/// it answers no nonce of ours that is still good; [`Refusal::ProofStoreUnavailable`] when nobody can tell whether it was
/// used.
pub(super) async fn prove(
    sts: &Sts,
    request: &ExchangeRequest,
    caller: &Caller,
    now: UnixSeconds,
) -> Result<Possession, Refusal> {
    match (caller.via(), &request.sender.proof) {
        (Via::Gateway, _) => Ok(request.sender.unverified_shown),
        (Via::Client, None) => Ok(Possession::default()),
        (Via::Client, Some(presented)) => take(sts, presented, now).await,
    }
}

async fn take(sts: &Sts, presented: &PresentedProof, now: UnixSeconds) -> Result<Possession, Refusal> {
    let refuse = |fault: ProofFault| {
        tracing::info!(reason = %fault, "refused a proof of possession");
        Refusal::Proof(fault)
    };
    let text = presented
        .text
        .as_ref()
        .ok_or_else(|| refuse(ProofFault::Several))?;
    let rules = ProofRules {
        method: "POST",
        targets: presented.target.as_slice(),
        access_token: None,
        age_max_seconds: AGE_MAX_SECONDS,
        leeway_seconds: LEEWAY_SECONDS,
    };
    let unverified = UnverifiedProof::parse(text.expose()).map_err(|error| refuse(error.into()))?;
    let proof = unverified
        .verify(&rules, now)
        .map_err(|error| refuse(error.into()))?;
    let is_nonce_good = match &proof.nonce {
        Some(nonce) => sts.proof_nonces.is_good(nonce, now),
        None => !sts.settings.demands_proof_nonce,
    };
    if !is_nonce_good {
        return Err(Refusal::ProofNonce);
    }
    let shown = Possession {
        jkt: Some(proof.jkt),
        ..Possession::default()
    };
    if presented.is_taken.load(Ordering::Relaxed) {
        return Ok(shown);
    }
    let parts = [&*proof.jkt.to_string(), &*proof.jti];
    match sts
        .single_use
        .take("proof", &parts, proof.made_at, proof.until)
        .await
    {
        Ok(true) => {
            presented.is_taken.store(true, Ordering::Relaxed);
            Ok(shown)
        }
        Ok(false) => Err(refuse(ProofFault::Used)),
        Err(error) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "ids of proofs cannot be remembered"
            );
            Err(Refusal::ProofStoreUnavailable)
        }
    }
}
