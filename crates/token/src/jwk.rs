//! How is a public key published? As an EC P-256 JSON Web Key (RFC 7517, RFC 7518 section 6.2).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use caracal_model::KeyId;
use serde::de::IgnoredAny;
use serde::ser::SerializeStruct as _;
use serde::{Deserialize, Serialize, Serializer};

/// Why a JSON Web Key cannot verify mandates.
#[derive(Debug, thiserror::Error)]
pub enum JwkError {
    /// A key of another kind: not EC P-256, not ES256, or not for verifying signatures.
    #[error("the key is not an ES256 verification key")]
    OtherKind,
    /// No `kid`, or one that is not an identifier.
    #[error("the key has no usable key id")]
    KeyId,
    /// `x` or `y` is not base64url of 32 bytes.
    #[error("a coordinate is not base64url of 32 bytes")]
    Coordinate,
    /// The document holds a private key, which has no business in a published set.
    #[error("the key is a private key")]
    Private,
}

/// The public half of a zone signing key.
///
/// Serialises to `{"kty":"EC","crv":"P-256","use":"sig","kid":…,"alg":"ES256","x":…,"y":…}` with
/// unpadded base64url coordinates (`docs/contract/keys.md`, section "JWKS").
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawJwk")]
pub struct Jwk {
    kid: KeyId,
    x: [u8; 32],
    y: [u8; 32],
}

impl Jwk {
    /// A key from its uncompressed SEC1 point (0x04, X, Y).
    pub(crate) fn from_uncompressed_point(kid: KeyId, point: &[u8]) -> Option<Self> {
        let (tag, coordinates) = point.split_first()?;
        let (x, y) = coordinates.split_at_checked(32)?;
        (*tag == 4).then_some(Self {
            kid,
            x: x.try_into().ok()?,
            y: y.try_into().ok()?,
        })
    }

    /// The key id.
    pub fn kid(&self) -> &KeyId {
        &self.kid
    }

    /// The uncompressed SEC1 point; whether it lies on the curve is for the verifier to check.
    pub(crate) fn uncompressed_point(&self) -> [u8; 65] {
        point(&self.x, &self.y)
    }
}

impl Serialize for Jwk {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Jwk", 7)?;
        object.serialize_field("kty", "EC")?;
        object.serialize_field("crv", "P-256")?;
        object.serialize_field("use", "sig")?;
        object.serialize_field("kid", self.kid.as_str())?;
        object.serialize_field("alg", "ES256")?;
        object.serialize_field("x", &URL_SAFE_NO_PAD.encode(self.x))?;
        object.serialize_field("y", &URL_SAFE_NO_PAD.encode(self.y))?;
        object.end()
    }
}

/// A set of public keys, newest first (RFC 7517 section 5).
///
/// Reading one is strict: every key must be an ES256 verification key. For a document of
/// somebody else's making use [`crate::KeySet::from_jwks_bytes`], which passes over other kinds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JwkSet {
    /// The keys, newest first.
    pub keys: Vec<Jwk>,
}

/// A JSON Web Key of any kind, before anything is known about it.
#[derive(Debug, Deserialize)]
pub(crate) struct RawJwk {
    kty: String,
    #[serde(default)]
    crv: Option<String>,
    #[serde(default)]
    r#use: Option<String>,
    #[serde(default)]
    key_ops: Option<Vec<String>>,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default)]
    x: Option<String>,
    #[serde(default)]
    y: Option<String>,
    #[serde(default)]
    d: Option<IgnoredAny>,
}

impl RawJwk {
    /// The uncompressed SEC1 point of a key that comes with a proof: public, EC P-256, and for nothing else than ES256
    /// signatures if it says what it is for. Whether the point lies on the curve is for the verifier to check.
    pub(crate) fn into_proof_key(self) -> Result<[u8; 65], JwkError> {
        let is_for_es256 = self.alg.as_deref().is_none_or(|alg| alg == "ES256")
            && self.r#use.as_deref().is_none_or(|usage| usage == "sig");
        if self.kty != "EC" || self.crv.as_deref() != Some("P-256") || !is_for_es256 {
            return Err(JwkError::OtherKind);
        }
        if self.d.is_some() {
            return Err(JwkError::Private);
        }
        Ok(point(
            &coordinate(self.x.as_deref())?,
            &coordinate(self.y.as_deref())?,
        ))
    }

    fn is_es256_verification_key(&self) -> bool {
        let usage = self.r#use.as_deref().unwrap_or_default();
        self.kty == "EC"
            && self.crv.as_deref() == Some("P-256")
            && self.alg.as_deref() == Some("ES256")
            && (usage.is_empty() || usage == "sig")
            && self
                .key_ops
                .as_ref()
                .is_none_or(|operations| operations.iter().any(|name| name == "verify"))
    }
}

impl TryFrom<RawJwk> for Jwk {
    type Error = JwkError;

    fn try_from(raw: RawJwk) -> Result<Self, JwkError> {
        if !raw.is_es256_verification_key() {
            return Err(JwkError::OtherKind);
        }
        if raw.d.is_some() {
            return Err(JwkError::Private);
        }
        let kid = raw
            .kid
            .and_then(|text| KeyId::try_from(text).ok())
            .ok_or(JwkError::KeyId)?;
        Ok(Self {
            kid,
            x: coordinate(raw.x.as_deref())?,
            y: coordinate(raw.y.as_deref())?,
        })
    }
}

/// Tag 4, X, Y.
fn point(x: &[u8; 32], y: &[u8; 32]) -> [u8; 65] {
    let mut point = [4; 65];
    let coordinates = x.iter().chain(y);
    point
        .iter_mut()
        .skip(1)
        .zip(coordinates)
        .for_each(|(to, from)| *to = *from);
    point
}

fn coordinate(text: Option<&str>) -> Result<[u8; 32], JwkError> {
    let text = text.ok_or(JwkError::Coordinate)?;
    let bytes = URL_SAFE_NO_PAD.decode(text).or(Err(JwkError::Coordinate))?;
    bytes.try_into().or(Err(JwkError::Coordinate))
}
