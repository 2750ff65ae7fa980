//! What does this compact JWS hold? For tokens of others: client assertions and proofs of possession.
//!
//! Split and parsed once, nothing of it proven. ES256 alone (RFC 7518 section 3.4), no extensions (RFC 7515 section 4.1.11).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::id_token::is_object;
use crate::jwk::RawJwk;
use crate::unverified::SIGNATURE_BYTES;

/// Why a text is not the compact JWS that was expected.
#[derive(Debug, thiserror::Error)]
pub enum MalformedJws {
    /// Not three segments separated by dots.
    #[error("a signed token has three segments")]
    Segments,
    /// The header is not base64url of the JSON object expected here, or asks for an extension.
    #[error("the header is malformed")]
    Header,
    /// The header names another algorithm than ES256; `none` is one of those.
    #[error("the algorithm is not ES256")]
    Algorithm,
    /// The header names another type of token.
    #[error("the token is of another type")]
    Type,
    /// The payload is not base64url of the JSON object expected here.
    #[error("the payload is malformed")]
    Payload,
    /// The signature is not base64url of exactly 64 bytes.
    #[error("the signature is malformed")]
    Signature,
}

/// The parts of a compact JWS, unproven.
#[derive(Debug)]
pub(crate) struct Compact<'a, C> {
    pub(crate) signing_input: &'a [u8],
    pub(crate) signature: [u8; SIGNATURE_BYTES],
    pub(crate) kid: Option<String>,
    /// The key the header holds.
    pub(crate) jwk: Option<RawJwk>,
    pub(crate) claims: C,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    typ: Option<String>,
    #[serde(default)]
    jwk: Option<RawJwk>,
    #[serde(default)]
    crit: Option<IgnoredAny>,
}

impl<'a, C: DeserializeOwned> Compact<'a, C> {
    /// Splits and parses `text`; the caller bounds its length. `is_type` judges the header's `typ`.
    pub(crate) fn parse(text: &'a str, is_type: impl Fn(Option<&str>) -> bool) -> Result<Self, MalformedJws> {
        let (signing_input, signature) = text.rsplit_once('.').ok_or(MalformedJws::Segments)?;
        let (header, payload) = signing_input.split_once('.').ok_or(MalformedJws::Segments)?;
        if payload.contains('.') {
            return Err(MalformedJws::Segments);
        }
        let header = URL_SAFE_NO_PAD.decode(header).or(Err(MalformedJws::Header))?;
        if !is_object(&header) {
            return Err(MalformedJws::Header);
        }
        let header: Header = serde_json::from_slice(&header).or(Err(MalformedJws::Header))?;
        if header.alg != "ES256" {
            return Err(MalformedJws::Algorithm);
        }
        if header.crit.is_some() {
            return Err(MalformedJws::Header);
        }
        if !is_type(header.typ.as_deref()) {
            return Err(MalformedJws::Type);
        }
        let signature = URL_SAFE_NO_PAD
            .decode(signature)
            .or(Err(MalformedJws::Signature))?;
        let payload = URL_SAFE_NO_PAD.decode(payload).or(Err(MalformedJws::Payload))?;
        if !is_object(&payload) {
            return Err(MalformedJws::Payload);
        }
        Ok(Self {
            signing_input: signing_input.as_bytes(),
            signature: signature.try_into().or(Err(MalformedJws::Signature))?,
            kid: header.kid,
            jwk: header.jwk,
            claims: serde_json::from_slice(&payload).or(Err(MalformedJws::Payload))?,
        })
    }
}
