//! Does the sender hold the key it names, and was this said for this very request? (RFC 9449)
//!
//! Whether a proof was used before, and whether its nonce is one of ours, is for the caller to decide: it knows every other
//! verifier.

pub mod nonce;
mod target;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use caracal_model::UnixSeconds;
use serde::Deserialize;

use crate::compact::Compact;
use crate::{MalformedJws, Thumbprint};

pub use target::Target;

/// Name of the header that carries a proof, in lower case.
pub const PROOF_HEADER: &str = "dpop";
/// Name of the header that carries a nonce for the next proof, in lower case.
pub const NONCE_HEADER: &str = "dpop-nonce";
/// What proofs may be signed with.
pub const ALGORITHMS: [&str; 1] = ["ES256"];

/// Longest proof that is looked at, in bytes.
const PROOF_BYTES_MAX: usize = 4 << 10;
/// Longest id of a proof, in bytes.
const JTI_BYTES_MAX: usize = 256;

/// What a proof says (RFC 9449 section 4.2). Claims it does not need are passed over.
#[derive(Debug, Deserialize)]
struct Claims {
    jti: String,
    htm: String,
    htu: String,
    iat: i64,
    #[serde(default)]
    ath: Option<String>,
    #[serde(default)]
    nonce: Option<String>,
}

/// A proof that has the right shape and has proven nothing.
#[derive(Debug)]
pub struct UnverifiedProof<'a> {
    jws: Compact<'a, Claims>,
    /// The key it names, as an uncompressed SEC1 point.
    point: [u8; 65],
}

/// For which request a proof must have been made.
#[derive(Debug, Clone, Copy)]
pub struct ProofRules<'a> {
    /// The method, compared byte for byte.
    pub method: &'a str,
    /// The addresses of the request that its sender may know it by.
    pub targets: &'a [Target],
    /// The token that is presented with it, if one is: then the proof must be for that token.
    pub access_token: Option<&'a str>,
    /// How old a proof may be, in seconds.
    pub age_max_seconds: i64,
    /// Clock difference granted to its time, in seconds.
    pub leeway_seconds: i64,
}

/// Why a proof proves nothing, in the order of the checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// Longer than 4 KiB.
    #[error("the proof is too long")]
    TooLong,
    /// Not a JWS of type `dpop+jwt` signed with ES256.
    #[error("the proof is malformed")]
    Malformed,
    /// The header holds no public P-256 key, or a private one.
    #[error("the proof has no usable public key")]
    Key,
    /// The signature is not that key's signature of these bytes.
    #[error("the signature of the proof is invalid")]
    Signature,
    /// It was made for another method.
    #[error("the proof is for another method")]
    Method,
    /// It was made for another address.
    #[error("the proof is for another address")]
    Target,
    /// It is too old.
    #[error("the proof is too old")]
    Expired,
    /// It is from the future.
    #[error("the proof is from the future")]
    NotYetValid,
    /// The id is empty or too long.
    #[error("the proof has no usable id")]
    Id,
    /// It was not made for the token it came with.
    #[error("the proof is for another token")]
    AccessToken,
}

impl From<MalformedJws> for ProofError {
    fn from(_reason: MalformedJws) -> Self {
        Self::Malformed
    }
}

/// A proof that holds, if it was not used before.
#[derive(Debug, PartialEq, Eq)]
pub struct Proof {
    /// The key, by its thumbprint (RFC 7638).
    pub jkt: Thumbprint,
    /// Its id, unique for the key.
    pub jti: String,
    /// The nonce it answers, if any. Not checked.
    pub nonce: Option<String>,
    /// When it was made at the earliest: as it says, less what its clock may be ahead.
    pub made_at: UnixSeconds,
    /// From when on it is not accepted any more: so long is its id remembered.
    pub until: UnixSeconds,
}

impl<'a> UnverifiedProof<'a> {
    /// Splits and parses a proof.
    ///
    /// # Errors
    /// [`ProofError::TooLong`], [`ProofError::Malformed`], [`ProofError::Key`].
    pub fn parse(text: &'a str) -> Result<Self, ProofError> {
        if text.len() > PROOF_BYTES_MAX {
            return Err(ProofError::TooLong);
        }
        let is_type = |typ: Option<&str>| typ.is_some_and(|typ| typ.eq_ignore_ascii_case("dpop+jwt"));
        let mut jws: Compact<'a, Claims> = Compact::parse(text, is_type)?;
        let key = jws.jwk.take().ok_or(ProofError::Key)?;
        let point = key.into_proof_key().or(Err(ProofError::Key))?;
        Ok(Self { jws, point })
    }

    /// Proves that the key it names was used, and that it was for this request. One signature check, about 60 microseconds.
    ///
    /// # Errors
    /// The first [`ProofError`] in the order of its variants.
    pub fn verify(self, rules: &ProofRules<'_>, now: UnixSeconds) -> Result<Proof, ProofError> {
        let claims = self.jws.claims;
        ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.point)
            .or(Err(ProofError::Key))?
            .verify_sig(self.jws.signing_input, &self.jws.signature)
            .or(Err(ProofError::Signature))?;
        if claims.htm != rules.method {
            return Err(ProofError::Method);
        }
        if !Target::parse(&claims.htu).is_some_and(|target| rules.targets.contains(&target)) {
            return Err(ProofError::Target);
        }
        let until = claims
            .iat
            .saturating_add(rules.age_max_seconds)
            .saturating_add(rules.leeway_seconds);
        if now.0 >= until {
            return Err(ProofError::Expired);
        }
        if claims.iat > now.0.saturating_add(rules.leeway_seconds) {
            return Err(ProofError::NotYetValid);
        }
        if claims.jti.is_empty() || claims.jti.len() > JTI_BYTES_MAX {
            return Err(ProofError::Id);
        }
        let hashed = rules
            .access_token
            .map(|token| URL_SAFE_NO_PAD.encode(crate::digest(token.as_bytes())));
        if hashed.is_some() && hashed != claims.ath {
            return Err(ProofError::AccessToken);
        }
        Ok(Proof {
            jkt: thumbprint(&self.point),
            jti: claims.jti,
            nonce: claims.nonce,
            made_at: UnixSeconds(claims.iat.saturating_sub(rules.leeway_seconds)),
            until: UnixSeconds(until),
        })
    }
}

/// RFC 7638 section 3: the required members in lexicographic order, without whitespace.
fn thumbprint(point: &[u8; 65]) -> Thumbprint {
    let (x, y) = point.get(1..).unwrap_or_default().split_at(32);
    let members = format!(
        r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#,
        URL_SAFE_NO_PAD.encode(x),
        URL_SAFE_NO_PAD.encode(y)
    );
    Thumbprint::of_digest(crate::digest(members.as_bytes()))
}

#[cfg(test)]
mod tests;
