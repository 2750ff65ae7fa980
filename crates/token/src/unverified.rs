//! What does this bearer claim to be? Split and parsed once, nothing of it proven.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::borrow::Cow;

use crate::Claims;
use crate::mandate_mac::PresentedMac;

/// Length of a raw P-256 signature, R and S of 32 bytes each (RFC 7518 section 3.4).
pub(crate) const SIGNATURE_BYTES: usize = 64;

/// Why a bearer is not even the shape of a mandate.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// Not three segments separated by dots.
    #[error("a token has three segments")]
    Segments,
    /// The header is not base64url of the JSON object expected here, or asks for an extension
    /// (`crit`, RFC 7515 section 4.1.11) or a type this crate does not know.
    #[error("the token header is malformed")]
    Header,
    /// The header names another algorithm than ES256; `none` is one of those.
    #[error("the token algorithm is not ES256")]
    Algorithm,
    /// The header has no key id.
    #[error("the token header names no key")]
    KeyId,
    /// The payload is not base64url.
    #[error("the token payload is not base64url")]
    Payload,
    /// The payload is not a claim set: a claim is missing, given twice, or has the wrong type.
    #[error("the token payload is not a claim set")]
    Claims(#[source] serde_json::Error),
    /// The signature is not base64url of exactly 64 bytes.
    #[error("the token signature is malformed")]
    Signature,
}

/// A bearer that has the shape of a mandate and has proven nothing.
///
/// Its claims may be used to choose keys and to refuse early, never to allow.
#[derive(Debug)]
pub struct UnverifiedToken<'a> {
    text: &'a str,
    pub(crate) signing_input: &'a [u8],
    pub(crate) payload: &'a [u8],
    pub(crate) signature: [u8; SIGNATURE_BYTES],
    pub(crate) kid: Box<str>,
    pub(crate) mac: Option<PresentedMac>,
    pub(crate) claims: Claims,
}

impl<'a> UnverifiedToken<'a> {
    /// Splits a compact JWS (RFC 7515 section 7.1) and parses its header and claims, once.
    ///
    /// The caller bounds the length of `text`; the work is proportional to it.
    ///
    /// # Errors
    /// [`Malformed`] when `text` is not three strict base64url segments with an ES256 header that
    /// names a key, a complete claim set, and a 64-byte signature.
    pub fn parse(text: &'a str) -> Result<Self, Malformed> {
        let (signing_input, signature) = text.rsplit_once('.').ok_or(Malformed::Segments)?;
        let (header, payload) = signing_input.split_once('.').ok_or(Malformed::Segments)?;
        if payload.contains('.') {
            return Err(Malformed::Segments);
        }
        let (kid, mac) = parse_header(header)?;
        let signature = parse_signature(signature)?;
        let claims = URL_SAFE_NO_PAD.decode(payload).or(Err(Malformed::Payload))?;
        // Looked at as text once, and not string by string.
        let claims = match std::str::from_utf8(&claims) {
            Ok(claims) => serde_json::from_str(claims),
            Err(_not_text) => serde_json::from_slice(&claims),
        };
        let claims = claims.map_err(Malformed::Claims)?;
        Ok(Self {
            text,
            signing_input: signing_input.as_bytes(),
            payload: payload.as_bytes(),
            signature,
            kid,
            mac,
            claims,
        })
    }

    /// The text this token was parsed from.
    pub fn as_str(&self) -> &'a str {
        self.text
    }

    /// The id of the key the token says it was signed with.
    pub fn unverified_kid(&self) -> &str {
        &self.kid
    }

    /// The claims nobody has vouched for yet.
    pub fn unverified_claims(&self) -> &Claims {
        &self.claims
    }
}

#[derive(Deserialize)]
struct Header<'a> {
    #[serde(borrow)]
    alg: Cow<'a, str>,
    #[serde(borrow, default)]
    kid: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    typ: Option<Cow<'a, str>>,
    #[serde(default)]
    crit: Option<IgnoredAny>,
    #[serde(default)]
    mac: Option<IgnoredAny>,
}

/// The key id, and the MAC if there is one.
fn parse_header(segment: &str) -> Result<(Box<str>, Option<PresentedMac>), Malformed> {
    let bytes = URL_SAFE_NO_PAD.decode(segment).or(Err(Malformed::Header))?;
    let header: Header<'_> = serde_json::from_slice(&bytes).or(Err(Malformed::Header))?;
    if header.alg != "ES256" {
        return Err(Malformed::Algorithm);
    }
    if header.crit.is_some() || !header.typ.as_deref().is_none_or(is_known_type) {
        return Err(Malformed::Header);
    }
    let has_mac = header.mac.is_some();
    let kid: Box<str> = match header.kid {
        Some(kid) if !kid.is_empty() => kid.into(),
        _ => return Err(Malformed::KeyId),
    };
    Ok((kid, has_mac.then_some(bytes).and_then(PresentedMac::of)))
}

/// `JWT` is what the STS writes; `at+jwt` is RFC 9068 section 2.1. Media types ignore case.
fn is_known_type(typ: &str) -> bool {
    ["JWT", "at+jwt", "application/at+jwt"]
        .iter()
        .any(|known| typ.eq_ignore_ascii_case(known))
}

/// A DER signature, and one with a byte too many or too few, is refused by its length.
fn parse_signature(segment: &str) -> Result<[u8; SIGNATURE_BYTES], Malformed> {
    let bytes = URL_SAFE_NO_PAD.decode(segment).or(Err(Malformed::Signature))?;
    bytes.try_into().or(Err(Malformed::Signature))
}
