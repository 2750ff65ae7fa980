//! What do all replicas know of the certificates they have obtained? One document, sealed by the gateways for the gateways.

use std::collections::BTreeMap;

use aws_lc_rs::hmac;
use caracal_bus::HmacKey;
use caracal_token::envelope::{Kek, KekError, Keyring, OpenError, SealError};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// What the sealing key is derived for (`docs/contract/wire-formats.md`, "Documents of gateways").
const KEY_PURPOSE: &[u8] = b"caracal/gateway-documents/v1";

/// What all replicas know.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Document {
    /// The account at the authority, its key included; as the library writes it.
    #[serde(default)]
    pub(super) account: Option<serde_json::Value>,
    /// Certificates by name.
    #[serde(default)]
    pub(super) issued: BTreeMap<String, Issued>,
    /// What the authority may ask for now.
    #[serde(default)]
    pub(super) challenges: Vec<PendingChallenge>,
    /// Names that could not be had, until they are.
    #[serde(default)]
    pub(super) failures: BTreeMap<String, Failure>,
}

/// A certificate that was obtained.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Issued {
    /// The chain, PEM.
    pub(super) chain: String,
    /// Its key, PEM.
    pub(super) key: String,
}

/// A challenge the authority may come for.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PendingChallenge {
    /// Which name is to be proved.
    pub(super) domain: String,
    /// Which question is asked (RFC 8555 section 8.3).
    pub(super) token: String,
    /// The answer to it (section 8.1).
    pub(super) key_authorization: String,
}

/// How obtaining a certificate went last, shared so that replicas do not fail one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failure {
    /// Failures in a row.
    pub(super) attempts: u32,
    /// Not to be tried before (Unix).
    pub(super) not_before_unix_s: i64,
}

/// A document that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum DocumentError {
    /// It is sealed by another key, or was changed.
    #[error("it was not sealed by these gateways")]
    Open(#[source] OpenError),
    /// It is none.
    #[error("it cannot be read")]
    Json(#[source] serde_json::Error),
    /// It cannot be sealed.
    #[error("it cannot be sealed")]
    Seal(#[source] SealError),
}

/// Seals documents with a key that follows from that of the exchange: who holds that one can open them.
#[derive(Debug)]
pub(super) struct DocumentSeal {
    keyring: Keyring,
    location: Vec<u8>,
}

impl DocumentSeal {
    /// For the document of this name, under a key that follows from that of the exchange.
    ///
    /// # Errors
    /// [`KekError`]: never, but for a derived key that looks like a typed one.
    pub(super) fn new(exchange_key: &HmacKey, name: &str) -> Result<Self, KekError> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, exchange_key.expose());
        let derived = Zeroizing::new(hex::encode(hmac::sign(&key, KEY_PURPOSE)));
        Ok(Self {
            keyring: Keyring::new(Kek::from_hex(&derived)?, None),
            location: name.as_bytes().to_vec(),
        })
    }

    /// Makes it unreadable for all but the gateways.
    ///
    /// # Errors
    /// [`DocumentError`].
    pub(super) fn seal(&self, document: &Document) -> Result<Vec<u8>, DocumentError> {
        let json = Zeroizing::new(serde_json::to_vec(document).map_err(DocumentError::Json)?);
        self.keyring
            .seal(&json, &self.location)
            .map_err(DocumentError::Seal)
    }

    /// Reads what a gateway has sealed.
    ///
    /// # Errors
    /// [`DocumentError`].
    pub(super) fn open(&self, sealed: &[u8]) -> Result<Document, DocumentError> {
        let json = self
            .keyring
            .open(sealed, &self.location)
            .map_err(DocumentError::Open)?;
        serde_json::from_slice(&json).map_err(DocumentError::Json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_gateways_with_the_same_key_read_a_document() {
        let seal = |key: u8, name: &str| DocumentSeal::new(&HmacKey::new(vec![key; 32]), name).unwrap();
        let mut document = Document::default();
        let issued = Issued {
            chain: "chain".to_owned(),
            key: "key".to_owned(),
        };
        document.issued.insert("a.example".to_owned(), issued.clone());
        let sealed = seal(1, "acme-1").seal(&document).unwrap();
        assert!(!sealed.windows(5).any(|bytes| bytes == b"chain"));
        let opened = seal(1, "acme-1").open(&sealed).unwrap();
        assert!(opened.issued["a.example"] == issued);
        assert!(seal(2, "acme-1").open(&sealed).is_err(), "another installation");
        assert!(seal(1, "acme-2").open(&sealed).is_err(), "another authority");
        let mut changed = sealed.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert!(seal(1, "acme-1").open(&changed).is_err());
    }

    #[test]
    fn a_document_of_a_newer_gateway_is_read_as_far_as_it_is_understood() {
        let document: Document = serde_json::from_str(r#"{"later":1,"failures":{}}"#).unwrap();
        assert!(document.account.is_none() && document.issued.is_empty());
    }
}
