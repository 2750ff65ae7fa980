//! Who does another issuer say the user is? ID tokens (`OpenID` Connect Core 1.0 section 2), verified with that issuer's keys.
//!
//! Nothing here is about mandates: other algorithms, other claims, other people's keys. The rules are those of
//! `docs/contract/federation.md`.

mod keys;
#[cfg(test)]
mod tests;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use caracal_model::{SubjectId, UnixSeconds};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};

use crate::claims::audience;
use crate::digest;

pub use keys::{IssuerKeys, IssuerKeysError};

/// Why an ID token is not believed. The texts are safe to show: none repeats anything of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum IdTokenError {
    /// Not a compact JWS with a JSON header and a claim set.
    #[error("malformed token")]
    Malformed,
    /// Something else the issuer signed: an access token, a logout token.
    #[error("token is not an ID token")]
    Kind,
    /// An algorithm other than RS256, RS384, RS512, ES256, ES384 and ES512.
    #[error("unsupported algorithm")]
    Algorithm,
    /// The header names no key.
    #[error("token names no key")]
    KeyId,
    /// The issuer publishes no such key for this algorithm.
    #[error("unknown signing key")]
    UnknownKey,
    /// The signature is not that key's.
    #[error("invalid signature")]
    Signature,
    /// `iss` is another issuer.
    #[error("issuer mismatch")]
    Issuer,
    /// `aud` does not contain the configured audience, or `azp` names another party.
    #[error("audience mismatch")]
    Audience,
    /// `exp` has passed, leeway included.
    #[error("token expired")]
    Expired,
    /// `exp` is further away than is accepted.
    #[error("token lives too long")]
    LivesTooLong,
    /// `iat` or `nbf` lies in the future, beyond the leeway.
    #[error("token issued in the future")]
    NotYetValid,
    /// `sub` cannot name a subject here.
    #[error("unacceptable subject")]
    Subject,
}

/// What a verified ID token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user, byte for byte as the issuer wrote it.
    pub subject: SubjectId,
    /// When the token was made, in Unix seconds, at the earliest: the issuer's clock may have been ahead.
    pub issued_at: UnixSeconds,
    /// When the token ends, in Unix seconds.
    pub expires_at: UnixSeconds,
    /// SHA-256 over what was signed. Not over the signature: an ECDSA signature has a second form that is valid too, and a
    /// token is the same token under either.
    pub fingerprint: [u8; 32],
}

/// What is demanded of an ID token besides its signature.
#[derive(Debug, Clone, Copy)]
pub struct IdTokenRules<'a> {
    /// The only accepted issuer, compared byte for byte.
    pub issuer: &'a str,
    /// What `aud` must contain.
    pub audience: &'a str,
    /// Clock difference granted to the times, in seconds.
    pub leeway_seconds: i64,
    /// Longest time from now to the expiry, in seconds: so long its use is remembered.
    pub life_max_seconds: i64,
}

/// An ID token that has the shape of one and has proven nothing.
#[derive(Debug)]
pub struct UnverifiedIdToken<'a> {
    signing_input: &'a [u8],
    signature: Vec<u8>,
    algorithm: Algorithm,
    kid: Box<str>,
    claims: IdClaims,
}

/// The signature algorithms of issuers that are accepted (RFC 7518 section 3.1). `none` and those with shared keys are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Es256,
    Es384,
    Es512,
}

impl Algorithm {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "ES512" => Self::Es512,
            _ => return None,
        })
    }
}

#[derive(Debug, Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    typ: Option<String>,
    #[serde(default)]
    crit: Option<IgnoredAny>,
}

/// A claim given twice is refused by the reader: which of both would count?
#[derive(Debug, Deserialize)]
struct IdClaims {
    iss: String,
    sub: String,
    #[serde(deserialize_with = "audience")]
    aud: Vec<String>,
    #[serde(deserialize_with = "numeric_date")]
    exp: i64,
    #[serde(deserialize_with = "numeric_date")]
    iat: i64,
    #[serde(default, deserialize_with = "optional_numeric_date")]
    nbf: Option<i64>,
    #[serde(default)]
    azp: Option<String>,
    /// What is said of an access token (RFC 9068 section 2.2), and by some issuers with another name.
    #[serde(default)]
    scope: Option<IgnoredAny>,
    #[serde(default)]
    scp: Option<IgnoredAny>,
    #[serde(default)]
    client_id: Option<IgnoredAny>,
    /// What a security event says (RFC 8417 section 2.2), e.g. a logout token.
    #[serde(default)]
    events: Option<IgnoredAny>,
    /// What only an ID token says (`OpenID` Connect Core 1.0 sections 2, 3.1.3.6 and 3.3.2.11).
    #[serde(default)]
    nonce: Option<IgnoredAny>,
    #[serde(default)]
    at_hash: Option<IgnoredAny>,
    #[serde(default)]
    c_hash: Option<IgnoredAny>,
}

impl IdClaims {
    /// Whether these claims are of another kind of token. Issuers sign all their tokens with the same keys, and many write `JWT`
    /// into the header of each.
    fn is_of_another_kind(&self) -> bool {
        let says_of_access = self.scope.is_some() || self.scp.is_some() || self.client_id.is_some();
        let says_of_identity = self.nonce.is_some() || self.at_hash.is_some() || self.c_hash.is_some();
        self.events.is_some() || (says_of_access && !says_of_identity)
    }
}

/// Seconds since 1970, with a fraction or without (RFC 7519 section 2).
fn numeric_date<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let number = serde_json::Number::deserialize(deserializer)?;
    seconds(&number).ok_or_else(|| serde::de::Error::custom("not a date"))
}

fn optional_numeric_date<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    match Option::<serde_json::Number>::deserialize(deserializer)? {
        None => Ok(None),
        Some(number) => seconds(&number)
            .map(Some)
            .ok_or_else(|| serde::de::Error::custom("not a date")),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a float is cut to its range, which is checked"
)]
fn seconds(number: &serde_json::Number) -> Option<i64> {
    let seconds = match number.as_i64() {
        Some(seconds) => seconds,
        None => number.as_f64().filter(|seconds| seconds.is_finite())?.floor() as i64,
    };
    // The year 9999: later is no date anybody means.
    (0..=253_402_300_799).contains(&seconds).then_some(seconds)
}

impl<'a> UnverifiedIdToken<'a> {
    /// Splits and parses a compact JWS. The caller bounds the length of `text`.
    ///
    /// # Errors
    /// [`IdTokenError::Malformed`], [`IdTokenError::Algorithm`], [`IdTokenError::KeyId`], [`IdTokenError::Kind`].
    pub fn parse(text: &'a str) -> Result<Self, IdTokenError> {
        let (signing_input, signature) = text.rsplit_once('.').ok_or(IdTokenError::Malformed)?;
        let (header, payload) = signing_input.split_once('.').ok_or(IdTokenError::Malformed)?;
        let header: Header = json(header)?;
        let algorithm = Algorithm::parse(&header.alg).ok_or(IdTokenError::Algorithm)?;
        // An access token of the same issuer (RFC 9068) is not an ID token, whatever it says about its subject.
        let is_id_token = header.typ.is_none_or(|typ| typ.eq_ignore_ascii_case("JWT"));
        if header.crit.is_some() || !is_id_token {
            return Err(IdTokenError::Malformed);
        }
        let kid = header
            .kid
            .filter(|kid| !kid.is_empty())
            .ok_or(IdTokenError::KeyId)?;
        let signature = URL_SAFE_NO_PAD
            .decode(signature)
            .map_err(|_malformed| IdTokenError::Malformed)?;
        let claims: IdClaims = json(payload)?;
        if claims.is_of_another_kind() {
            return Err(IdTokenError::Kind);
        }
        Ok(Self {
            signing_input: signing_input.as_bytes(),
            signature,
            algorithm,
            kid: kid.into(),
            claims,
        })
    }

    /// The issuer the token says it is of, to choose whose keys to ask. Nobody has vouched for it.
    pub fn unverified_issuer(&self) -> &str {
        &self.claims.iss
    }

    /// Proves the token: the key by its id, the signature, then the rules.
    ///
    /// # Errors
    /// The first [`IdTokenError`]: [`IdTokenError::UnknownKey`] before anything of the claims is looked at.
    pub fn verify(
        &self,
        keys: &IssuerKeys,
        rules: &IdTokenRules<'_>,
        now: UnixSeconds,
    ) -> Result<Identity, IdTokenError> {
        keys.verify(&self.kid, self.algorithm, self.signing_input, &self.signature)?;
        let claims = &self.claims;
        if claims.iss != rules.issuer {
            return Err(IdTokenError::Issuer);
        }
        check_audience(claims, rules.audience)?;
        if now.0 >= claims.exp.saturating_add(rules.leeway_seconds) {
            return Err(IdTokenError::Expired);
        }
        let latest = now.0.saturating_add(rules.leeway_seconds);
        if claims.exp > latest.saturating_add(rules.life_max_seconds) {
            return Err(IdTokenError::LivesTooLong);
        }
        if claims.iat > latest || claims.nbf.is_some_and(|from| from > latest) {
            return Err(IdTokenError::NotYetValid);
        }
        Ok(Identity {
            subject: subject(&claims.sub).ok_or(IdTokenError::Subject)?,
            issued_at: UnixSeconds(claims.iat.saturating_sub(rules.leeway_seconds)),
            expires_at: UnixSeconds(claims.exp),
            fingerprint: digest(self.signing_input),
        })
    }
}

/// A token for several audiences says in `azp` for whom it was made (`OpenID` Connect Core 1.0 section 3.1.3.7).
fn check_audience(claims: &IdClaims, audience: &str) -> Result<(), IdTokenError> {
    let is_named = claims.aud.iter().any(|named| named == audience);
    let is_for_us = claims.aud.len() == 1 || claims.azp.as_deref() == Some(audience);
    if is_named && is_for_us {
        Ok(())
    } else {
        Err(IdTokenError::Audience)
    }
}

/// The subject as it came, unless it could be taken for something else: by us (`caracal:`), or by whoever reads it.
fn subject(text: &str) -> Option<SubjectId> {
    let is_deceptive = |c: char| {
        c.is_control() || matches!(c, '\u{fffd}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let is_acceptable = !text.starts_with("caracal:") && text.trim() == text && !text.contains(is_deceptive);
    is_acceptable.then(|| SubjectId::try_from(text).ok()).flatten()
}

fn json<T: serde::de::DeserializeOwned>(segment: &str) -> Result<T, IdTokenError> {
    let bytes = URL_SAFE_NO_PAD
        .decode(segment)
        .map_err(|_malformed| IdTokenError::Malformed)?;
    // A list would be read as the members in their order (RFC 7519 section 7.2 wants an object).
    if !is_object(&bytes) {
        return Err(IdTokenError::Malformed);
    }
    serde_json::from_slice(&bytes).map_err(|_malformed| IdTokenError::Malformed)
}

/// Whether JSON text begins as an object does.
pub(crate) fn is_object(text: &[u8]) -> bool {
    text.trim_ascii_start().first() == Some(&b'{')
}
