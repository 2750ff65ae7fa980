//! A key of a client that makes proofs of possession (RFC 9449), by an implementation of its own.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use caracal_chassis::Clock;
use caracal_token::{Confirmation, Possession, Thumbprint};
use serde_json::{Value, json};
use uuid::Uuid;

/// A key of a client.
#[derive(Debug)]
pub struct ProofKey(EcdsaKeyPair);

/// A proof that can be changed before it is signed.
#[derive(Debug)]
pub struct ProofText<'k> {
    key: &'k ProofKey,
    header: Value,
    claims: Value,
}

impl Default for ProofKey {
    fn default() -> Self {
        Self::new()
    }
}

impl ProofKey {
    /// A fresh key.
    ///
    /// # Panics
    /// When there is no randomness.
    pub fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("randomness"))
    }

    /// The public key, as it stands in a proof.
    pub fn jwk(&self) -> Value {
        json!({"kty": "EC", "crv": "P-256", "x": self.coordinate(1), "y": self.coordinate(33)})
    }

    fn coordinate(&self, from: usize) -> String {
        let point = self.0.public_key().as_ref();
        URL_SAFE_NO_PAD.encode(point.get(from..from + 32).unwrap_or_default())
    }

    /// What tokens that are bound to the key say (RFC 7638: members in order, no whitespace).
    pub fn confirmation(&self) -> Confirmation {
        let members = format!(
            r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#,
            self.coordinate(1),
            self.coordinate(33)
        );
        let keys = Possession {
            jkt: Some(Thumbprint::of_digest(caracal_token::digest(members.as_bytes()))),
            ..Possession::default()
        };
        keys.confirmation().expect("a key")
    }

    /// A proof for a request, made now.
    pub fn proof(&self, method: &str, url: &str) -> ProofText<'_> {
        ProofText {
            key: self,
            header: json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": self.jwk()}),
            claims: json!({
                "jti": Uuid::new_v4().to_string(), "htm": method, "htu": url,
                "iat": Clock::system().unix_seconds(),
            }),
        }
    }
}

impl ProofText<'_> {
    /// For this token.
    #[must_use]
    pub fn token(self, token: &str) -> Self {
        let hash = URL_SAFE_NO_PAD.encode(caracal_token::digest(token.as_bytes()));
        self.claim("ath", hash)
    }

    /// With another claim.
    #[must_use]
    pub fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        if let Some(members) = self.claims.as_object_mut() {
            members.insert(name.to_owned(), value.into());
        }
        self
    }

    /// With another member of the header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        if let Some(members) = self.header.as_object_mut() {
            members.insert(name.to_owned(), value.into());
        }
        self
    }

    /// The text.
    ///
    /// # Panics
    /// When there is no randomness.
    pub fn sign(&self) -> String {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let input = format!("{}.{}", encode(&self.header), encode(&self.claims));
        let signature = self.key.0.sign(&SystemRandom::new(), input.as_bytes());
        let signature = signature.expect("randomness");
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}
