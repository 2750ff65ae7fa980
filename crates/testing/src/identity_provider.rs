//! Who vouches for users? An issuer of ID tokens that publishes its keys over TLS.

use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use caracal_chassis::Clock;
use http::Response;
use serde_json::{Value, json};

use crate::{Behaviour, Upstream};

/// An issuer called [`Self::ISSUER`], with one key, at a port of this machine.
#[derive(Debug)]
pub struct IdentityProvider {
    /// Where its keys are fetched.
    pub server: Upstream,
    key: EcdsaKeyPair,
}

impl IdentityProvider {
    /// What its tokens say of their issuer.
    pub const ISSUER: &str = "https://idp.example";
    /// For whom its tokens are.
    pub const AUDIENCE: &str = "caracal";

    /// Starts it; its key is published as `k1`.
    ///
    /// # Panics
    /// When it cannot be set up.
    pub async fn start() -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        let server = Upstream::start_tls(Behaviour::Echo).await;
        let provider = Self { server, key };
        provider.publish(provider.jwks("k1"));
        provider
    }

    /// Its key under this name.
    pub fn jwks(&self, kid: &str) -> Value {
        let point = self.key.public_key().as_ref();
        let (x, y) = point.split_at(1).1.split_at(32);
        json!({"keys": [{"kty": "EC", "kid": kid, "crv": "P-256", "x": encode(x), "y": encode(y)}]})
    }

    /// What it answers whoever asks for its keys from now on.
    pub fn publish(&self, document: Value) {
        self.server.set(Behaviour::Custom(Arc::new(move |_request| {
            Response::new(Bytes::from(document.to_string()))
        })));
    }

    /// An address at its server.
    pub fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.server.address().port())
    }

    /// A token with these claims, whatever they are.
    ///
    /// # Panics
    /// When it cannot be signed.
    pub fn sign(&self, kid: &str, claims: &Value) -> String {
        let header = json!({"alg": "ES256", "kid": kid});
        let input = format!(
            "{}.{}",
            encode(header.to_string().as_bytes()),
            encode(claims.to_string().as_bytes())
        );
        let signed = self.key.sign(&SystemRandom::new(), input.as_bytes());
        format!("{input}.{}", encode(signed.expect("a signature").as_ref()))
    }

    /// An ID token of a user, unlike any other.
    pub fn token(&self, user: &str) -> String {
        self.sign("k1", &Self::claims(user))
    }

    /// What an ID token of a user says.
    pub fn claims(user: &str) -> Value {
        let now = Clock::system().unix_seconds();
        let jti = uuid::Uuid::new_v4().to_string();
        json!({
            "iss": Self::ISSUER, "sub": user, "aud": Self::AUDIENCE, "exp": now + 3_000, "iat": now, "jti": jti,
        })
    }
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
