//! Which keys sign the messages of the streams, and whether a message was signed with one of them.

use std::fmt;
use std::sync::Arc;

use caracal_wire::stream::{self, Fields};
use zeroize::Zeroizing;

use crate::error::BusError;

/// A secret HMAC-SHA256 key. Its bytes are wiped when the last copy goes and never shown.
#[derive(Clone)]
pub struct HmacKey(Arc<Zeroizing<Vec<u8>>>);

impl HmacKey {
    /// The key made of `bytes` (decoded, not hexadecimal text).
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Arc::new(Zeroizing::new(bytes.into())))
    }

    /// The secret bytes, for computing a signature.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for HmacKey {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(bytes)
    }
}

impl From<&[u8]> for HmacKey {
    fn from(bytes: &[u8]) -> Self {
        Self::new(bytes)
    }
}

impl fmt::Debug for HmacKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("HmacKey([redacted])")
    }
}

/// The keys of stream messages: messages are signed with the current one and accepted under the current or the
/// previous one, so that a key can be replaced while services run.
///
/// Without a current key nothing is signed and everything is accepted; configuration allows that in mode `dev`
/// only (docs/contract/streams.md, "Signature").
#[derive(Clone, Debug, Default)]
pub struct StreamKeys {
    current: Option<HmacKey>,
    previous: Option<HmacKey>,
}

impl StreamKeys {
    /// Keys as configured (`STREAMS_HMAC_KEY` and the key it replaced).
    pub fn new(current: Option<HmacKey>, previous: Option<HmacKey>) -> Self {
        Self { current, previous }
    }

    /// One key, nothing before it.
    pub fn single(current: HmacKey) -> Self {
        Self::new(Some(current), None)
    }

    /// No key: nothing is signed and everything verifies. For mode `dev`.
    pub fn unsigned() -> Self {
        Self::default()
    }

    /// Whether messages must be signed.
    pub fn is_required(&self) -> bool {
        self.current.is_some()
    }

    /// `fields` with `_sig` for `stream`; a `_sig` already there is replaced.
    ///
    /// # Errors
    /// [`BusError::ControlCharacter`] when a key or value holds one: the signed text would be ambiguous.
    pub fn sign(&self, stream: &str, mut fields: Fields) -> Result<Fields, BusError> {
        fields.remove(stream::SIG);
        if let Some(signature) = self.signature(stream, &fields)? {
            fields.insert(stream::SIG.to_owned(), signature);
        }
        Ok(fields)
    }

    /// What `_sig` of `fields`, which have none, is to be; `None` without a key.
    ///
    /// # Errors
    /// As [`StreamKeys::sign`].
    pub(crate) fn signature(&self, stream: &str, fields: &Fields) -> Result<Option<String>, BusError> {
        let Some(key) = &self.current else { return Ok(None) };
        let signature = stream::sign(key.expose(), stream, fields);
        signature
            .map(Some)
            .map_err(|_control_character| BusError::ControlCharacter)
    }

    /// Whether `fields` of `stream` carry a signature under the current or the previous key. Always true without
    /// a current key. Compares in constant time; costs one HMAC-SHA256 for each key tried.
    pub fn verify(&self, stream: &str, fields: &Fields) -> bool {
        let Some(current) = &self.current else { return true };
        match &self.previous {
            Some(previous) => stream::verify(&[current.expose(), previous.expose()], stream, fields),
            None => stream::verify(&[current.expose()], stream, fields),
        }
    }
}
