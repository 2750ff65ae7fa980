//! With which key does a test sign, and how does the code under test know that key?

use caracal_model::KeyId;
use caracal_token::{Claims, JwkSet, KeySet, MandateMacKey, SigningKey, TokenType};
use uuid::Uuid;

/// A fresh zone signing key and everything derived from it.
#[derive(Debug)]
pub struct TestKeys {
    signing: SigningKey,
}

impl TestKeys {
    /// A new key with a random id.
    pub fn new() -> Self {
        Self::named(&format!("key-{}", Uuid::new_v4()))
    }

    /// A new key with the id `kid`.
    pub fn named(kid: &str) -> Self {
        let kid = KeyId::try_from(kid).expect("a key id");
        Self {
            signing: SigningKey::generate(kid).expect("AWS-LC generates keys"),
        }
    }

    /// The private key.
    pub fn signing_key(&self) -> &SigningKey {
        &self.signing
    }

    /// The public key as a document of the JWKS endpoint.
    pub fn jwks(&self) -> JwkSet {
        JwkSet {
            keys: vec![self.signing.jwk()],
        }
    }

    /// The same document as bytes.
    pub fn jwks_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(&self.jwks()).expect("a key set is JSON")
    }

    /// The public key as a verifier holds it.
    pub fn key_set(&self) -> KeySet {
        KeySet::from_jwks(&self.jwks()).expect("a fresh key is valid")
    }

    /// `claims` as a mandate with a MAC under the key that is derived from `shared`.
    pub fn sign_with_mac(&self, claims: &Claims, shared: &[u8]) -> String {
        let mac = MandateMacKey::derive(shared);
        let signed = self.signing.sign_as(TokenType::Jwt, claims, Some(&mac));
        signed.expect("a fresh key signs")
    }

    /// `claims` as a mandate.
    pub fn sign(&self, claims: &Claims) -> String {
        self.signing.sign(claims).expect("a fresh key signs")
    }
}

impl Default for TestKeys {
    fn default() -> Self {
        Self::new()
    }
}
