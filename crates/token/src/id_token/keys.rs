//! Which keys does an issuer publish? RSA and the three NIST curves (RFC 7517, RFC 7518 section 6).

use std::fmt;

use aws_lc_rs::signature::{
    self, EcdsaVerificationAlgorithm, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::{Algorithm, IdTokenError};

/// Keys taken from one document at most.
const KEYS_MAX: usize = 32;
/// Keys of one id at most: all of them are tried, on the thread that serves.
const KEYS_OF_ONE_ID_MAX: usize = 4;
/// Bytes of the modulus: 2048 to 8192 bits, what is verified below.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1_024;

/// Why a document cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IssuerKeysError {
    /// Not a JSON Web Key Set.
    #[error("the document is not a key set")]
    Malformed,
    /// None of its keys can verify an ID token.
    #[error("the key set has no usable key")]
    NoUsableKey,
    /// Too many of its keys have the same id.
    #[error("more than four keys of the key set have one id")]
    OneId,
}

/// The keys of one issuer that can verify its tokens.
#[derive(Debug)]
pub struct IssuerKeys(Vec<IssuerKey>);

struct IssuerKey {
    kid: String,
    /// What the key says it is for; any algorithm of its type when it says nothing.
    alg: Option<String>,
    key: Key,
}

impl fmt::Debug for IssuerKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "IssuerKey({:?})", self.kid)
    }
}

enum Key {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    Ec(Algorithm, ParsedPublicKey),
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct RawKey {
    kty: String,
    kid: String,
    #[serde(default, rename = "use")]
    usage: Option<String>,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default)]
    crv: Option<String>,
    #[serde(default)]
    x: Option<String>,
    #[serde(default)]
    y: Option<String>,
    #[serde(default)]
    n: Option<String>,
    #[serde(default)]
    e: Option<String>,
}

impl IssuerKeys {
    /// Reads a key set. Keys of other kinds or for other uses, and broken ones, are passed over.
    ///
    /// # Errors
    /// [`IssuerKeysError`].
    pub fn from_jwks_bytes(bytes: &[u8]) -> Result<Self, IssuerKeysError> {
        if !super::is_object(bytes) {
            return Err(IssuerKeysError::Malformed);
        }
        let document: Document =
            serde_json::from_slice(bytes).map_err(|_malformed| IssuerKeysError::Malformed)?;
        let keys: Vec<IssuerKey> = document
            .keys
            .into_iter()
            .filter_map(|key| read(serde_json::from_value(key).ok()?))
            .take(KEYS_MAX)
            .collect();
        if keys.is_empty() {
            return Err(IssuerKeysError::NoUsableKey);
        }
        let of_one_id = |kid: &str| keys.iter().filter(|key| key.kid == kid).count();
        if keys.iter().any(|key| of_one_id(&key.kid) > KEYS_OF_ONE_ID_MAX) {
            return Err(IssuerKeysError::OneId);
        }
        Ok(Self(keys))
    }

    /// Checks a signature with the keys of that id that fit the algorithm.
    pub(super) fn verify(
        &self,
        kid: &str,
        algorithm: Algorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), IdTokenError> {
        let fitting = self.0.iter().filter(|key| key.kid == kid && key.fits(algorithm));
        let mut refused = IdTokenError::UnknownKey;
        for key in fitting {
            if key.verify(algorithm, message, signature) {
                return Ok(());
            }
            refused = IdTokenError::Signature;
        }
        Err(refused)
    }
}

impl IssuerKey {
    fn fits(&self, algorithm: Algorithm) -> bool {
        let is_named = self
            .alg
            .as_deref()
            .is_none_or(|alg| Algorithm::parse(alg) == Some(algorithm));
        let is_able = match &self.key {
            Key::Rsa { .. } => rsa(algorithm).is_some(),
            Key::Ec(of_curve, _) => *of_curve == algorithm,
        };
        is_named && is_able
    }

    fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        match &self.key {
            Key::Ec(_, key) => key.verify_sig(message, signature).is_ok(),
            Key::Rsa { n, e } => rsa(algorithm).is_some_and(|parameters| {
                RsaPublicKeyComponents { n, e }
                    .verify(parameters, message, signature)
                    .is_ok()
            }),
        }
    }
}

fn rsa(algorithm: Algorithm) -> Option<&'static RsaParameters> {
    match algorithm {
        Algorithm::Rs256 => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::Rs384 => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
        Algorithm::Rs512 => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
        Algorithm::Es256 | Algorithm::Es384 | Algorithm::Es512 => None,
    }
}

fn read(raw: RawKey) -> Option<IssuerKey> {
    let is_for_signatures = raw
        .usage
        .as_deref()
        .is_none_or(|usage| usage.is_empty() || usage == "sig");
    if raw.kid.is_empty() || !is_for_signatures {
        return None;
    }
    let key = match raw.kty.as_str() {
        "RSA" => rsa_key(&raw)?,
        "EC" => ec_key(&raw)?,
        _ => return None,
    };
    Some(IssuerKey {
        kid: raw.kid,
        alg: raw.alg,
        key,
    })
}

/// Exponents from 3 to 2^31-1, odd: what exists in practice, and nothing that makes a check expensive.
fn rsa_key(raw: &RawKey) -> Option<Key> {
    let n = number(raw.n.as_deref()?)?;
    let e = number(raw.e.as_deref()?)?;
    let exponent = e.iter().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
    let is_usable = RSA_BYTES.contains(&n.len())
        && e.len() <= 4
        && (3..=u64::from(i32::MAX.unsigned_abs())).contains(&exponent)
        && exponent % 2 == 1;
    is_usable.then_some(Key::Rsa { n, e })
}

/// A big-endian number without leading zeros.
fn number(text: &str) -> Option<Vec<u8>> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let start = bytes.iter().position(|byte| *byte != 0)?;
    Some(bytes.get(start..)?.to_vec())
}

/// Whether the point lies on the curve is checked when the key is parsed.
fn ec_key(raw: &RawKey) -> Option<Key> {
    let (algorithm, verification, length): (_, &'static EcdsaVerificationAlgorithm, usize) =
        match raw.crv.as_deref()? {
            "P-256" => (Algorithm::Es256, &signature::ECDSA_P256_SHA256_FIXED, 32),
            "P-384" => (Algorithm::Es384, &signature::ECDSA_P384_SHA384_FIXED, 48),
            "P-521" => (Algorithm::Es512, &signature::ECDSA_P521_SHA512_FIXED, 66),
            _ => return None,
        };
    let mut point = vec![4];
    for coordinate in [raw.x.as_deref()?, raw.y.as_deref()?] {
        let bytes = URL_SAFE_NO_PAD.decode(coordinate).ok()?;
        if bytes.len() != length {
            return None;
        }
        point.extend(bytes);
    }
    let key = ParsedPublicKey::new(verification, &point).ok()?;
    Some(Key::Ec(algorithm, key))
}
