//! Stage 2, second half: does the sender hold the keys the mandate is bound to? (`docs/contract/sender-constraint.md`)
//!
//! Nothing for a mandate that is bound to none. One more signature check for one that is bound to the key of DPoP proofs
//! (RFC 9449 section 7). Whether a proof was used before is for [`super::replay`].

use std::borrow::Cow;

use caracal_model::UnixSeconds;
use caracal_token::dpop::{PROOF_HEADER, Proof, ProofError, ProofRules, Target, UnverifiedProof};
use caracal_token::{Claims, Possession};
use http::header::HOST;

use super::authenticate::LEEWAY_S;
use crate::Gateway;
use crate::context::Inbound;
use crate::denial::Denial;
use crate::header::client_scheme;

/// How old a proof may be, in seconds.
const PROOF_AGE_MAX_S: i64 = 60;

/// How a mandate is presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// Whoever has it may send it.
    Bearer,
    /// With a proof of the key it is bound to.
    Dpop,
}

impl Scheme {
    /// The scheme of an `Authorization` header, in any case (RFC 9110 section 11.1).
    pub(super) fn parse(text: &str) -> Option<Self> {
        [("bearer", Self::Bearer), ("dpop", Self::Dpop)]
            .into_iter()
            .find_map(|(name, scheme)| text.eq_ignore_ascii_case(name).then_some(scheme))
    }
}

/// Why a proof does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProofFault {
    /// There is none.
    #[error("a proof of possession is required")]
    Missing,
    /// There are several, or one that is no text.
    #[error("there is more than one proof")]
    Several,
    /// It does not hold, or not for this request.
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// It is by another key than the one the mandate is bound to.
    #[error("the proof is by another key")]
    OtherKey,
    /// It was used before.
    #[error("the proof was used before")]
    Used,
}

/// The keys the sender has shown, all that the mandate asks for.
#[derive(Debug)]
pub(crate) struct Shown {
    keys: Possession,
    proof: Option<Proof>,
}

impl Shown {
    /// Which keys.
    pub(super) fn keys(&self) -> &Possession {
        &self.keys
    }

    /// The proof of one, to be used up.
    pub(super) fn proof(&self) -> Option<&Proof> {
        self.proof.as_ref()
    }
}

/// Proves that the sender holds what `claims` ask for; `None` when they ask for nothing.
///
/// # Errors
/// [`Denial::BoundAsBearer`], [`Denial::NotBound`], [`Denial::Proof`].
pub(super) fn check(
    gateway: &Gateway,
    request: &Inbound<'_>,
    scheme: Scheme,
    mandate: &str,
    claims: &Claims,
) -> Result<Option<Box<Shown>>, Denial> {
    let Some(asked) = &claims.cnf else {
        return match scheme {
            Scheme::Bearer => Ok(None),
            Scheme::Dpop => Err(Denial::NotBound),
        };
    };
    let proof = match (asked.jkt(), scheme) {
        (Some(_), Scheme::Dpop) => Some(prove(gateway, request, mandate)?),
        (Some(_), Scheme::Bearer) => return Err(Denial::BoundAsBearer),
        (None, Scheme::Dpop) => return Err(Denial::NotBound),
        (None, Scheme::Bearer) => None,
    };
    let keys = Possession {
        jkt: proof.as_ref().map(|proof| proof.jkt),
        x5t_s256: None,
    };
    if asked.is_met_by(&keys) {
        Ok(Some(Box::new(Shown { keys, proof })))
    } else {
        Err(Denial::Proof(ProofFault::OtherKey))
    }
}

fn prove(gateway: &Gateway, request: &Inbound<'_>, mandate: &str) -> Result<Proof, Denial> {
    let mut values = request.headers().get_all(PROOF_HEADER).iter();
    let text = values.next().ok_or(Denial::Proof(ProofFault::Missing))?;
    let text = text.to_str().ok().filter(|_text| values.next().is_none());
    let text = text.ok_or(Denial::Proof(ProofFault::Several))?;
    let refused = |error: ProofError| Denial::Proof(error.into());
    let unverified = UnverifiedProof::parse(text).map_err(refused)?;
    let rules = ProofRules {
        method: request.head().method.as_str(),
        targets: &targets(gateway, request),
        access_token: Some(mandate),
        age_max_seconds: PROOF_AGE_MAX_S,
        leeway_seconds: LEEWAY_S,
    };
    let now = UnixSeconds(gateway.clock.unix_seconds());
    unverified.verify(&rules, now).map_err(refused)
}

/// The addresses by which a client may know this request: under the public URLs of the gateway, or, where none is configured,
/// the one the client asked for.
fn targets(gateway: &Gateway, request: &Inbound<'_>) -> Vec<Target> {
    let path = request.raw_path().unwrap_or_default();
    let bases: Vec<Cow<'_, str>> = if gateway.config.public_urls.is_empty() {
        let is_trusted = gateway.config.trust.covers(request.peer().ip());
        let scheme = client_scheme(request, is_trusted);
        let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
        host.map(|host| format!("{scheme}://{host}").into())
            .into_iter()
            .collect()
    } else {
        let configured = gateway.config.public_urls.iter();
        configured.map(|url| url.trim_end_matches('/').into()).collect()
    };
    bases
        .iter()
        .filter_map(|base| Target::parse(&format!("{base}{path}")))
        .collect()
}
