//! An identity provider, and signing in with its tokens.

use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use caracal_chassis::Clock;
use caracal_testing::{Behaviour, Upstream, test_authority, wait_until};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::stack::{Answer, SOON, Stack, with};

pub(crate) const ID_TOKEN: &str = "urn:ietf:params:oauth:token-type:id_token";

/// An identity provider of the zone `z1`.
pub(crate) struct Idp {
    pub(crate) server: Upstream,
    key: EcdsaKeyPair,
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Idp {
    pub(crate) async fn start() -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let server = Upstream::start_tls(Behaviour::Echo).await;
        let idp = Self { server, key };
        idp.publish(idp.jwks("k1"));
        idp
    }

    pub(crate) fn jwks(&self, kid: &str) -> Value {
        let point = self.key.public_key().as_ref();
        json!({"keys": [{"kty": "EC", "kid": kid, "crv": "P-256", "x": encode(&point[1..33]), "y": encode(&point[33..])}]})
    }

    pub(crate) fn publish(&self, document: Value) {
        self.server.set(Behaviour::Custom(Arc::new(move |_request| {
            Response::new(Bytes::from(document.to_string()))
        })));
    }

    /// The address of its keys.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.server.address().port())
    }

    pub(crate) fn sign(&self, kid: &str, claims: &Value) -> String {
        let header = json!({"alg": "ES256", "kid": kid});
        let input = format!(
            "{}.{}",
            encode(header.to_string().as_bytes()),
            encode(claims.to_string().as_bytes())
        );
        let signed = self.key.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        format!("{input}.{}", encode(signed.as_ref()))
    }

    /// An ID token of a user, unlike any other.
    pub(crate) fn token(&self, user: &str) -> String {
        self.sign("k1", &claims(user))
    }
}

pub(crate) fn claims(user: &str) -> Value {
    let now = Clock::system().unix_seconds();
    let jti = crate::stack::nonce();
    json!({"iss": "https://idp.example", "sub": user, "aud": "caracal", "exp": now + 3_000, "iat": now, "jti": jti})
}

/// What lets a service reach a provider on this machine.
pub(crate) fn settings() -> [(&'static str, String); 3] {
    let authority = test_authority().to_str().unwrap().to_owned();
    [
        ("CARACAL_MODE", "dev".to_owned()),
        ("INSECURE_LOOPBACK_EGRESS", "true".to_owned()),
        ("CARACAL_TLS_EXTRA_CA_FILE", authority),
    ]
}

/// A service that believes the provider, and has done so for long.
pub(crate) async fn federated() -> (Stack, Idp) {
    let idp = Idp::start().await;
    let settings = settings();
    let settings: Vec<(&str, &str)> = settings
        .iter()
        .map(|(key, value)| (*key, value.as_str()))
        .collect();
    let stack = Stack::start_with(&settings).await;
    believe(&stack, &idp).await;
    // For a minute after the memory of uses began, tokens are not decided about.
    stack.redis.remember_for_long().await;
    (stack, idp)
}

/// Makes the zone believe the provider.
pub(crate) async fn believe(stack: &Stack, idp: &Idp) {
    stack
        .sql(format!(
            "INSERT INTO subject_issuers (id, zone_id, issuer, jwks_url, audience)
             VALUES ('si-1', 'z1', 'https://idp.example', '{}', 'caracal')",
            idp.url("/jwks")
        ))
        .await;
    // A token that is good for nothing else shows when the service has heard of it.
    let probe = idp.sign(
        "k1",
        &json!({"iss": "https://idp.example", "sub": "probe", "aud": "x", "exp": 1, "iat": 1}),
    );
    wait_until(SOON, async || {
        sign_in(stack, &probe, &[]).await.refusal().2 == "invalid subject_token: audience mismatch"
    })
    .await;
}

pub(crate) async fn sign_in(stack: &Stack, token: &str, fields: &[(&str, &str)]) -> Answer {
    let usual = [("subject_token", token), ("subject_token_type", ID_TOKEN)];
    stack.mint(&with(&usual, fields)).await
}

/// Waits until a fresh token of the user is answered with this reason.
pub(crate) async fn until_refused(stack: &Stack, idp: &Idp, reason: &str) {
    let description = format!("invalid subject_token: {reason}");
    wait_until(SOON, async || {
        let answer = sign_in(stack, &idp.token("u"), &[]).await;
        answer.status == StatusCode::UNAUTHORIZED && answer.refusal().2 == description
    })
    .await;
}
