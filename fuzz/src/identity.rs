//! Tokens of others: ID tokens of issuers, assertions of clients.
//!
//! The bytes are taken twice: as a token, which nobody signed, and as the claims of a token that is signed here. So what is
//! checked before the signature and what is checked after it are both reached.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use caracal_model::UnixSeconds;
use caracal_token::KeySet;
use caracal_token::client_assertion::{AssertionRules, UnverifiedAssertion};
use caracal_token::id_token::{IdTokenRules, IssuerKeys, UnverifiedIdToken};
use serde_json::Value;

/// The key of an issuer and client that exist here only.
const PRIVATE: &str = "f0d0ad96da5ea7ca4cc8360d7f5ef794411df859b6f4ff8ef038bc4a0818f819";
const PUBLIC: &str = "0427664ab45a173117cb2541c26c1bb329348db097b1c0880183fdb5db8024104cd4931c7e59aab872d92db9af39275169cf2f4c0255c35ef7d8d3eca4316967d8";

const NOW: UnixSeconds = UnixSeconds(1_790_000_000);
const LEEWAY_SECONDS: i64 = 60;
const LIFE_SECONDS: i64 = 3_600;
const ISSUER: &str = "https://idp.example";
const CLIENT: &str = "app-1";
const US: &str = "caracal";

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.filter_map(byte).collect()
}

fn jwks() -> String {
    let point = bytes(PUBLIC);
    let coordinate = |from: usize| URL_SAFE_NO_PAD.encode(point.get(from..from + 32).expect("a point"));
    let (x, y) = (coordinate(1), coordinate(33));
    format!(
        r#"{{"keys":[{{"kty":"EC","crv":"P-256","kid":"k1","use":"sig","alg":"ES256","x":"{x}","y":"{y}"}}]}}"#
    )
}

/// A token with these claims, whatever they are.
fn signed(claims: &[u8]) -> String {
    let key = EcdsaKeyPair::from_private_key_and_public_key(
        &ECDSA_P256_SHA256_FIXED_SIGNING,
        &bytes(PRIVATE),
        &bytes(PUBLIC),
    )
    .expect("a key pair");
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","kid":"k1"}"#);
    let input = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
    let signature = key
        .sign(&SystemRandom::new(), input.as_bytes())
        .expect("a signature");
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// Whether a text claim of JSON bytes is this.
fn says(claims: &[u8], name: &str, text: &str) -> bool {
    let claims: Value = serde_json::from_slice(claims).expect("what was believed is JSON");
    claims.get(name).and_then(Value::as_str) == Some(text)
}

/// Nothing is believed that was not signed, and of what was signed only what keeps the rules.
pub(crate) fn id_token(bytes: &[u8]) {
    let keys = IssuerKeys::from_jwks_bytes(jwks().as_bytes()).expect("a key set");
    let rules = IdTokenRules {
        issuer: ISSUER,
        audience: US,
        leeway_seconds: LEEWAY_SECONDS,
        life_max_seconds: LIFE_SECONDS,
    };
    let read = |text: &str| UnverifiedIdToken::parse(text).and_then(|token| token.verify(&keys, &rules, NOW));
    if let Ok(text) = std::str::from_utf8(bytes) {
        assert!(read(text).is_err(), "a forged token is believed");
    }
    let Ok(identity) = read(&signed(bytes)) else {
        return;
    };
    assert!(says(bytes, "iss", ISSUER), "of another issuer");
    let subject = identity.subject.as_str();
    assert!(says(bytes, "sub", subject), "a subject that was not said");
    let is_plain = !subject.is_empty()
        && subject.len() <= 512
        && subject.trim() == subject
        && !subject.starts_with("caracal:")
        && !subject.chars().any(char::is_control);
    assert!(is_plain, "{subject:?} is no subject");
    let left = identity.expires_at.seconds_since(NOW);
    assert!(
        (1 - LEEWAY_SECONDS..=LIFE_SECONDS + LEEWAY_SECONDS).contains(&left),
        "good at the wrong time"
    );
    assert!(identity.issued_at <= NOW, "made in the future");
}

/// A key set of an issuer is read whole or not at all.
pub(crate) fn issuer_keys(bytes: &[u8]) {
    if IssuerKeys::from_jwks_bytes(bytes).is_ok() {
        let document: Value = serde_json::from_slice(bytes).expect("what was read is JSON");
        assert!(
            document.get("keys").is_some_and(Value::is_array),
            "keys out of nothing"
        );
    }
}

/// The same of a client that authenticates with its key.
pub(crate) fn client_assertion(bytes: &[u8]) {
    let keys = KeySet::from_jwks_bytes(jwks().as_bytes()).expect("a key set");
    let rules = AssertionRules {
        client_id: CLIENT,
        audiences: &[US],
        life_max_seconds: LIFE_SECONDS,
        leeway_seconds: LEEWAY_SECONDS,
    };
    let read = |text: &str| {
        UnverifiedAssertion::parse(text)
            .ok()?
            .verify(&keys, &rules, NOW)
            .ok()
    };
    if let Ok(text) = std::str::from_utf8(bytes) {
        assert!(read(text).is_none(), "a forged assertion is believed");
    }
    let Some(proven) = read(&signed(bytes)) else {
        return;
    };
    assert!(
        says(bytes, "iss", CLIENT) && says(bytes, "sub", CLIENT),
        "of another client"
    );
    assert!(
        (1..=256).contains(&proven.jti.len()),
        "an id that cannot be remembered"
    );
    let left = proven.expires_at.seconds_since(NOW);
    assert!(
        (1 - LEEWAY_SECONDS..=LIFE_SECONDS + LEEWAY_SECONDS).contains(&left),
        "good at the wrong time"
    );
}
