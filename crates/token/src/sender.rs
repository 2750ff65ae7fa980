//! May whoever sends a mandate send it: has he shown every key it is bound to? (RFC 9449 section 7, RFC 8705 section 3)
//!
//! The gateway and the coordinator ask the same question of their requests. Whether a proof was used before is for them to
//! decide: it takes whoever remembers.

use caracal_model::UnixSeconds;

use crate::client_certificate::CertificateFault;
use crate::dpop::{Proof, ProofError, ProofRules, UnverifiedProof};
use crate::{Confirmation, Possession, Thumbprint};

/// How old a proof may be, in seconds.
pub const PROOF_AGE_MAX_SECONDS: i64 = 60;

/// How a mandate is presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Without a proof of a key.
    Bearer,
    /// With a proof of the key it is bound to.
    Dpop,
}

impl Scheme {
    /// The scheme of an `Authorization` header, in any case (RFC 9110 section 11.1).
    pub fn parse(text: &str) -> Option<Self> {
        [("bearer", Self::Bearer), ("dpop", Self::Dpop)]
            .into_iter()
            .find_map(|(name, scheme)| text.eq_ignore_ascii_case(name).then_some(scheme))
    }
}

/// Why a proof does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofFault {
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

/// Why a mandate is not taken from this sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SenderFault {
    /// It is bound to the key of proofs, and came as a bearer.
    #[error("token is bound to a key")]
    BoundAsBearer,
    /// It is bound to no key a proof could be made with.
    #[error("token is not bound to a key")]
    NotBound,
    /// The proof does not count.
    #[error(transparent)]
    Proof(#[from] ProofFault),
    /// The certificate does not count.
    #[error(transparent)]
    Certificate(#[from] CertificateFault),
}

impl SenderFault {
    /// `WWW-Authenticate` of the 401 that says so (RFC 6750 section 3, RFC 9449 section 7.1).
    pub fn challenge(&self) -> &'static str {
        match self {
            Self::BoundAsBearer => "DPoP error=\"invalid_token\", algs=\"ES256\"",
            Self::Proof(_) => "DPoP error=\"invalid_dpop_proof\", algs=\"ES256\"",
            Self::NotBound | Self::Certificate(_) => "Bearer error=\"invalid_token\"",
        }
    }
}

/// The keys a sender has shown: all that the mandate asks for.
#[derive(Debug, PartialEq, Eq)]
pub struct Shown {
    keys: Possession,
    proof: Option<Proof>,
}

impl Shown {
    /// Which keys.
    pub fn keys(&self) -> &Possession {
        &self.keys
    }

    /// The proof of one, to be used up.
    pub fn proof(&self) -> Option<&Proof> {
        self.proof.as_ref()
    }
}

/// Whether a mandate with the confirmation `asked` may be taken as it was presented; `None` when it asks for nothing. `prove`
/// and `certificate` look at the request, and only when the mandate asks for that.
///
/// # Errors
/// [`SenderFault`].
pub fn check(
    asked: Option<&Confirmation>,
    scheme: Scheme,
    prove: impl FnOnce() -> Result<Proof, ProofFault>,
    certificate: impl FnOnce() -> Result<Thumbprint, CertificateFault>,
) -> Result<Option<Shown>, SenderFault> {
    match (asked, asked.and_then(Confirmation::jkt), scheme) {
        (None, _, Scheme::Bearer) => return Ok(None),
        (_, None, Scheme::Dpop) => return Err(SenderFault::NotBound),
        (_, Some(_), Scheme::Bearer) => return Err(SenderFault::BoundAsBearer),
        (_, Some(_), Scheme::Dpop) | (Some(_), None, Scheme::Bearer) => {}
    }
    let Some(asked) = asked else { return Ok(None) };
    let x5t_s256 = asked.x5t_s256().map(|_asked| certificate()).transpose()?;
    if x5t_s256.as_ref() != asked.x5t_s256() {
        return Err(CertificateFault::Other.into());
    }
    let proof = asked.jkt().map(|_asked| prove()).transpose()?;
    let keys = Possession {
        jkt: proof.as_ref().map(|proof| proof.jkt),
        x5t_s256,
    };
    if asked.is_met_by(&keys) {
        Ok(Some(Shown { keys, proof }))
    } else {
        Err(ProofFault::OtherKey.into())
    }
}

/// The proof in the values of the header `DPoP`, if it holds for the request `rules` describe. One signature check, about 60
/// microseconds.
///
/// # Errors
/// [`ProofFault`], never [`ProofFault::OtherKey`] and [`ProofFault::Used`].
pub fn prove<'h>(
    values: impl IntoIterator<Item = &'h [u8]>,
    rules: &ProofRules<'_>,
    now: UnixSeconds,
) -> Result<Proof, ProofFault> {
    let mut values = values.into_iter();
    let only = values.next().ok_or(ProofFault::Missing)?;
    let text = std::str::from_utf8(only)
        .ok()
        .filter(|_text| values.next().is_none());
    let text = text.ok_or(ProofFault::Several)?;
    Ok(UnverifiedProof::parse(text)?.verify(rules, now)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(byte: u8) -> Thumbprint {
        Thumbprint::of_digest([byte; 32])
    }

    fn bound(jkt: Option<u8>, x5t: Option<u8>) -> Option<Confirmation> {
        let keys = Possession {
            jkt: jkt.map(print),
            x5t_s256: x5t.map(print),
        };
        keys.confirmation()
    }

    fn proof(key: u8) -> Proof {
        Proof {
            jkt: print(key),
            jti: "j".to_owned(),
            nonce: None,
            made_at: UnixSeconds(0),
            until: UnixSeconds(1),
        }
    }

    #[test]
    fn a_mandate_is_taken_from_who_shows_every_key_it_is_bound_to() {
        use Scheme::{Bearer, Dpop};
        let missing = SenderFault::Certificate(CertificateFault::Missing);
        let other = SenderFault::Certificate(CertificateFault::Other);
        let no_proof = SenderFault::Proof(ProofFault::Missing);
        let other_key = SenderFault::Proof(ProofFault::OtherKey);
        for (asked, scheme, key, certificate, refused) in [
            ((None, None), Bearer, None, None, None),
            ((None, None), Bearer, Some(1), Some(2), None),
            ((None, None), Dpop, Some(1), None, Some(SenderFault::NotBound)),
            ((Some(1), None), Dpop, Some(1), None, None),
            ((Some(1), None), Dpop, Some(1), Some(9), None),
            ((Some(1), None), Dpop, Some(9), None, Some(other_key)),
            ((Some(1), None), Dpop, None, Some(1), Some(no_proof)),
            (
                (Some(1), None),
                Bearer,
                Some(1),
                None,
                Some(SenderFault::BoundAsBearer),
            ),
            ((None, Some(2)), Bearer, None, Some(2), None),
            ((None, Some(2)), Bearer, None, Some(9), Some(other)),
            ((None, Some(2)), Bearer, Some(2), None, Some(missing)),
            (
                (None, Some(2)),
                Dpop,
                Some(2),
                Some(2),
                Some(SenderFault::NotBound),
            ),
            ((Some(1), Some(2)), Dpop, Some(1), Some(2), None),
            ((Some(1), Some(2)), Dpop, Some(1), None, Some(missing)),
            ((Some(1), Some(2)), Dpop, Some(1), Some(9), Some(other)),
            ((Some(1), Some(2)), Dpop, None, Some(2), Some(no_proof)),
            ((Some(1), Some(2)), Dpop, Some(9), Some(2), Some(other_key)),
            (
                (Some(1), Some(2)),
                Bearer,
                Some(1),
                Some(2),
                Some(SenderFault::BoundAsBearer),
            ),
        ] {
            let confirmation = bound(asked.0, asked.1);
            let outcome = check(
                confirmation.as_ref(),
                scheme,
                || key.map(proof).ok_or(ProofFault::Missing),
                || certificate.map(print).ok_or(CertificateFault::Missing),
            );
            assert_eq!(
                outcome.as_ref().err().copied(),
                refused,
                "{asked:?} {scheme:?} {key:?} {certificate:?}"
            );
            if let Ok(shown) = outcome {
                let keys = shown.map(|shown| *shown.keys()).unwrap_or_default();
                assert_eq!(
                    keys.confirmation(),
                    confirmation,
                    "no more is told on than was asked for"
                );
            }
        }
    }

    #[test]
    fn schemes_are_written_in_any_case() {
        assert_eq!(Scheme::parse("bEARER"), Some(Scheme::Bearer));
        assert_eq!(Scheme::parse("dpop"), Some(Scheme::Dpop));
        assert_eq!(Scheme::parse("Basic"), None);
    }
}
