//! Which key has this id? The verification keys of one zone, parsed once.

use std::collections::HashMap;

use aws_lc_rs::error::KeyRejected;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, ParsedPublicKey};
use caracal_model::KeyId;
use serde::Deserialize;

use crate::jwk::RawJwk;
use crate::{Jwk, JwkError, JwkSet};

/// Most keys one set may hold. A zone publishes two.
const KEYS_MAX: usize = 64;

/// Why a document is not a usable key set.
#[derive(Debug, thiserror::Error)]
pub enum KeySetError {
    /// The bytes are not a JSON Web Key Set.
    #[error("not a JSON Web Key Set")]
    Json(#[from] serde_json::Error),
    /// An ES256 key of the set is malformed.
    #[error("a key of the set is malformed")]
    Key(#[from] JwkError),
    /// The coordinates of a key are not a point of the curve.
    #[error("key {kid} is not a point of P-256")]
    Point {
        /// The id of that key.
        kid: KeyId,
        /// What AWS-LC says.
        source: KeyRejected,
    },
    /// Two keys share an id, so which one verifies would be a matter of luck.
    #[error("key id {0} is used twice")]
    Duplicate(KeyId),
    /// More than 64 keys.
    #[error("the set has too many keys")]
    TooMany,
}

/// The public keys tokens of one zone may be signed with, by key id.
#[derive(Debug, Default)]
pub struct KeySet {
    keys: HashMap<KeyId, ParsedPublicKey>,
}

impl KeySet {
    /// A set without keys: verifies nothing.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Parses every key of `jwks` for verification.
    ///
    /// # Errors
    /// [`KeySetError::Point`], [`KeySetError::Duplicate`] or [`KeySetError::TooMany`].
    pub fn from_jwks(jwks: &JwkSet) -> Result<Self, KeySetError> {
        Self::from_keys(&jwks.keys)
    }

    /// Reads a published key set, passing over keys of other kinds (RFC 7517 section 5).
    ///
    /// The caller bounds the length of `bytes`.
    ///
    /// # Errors
    /// Any [`KeySetError`]. One malformed ES256 key refuses the whole document.
    pub fn from_jwks_bytes(bytes: &[u8]) -> Result<Self, KeySetError> {
        #[derive(Deserialize)]
        struct RawJwkSet {
            keys: Vec<RawJwk>,
        }
        let raw: RawJwkSet = serde_json::from_slice(bytes)?;
        let mut keys = Vec::new();
        for key in raw.keys {
            match Jwk::try_from(key) {
                Ok(key) => keys.push(key),
                Err(JwkError::OtherKind) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Self::from_keys(&keys)
    }

    /// Whether the set holds a key with this id.
    pub fn contains(&self, kid: &str) -> bool {
        self.keys.contains_key(kid)
    }

    /// How many keys the set holds.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether the set holds no key.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(crate) fn find(&self, kid: &str) -> Option<&ParsedPublicKey> {
        self.keys.get(kid)
    }

    /// The key of a set that has exactly one.
    pub(crate) fn only(&self) -> Option<&ParsedPublicKey> {
        let mut keys = self.keys.values();
        keys.next().filter(|_| keys.next().is_none())
    }

    fn from_keys(jwks: &[Jwk]) -> Result<Self, KeySetError> {
        if jwks.len() > KEYS_MAX {
            return Err(KeySetError::TooMany);
        }
        let mut keys = HashMap::with_capacity(jwks.len());
        for jwk in jwks {
            let kid = jwk.kid().clone();
            let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, jwk.uncompressed_point()).map_err(
                |source| KeySetError::Point {
                    kid: kid.clone(),
                    source,
                },
            )?;
            if keys.insert(kid.clone(), key).is_some() {
                return Err(KeySetError::Duplicate(kid));
            }
        }
        Ok(Self { keys })
    }
}
