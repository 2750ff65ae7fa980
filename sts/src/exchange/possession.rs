//! Which keys has the sender of a request shown to hold? (`docs/contract/sender-constraint.md`)
//!
//! A client shows a key with a DPoP proof (RFC 9449), and a certificate to the TLS terminator before us (RFC 8705). For the
//! holder of a mandate the gateway has looked, and says what was shown in fields that only count under its signature.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use caracal_chassis::address_range::AddressRanges;
use caracal_model::UnixSeconds;
use caracal_token::client_certificate::{self, CLIENT_CERT_HEADER, CertificateFault};
use caracal_token::dpop::{PROOF_HEADER, Proof, ProofRules, Target};
use caracal_token::sender::{self, PROOF_AGE_MAX_SECONDS, ProofFault};
use caracal_token::{Claims, Confirmation, Possession, Thumbprint};
use caracal_wire::sts::{BEARER, DPOP};
use http::{HeaderMap, HeaderValue};

use super::client::{Caller, Via};
use super::refusal::Refusal;
use super::request::ExchangeRequest;
use crate::state::Sts;

/// Clock difference granted, in seconds.
pub(crate) const LEEWAY_SECONDS: i64 = 60;

/// What the sender of a request says about the keys it holds. Nothing of it is proven.
#[derive(Debug, Default)]
pub(crate) struct Sender {
    pub(crate) proof: Option<PresentedProof>,
    pub(crate) certificate: PresentedCertificate,
    /// What a gateway was shown; believed only with its signature.
    pub(crate) unverified_shown: Possession,
}

/// A DPoP proof as it came with a request.
#[derive(Debug)]
pub(crate) struct PresentedProof {
    values: Vec<HeaderValue>,
    /// The address of the request, as its sender knows it.
    target: Option<Target>,
    /// Whether this request has used it up. A request that is looked at twice, because the configuration moved meanwhile,
    /// still stands on it.
    is_taken: AtomicBool,
}

impl PresentedProof {
    /// The proof that came with a request, if one did; `address` says where it went.
    pub(crate) fn of(headers: &HeaderMap, address: impl FnOnce() -> String) -> Option<Self> {
        let values = secret_values(headers, PROOF_HEADER);
        (!values.is_empty()).then(|| Self {
            values,
            target: Target::parse(&address()),
            is_taken: AtomicBool::new(false),
        })
    }
}

/// The client certificate as a TLS terminator told of it. Empty when nobody who is believed did.
#[derive(Debug, Default)]
pub(crate) struct PresentedCertificate(Vec<HeaderValue>);

impl PresentedCertificate {
    /// What `peer` says, when it is one of `terminators`.
    pub(crate) fn of(headers: &HeaderMap, peer: Option<IpAddr>, terminators: &AddressRanges) -> Self {
        let is_believed = peer.is_some_and(|peer| terminators.contain(peer));
        if is_believed {
            Self(secret_values(headers, CLIENT_CERT_HEADER))
        } else {
            Self::default()
        }
    }
}

/// The values of a header, not to be shown when somebody prints them.
fn secret_values(headers: &HeaderMap, name: &str) -> Vec<HeaderValue> {
    let mut values: Vec<HeaderValue> = headers.get_all(name).iter().cloned().collect();
    for value in &mut values {
        value.set_sensitive(true);
    }
    values
}

/// How a token is sent (RFC 9449 section 5, RFC 8705 section 3).
pub(crate) fn token_type(claims: &Claims) -> &'static str {
    match claims.cnf.as_ref().and_then(Confirmation::jkt) {
        Some(_) => DPOP,
        None => BEARER,
    }
}

/// The keys the sender has shown, of those that its mandates are bound to. Cost for a client without a proof, and for a gateway:
/// none. With a proof one signature check and one round trip to the event bus; for an application whose mandates are bound to
/// its certificate, one hash.
///
/// # Errors
/// [`Refusal::Certificate`] when it is needed and was not shown; [`Refusal::Proof`] for everything that is wrong with the proof,
/// when it is needed and missing, and when it was used before; [`Refusal::ProofNonce`] when it answers no nonce of ours that is
/// still good; [`Refusal::ProofStoreUnavailable`] when nobody can tell whether it was used.
pub(super) async fn prove(
    sts: &Sts,
    request: &ExchangeRequest,
    caller: &Caller,
    now: UnixSeconds,
) -> Result<Possession, Refusal> {
    if caller.via() == Via::Gateway {
        return Ok(request.sender.unverified_shown);
    }
    let application = caller.application();
    let mut shown = Possession::default();
    if application.is_certificate_bound {
        let values = request.sender.certificate.0.iter().map(HeaderValue::as_bytes);
        let presented = client_certificate::presented(values);
        shown.x5t_s256 = Some(presented.map_err(|fault| no_certificate(caller, fault))?);
    }
    match &request.sender.proof {
        Some(presented) => shown.jkt = Some(Box::pin(take(sts, caller, presented, now)).await?),
        None if application.is_dpop_bound => return Err(no_proof(caller, ProofFault::Missing)),
        None => {}
    }
    Ok(shown)
}

fn no_certificate(caller: &Caller, fault: CertificateFault) -> Refusal {
    note(caller, &fault);
    Refusal::Certificate(fault)
}

fn no_proof(caller: &Caller, fault: ProofFault) -> Refusal {
    note(caller, &fault);
    Refusal::Proof(fault)
}

fn note(caller: &Caller, fault: &dyn std::error::Error) {
    tracing::info!(
        zone.id = %caller.zone().id,
        application.id = %caller.application().id,
        reason = %fault,
        "refused a proof of possession"
    );
}

async fn take(
    sts: &Sts,
    caller: &Caller,
    presented: &PresentedProof,
    now: UnixSeconds,
) -> Result<Thumbprint, Refusal> {
    let refuse = |fault| no_proof(caller, fault);
    let rules = ProofRules {
        method: "POST",
        targets: presented.target.as_slice(),
        access_token: None,
        age_max_seconds: PROOF_AGE_MAX_SECONDS,
        leeway_seconds: LEEWAY_SECONDS,
    };
    let values = presented.values.iter().map(HeaderValue::as_bytes);
    let proof = sender::prove(values, &rules, now).map_err(refuse)?;
    let is_nonce_good = match &proof.nonce {
        Some(nonce) => sts.proof_nonces.is_good(nonce, now),
        None => !sts.settings.demands_proof_nonce,
    };
    if !is_nonce_good {
        return Err(Refusal::ProofNonce);
    }
    if presented.is_taken.load(Ordering::Relaxed) {
        return Ok(proof.jkt);
    }
    if !is_first_use(sts, &proof).await? {
        return Err(refuse(ProofFault::Used));
    }
    presented.is_taken.store(true, Ordering::Relaxed);
    Ok(proof.jkt)
}

/// Whether nobody has taken the proof before; from now on somebody has. One round trip.
///
/// # Errors
/// [`Refusal::ProofStoreUnavailable`] when nobody can tell.
pub(crate) async fn is_first_use(sts: &Sts, proof: &Proof) -> Result<bool, Refusal> {
    let key = proof.jkt.to_string();
    let taking = sts
        .single_use
        .take_proof((&key, &proof.jti), proof.made_at, proof.until);
    taking.await.map_err(|error| {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "ids of proofs cannot be remembered"
        );
        Refusal::ProofStoreUnavailable
    })
}
