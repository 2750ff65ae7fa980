use std::collections::HashSet;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{Jwk, JwkSet, Malformed, SigningKey, TokenType};

const NOW: UnixSeconds = UnixSeconds(1_790_000_000);
const ISSUER: &str = "https://sts.example.com";
const RULES: Rules<'_> = Rules {
    issuer: ISSUER,
    audience: ISSUER,
    leeway_seconds: 60,
    uses: &[Use::Gateway],
};

/// The claims of a delegated one-shot mandate, every optional claim present.
fn delegated() -> Value {
    json!({
        "iss": ISSUER, "sub": "app-1", "aud": [ISSUER], "exp": 1_790_000_900, "iat": 1_790_000_000,
        "jti": "t-1", "zone_id": "z1", "client_id": "app-1", "scope": "crm:read crm:write",
        "sid": "ar-2", "root_sid": "ar-1", "use": "gateway", "sub_type": "application",
        "target": ["resource://crm"], "agent_session_id": "s2", "delegation_edge_id": "e1",
        "source_session_id": "s1", "target_session_id": "s2", "delegation_path": ["e1"],
        "delegation_chain": [
            {"application_id": "app-0", "agent_session_id": "s1", "delegation_edge_id": "e1"},
            {"application_id": "app-1", "agent_session_id": "s2"}
        ],
        "hop_count": 1, "delegation_graph_epoch": 7
    })
}

fn claims() -> Claims {
    serde_json::from_value(delegated()).unwrap()
}

fn key(kid: &str) -> SigningKey {
    SigningKey::generate(kid.try_into().unwrap()).unwrap()
}

fn set_of(key: &SigningKey) -> KeySet {
    KeySet::from_jwks(&JwkSet {
        keys: vec![key.jwk()],
    })
    .unwrap()
}

/// A key whose owner signs whatever text it likes, well-formed or not.
struct Forger {
    pkcs8: Vec<u8>,
}

impl Forger {
    fn new() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self {
            pkcs8: pair.to_pkcs8v1().unwrap().as_ref().to_vec(),
        }
    }

    fn signature(&self, format: &'static EcdsaSigningAlgorithm, text: &str) -> Vec<u8> {
        let pair = EcdsaKeyPair::from_pkcs8(format, &self.pkcs8).unwrap();
        pair.sign(&SystemRandom::new(), text.as_bytes())
            .unwrap()
            .as_ref()
            .to_vec()
    }

    fn token(&self, header: &str, payload: &str) -> String {
        let input = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header),
            URL_SAFE_NO_PAD.encode(payload)
        );
        let signature = self.signature(&ECDSA_P256_SHA256_FIXED_SIGNING, &input);
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn keys(&self) -> KeySet {
        use aws_lc_rs::signature::KeyPair as _;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &self.pkcs8).unwrap();
        let jwk = Jwk::from_uncompressed_point("k1".try_into().unwrap(), pair.public_key().as_ref()).unwrap();
        KeySet::from_jwks(&JwkSet { keys: vec![jwk] }).unwrap()
    }
}

const HEADER: &str = r#"{"alg":"ES256","kid":"k1","typ":"JWT"}"#;

fn verify_text(token: &str, keys: &KeySet) -> Result<Claims, VerifyError> {
    verify(UnverifiedToken::parse(token).unwrap(), keys, &RULES, NOW)
}

#[test]
fn what_the_key_signs_its_set_proves() {
    let key = key("k1");
    let token = key.sign(&claims()).unwrap();
    assert_eq!(verify_text(&token, &set_of(&key)), Ok(claims()));
}

#[test]
fn a_token_signed_by_openssl_is_proven() {
    let keys = format!(
        r#"{{"keys":[{}]}}"#,
        include_str!("../../tests/vectors/openssl.jwk.json")
    );
    let keys = KeySet::from_jwks_bytes(keys.as_bytes()).unwrap();
    let proven = verify_text(include_str!("../../tests/vectors/openssl.jwt").trim(), &keys).unwrap();
    assert_eq!(proven.sub.as_str(), "user-1");
    assert_eq!(proven.aud, [ISSUER], "a single audience reads as a list of one");
    assert_eq!(proven.delegation_chain.len(), 2);
}

#[test]
fn a_key_written_by_openssl_signs_for_its_published_half() {
    let pem = include_str!("../../tests/vectors/openssl.pem");
    let jwk: Value = serde_json::from_str(include_str!("../../tests/vectors/openssl.jwk.json")).unwrap();
    let kid = jwk["kid"].as_str().unwrap().try_into().unwrap();
    let key = SigningKey::from_sec1_pem(kid, pem).unwrap();
    assert_eq!(serde_json::to_value(key.jwk()).unwrap(), jwk);
    assert_eq!(key.to_sec1_pem().unwrap().as_str(), pem);
    assert!(verify_text(&key.sign(&claims()).unwrap(), &set_of(&key)).is_ok());
}

#[test]
fn every_refusal_has_a_token_that_earns_it() {
    let key = key("k1");
    let keys = set_of(&key);
    let with = |change: fn(&mut Claims)| {
        let mut claims = claims();
        change(&mut claims);
        key.sign(&claims).unwrap()
    };
    let other_body = {
        let (genuine, altered) = (with(|_| {}), with(|c| c.client_id = "app-2".try_into().unwrap()));
        let (input, _) = altered.rsplit_once('.').unwrap();
        format!("{input}.{}", genuine.rsplit_once('.').unwrap().1)
    };
    let table = [
        (
            "unknown key id",
            self::key("k2").sign(&claims()).unwrap(),
            VerifyError::UnknownKey,
        ),
        (
            "another key under the same id",
            self::key("k1").sign(&claims()).unwrap(),
            VerifyError::Signature,
        ),
        (
            "claims exchanged under a signature",
            other_body,
            VerifyError::Signature,
        ),
        (
            "other issuer",
            with(|c| c.iss = "https://sts.example.com/".into()),
            VerifyError::Issuer,
        ),
        (
            "other audience",
            with(|c| c.aud = vec!["resource://crm".into()]),
            VerifyError::Audience,
        ),
        (
            "expired just past the leeway",
            with(|c| c.exp = NOW.0 - 60),
            VerifyError::Expired,
        ),
        (
            "no expiry to speak of",
            with(|c| c.exp = i64::MIN),
            VerifyError::Expired,
        ),
        (
            "issued in the future",
            with(|c| c.iat = NOW.0 + 61),
            VerifyError::NotYetValid,
        ),
        ("another use", with(|c| c.r#use = Use::Resource), VerifyError::Use),
    ];
    let mut earned = HashSet::new();
    for (what, token, refusal) in table {
        assert_eq!(verify_text(&token, &keys), Err(refusal), "{what}");
        earned.insert(refusal);
    }
    assert_eq!(
        earned.len(),
        all_refusals().len(),
        "a refusal is not in the table"
    );
}

/// Grows with the enum, or stops compiling.
fn all_refusals() -> Vec<VerifyError> {
    use VerifyError::{Audience, Expired, Issuer, NotYetValid, Signature, UnknownKey, Use};
    let all = vec![UnknownKey, Signature, Issuer, Audience, Expired, NotYetValid, Use];
    for refusal in &all {
        match refusal {
            UnknownKey | Signature | Issuer | Audience | Expired | NotYetValid | Use => {}
        }
    }
    all
}

#[test]
fn the_leeway_is_granted_and_no_second_more() {
    let mut claims = claims();
    claims.exp = NOW.0 - 59;
    claims.iat = NOW.0 + 60;
    assert_eq!(RULES.check(&claims, NOW), Ok(()));
    claims.exp = i64::MAX;
    assert_eq!(RULES.check(&claims, NOW), Ok(()), "no overflow");
}

#[test]
fn an_empty_key_set_proves_nothing() {
    let token = key("k1").sign(&claims()).unwrap();
    assert_eq!(
        verify_text(&token, &KeySet::empty()),
        Err(VerifyError::UnknownKey)
    );
}

#[test]
fn headers_that_weaken_the_signature_are_refused() {
    let forger = Forger::new();
    let refused =
        |header: &str| UnverifiedToken::parse(&forger.token(header, &delegated().to_string())).unwrap_err();
    for algorithm in ["none", "NONE", "HS256", "ES384", "RS256", "es256", ""] {
        let header = format!(r#"{{"alg":"{algorithm}","kid":"k1","typ":"JWT"}}"#);
        assert!(matches!(refused(&header), Malformed::Algorithm), "{algorithm}");
    }
    for header in [
        r#"{"alg":"ES256","kid":"k1","crit":["exp"],"exp":1}"#,
        r#"{"alg":"ES256","kid":"k1","typ":"JWE"}"#,
        r#"{"alg":"ES256","alg":"none","kid":"k1"}"#,
        r#"{"kid":"k1","typ":"JWT"}"#,
        r#"{"alg":["ES256"],"kid":"k1"}"#,
        r#"{"alg":"ES256","kid":"k1"} x"#,
        "ES256",
    ] {
        assert!(matches!(refused(header), Malformed::Header), "{header}");
    }
    for header in [
        r#"{"alg":"ES256"}"#,
        r#"{"alg":"ES256","kid":""}"#,
        r#"{"alg":"ES256","kid":null}"#,
    ] {
        assert!(matches!(refused(header), Malformed::KeyId), "{header}");
    }
}

#[test]
fn a_token_without_a_signature_is_refused() {
    let payload = URL_SAFE_NO_PAD.encode(delegated().to_string());
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","kid":"k1"}"#);
    assert!(matches!(
        UnverifiedToken::parse(&format!("{header}.{payload}.")),
        Err(Malformed::Algorithm)
    ));
    let header = URL_SAFE_NO_PAD.encode(HEADER);
    assert!(matches!(
        UnverifiedToken::parse(&format!("{header}.{payload}.")),
        Err(Malformed::Signature)
    ));
}

#[test]
fn only_a_raw_signature_of_64_bytes_is_read() {
    let forger = Forger::new();
    let token = forger.token(HEADER, &delegated().to_string());
    let (input, signature) = token.rsplit_once('.').unwrap();
    let raw = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let der = forger.signature(&ECDSA_P256_SHA256_ASN1_SIGNING, input);
    for (what, bytes) in [
        ("short", &raw[..63]),
        ("long", &[&raw[..], &[0]].concat()),
        ("DER", &der),
        ("none", &[]),
    ] {
        let token = format!("{input}.{}", URL_SAFE_NO_PAD.encode(bytes));
        assert!(
            matches!(UnverifiedToken::parse(&token), Err(Malformed::Signature)),
            "{what}"
        );
    }
    for weak in [[0; 64], [0xff; 64]] {
        let token = format!("{input}.{}", URL_SAFE_NO_PAD.encode(weak));
        assert_eq!(verify_text(&token, &forger.keys()), Err(VerifyError::Signature));
    }
    assert!(verify_text(&token, &forger.keys()).is_ok());
}

#[test]
fn text_that_is_not_three_strict_segments_is_refused() {
    let token = key("k1").sign(&claims()).unwrap();
    for (what, text) in [
        ("empty", String::new()),
        ("one segment", "abc".to_owned()),
        ("two segments", "abc.def".to_owned()),
        ("four segments", format!("{token}.x")),
        ("four segments, first empty", format!(".{token}")),
        ("dots only", "..".to_owned()),
        ("padded", format!("{token}==")),
        ("leading space", format!(" {token}")),
        ("trailing newline", format!("{token}\n")),
        ("standard alphabet", format!("{}+/", &token[..token.len() - 2])),
    ] {
        assert!(UnverifiedToken::parse(&text).is_err(), "{what}");
    }
}

#[test]
fn claim_sets_that_are_not_exactly_typed_are_refused() {
    let refused = |what: &str, payload: &str| {
        let token = Forger::new().token(HEADER, payload);
        assert!(
            matches!(UnverifiedToken::parse(&token), Err(Malformed::Claims(_))),
            "{what}"
        );
    };
    let required = [
        "iss",
        "sub",
        "aud",
        "exp",
        "iat",
        "jti",
        "zone_id",
        "client_id",
        "sid",
        "root_sid",
        "use",
        "sub_type",
    ];
    for name in required {
        let mut payload = delegated();
        payload.as_object_mut().unwrap().remove(name);
        refused(&format!("without {name}"), &payload.to_string());
    }
    for (name, value) in [
        ("exp", json!("1790000900")),
        ("exp", json!(1_790_000_900.5)),
        ("exp", json!(1e30)),
        ("iat", json!(null)),
        ("aud", json!([])),
        ("aud", json!("")),
        ("aud", json!([1])),
        ("aud", json!({"a": 1})),
        ("aud", json!(vec!["x"; 257])),
        ("use", json!("admin")),
        ("use", json!("Gateway")),
        ("sub_type", json!("agent")),
        ("scope", json!(null)),
        ("scope", json!(["a"])),
        ("target", json!("resource://crm")),
        ("target", json!(vec!["x"; 257])),
        ("jti", json!("")),
        ("jti", json!("a b")),
        ("jti", json!("x".repeat(129))),
        ("sid", json!("sid\n")),
        ("hop_count", json!(-1)),
        ("delegation_graph_epoch", json!("7")),
        ("delegation_chain", json!([{"agent_session_id": "s1"}])),
        (
            "delegation_chain",
            json!([{"application_id": "a", "admin": true}]),
        ),
        ("delegation_path", json!(vec!["e"; 257])),
    ] {
        let mut payload = delegated();
        payload[name] = value.clone();
        refused(&format!("{name} = {value}"), &payload.to_string());
    }
    let text = delegated().to_string();
    for repeated in [
        r#""client_id":"app-2""#,
        r#""exp":1"#,
        r#""use":"session""#,
        r#""target":[]"#,
    ] {
        refused(repeated, &format!("{{{repeated},{}", &text[1..]));
    }
    refused("not an object", "[]");
    refused("trailing bytes", &format!("{text}{{}}"));
    refused(
        "deeply nested unknown claim",
        &format!("{{\"x\":{},{}", "[".repeat(50_000), &text[1..]),
    );
}

#[test]
fn unknown_claims_are_tolerated() {
    let mut payload = delegated();
    payload["vendor"] = json!({"nested": [1, {"deep": true}]});
    let forger = Forger::new();
    assert_eq!(
        verify_text(&forger.token(HEADER, &payload.to_string()), &forger.keys()),
        Ok(claims())
    );
}

#[test]
fn absent_claims_are_absent_when_written() {
    assert_eq!(serde_json::to_value(claims()).unwrap(), delegated());
    let optional = [
        "scope",
        "target",
        "agent_session_id",
        "delegation_edge_id",
        "source_session_id",
    ];
    let with_edge = [
        "target_session_id",
        "delegation_path",
        "delegation_chain",
        "hop_count",
        "delegation_graph_epoch",
    ];
    let mut bare = delegated();
    for name in optional.iter().chain(&with_edge) {
        bare.as_object_mut().unwrap().remove(*name);
    }
    let claims: Claims = serde_json::from_value(bare.clone()).unwrap();
    assert_eq!(serde_json::to_value(claims).unwrap(), bare);
}

#[test]
fn a_key_set_passes_over_other_keys_and_refuses_broken_ones() {
    let jwk = serde_json::to_value(key("k1").jwk()).unwrap();
    let with = |name: &str, value: Value| {
        let mut changed = jwk.clone();
        changed[name] = value;
        KeySet::from_jwks_bytes(json!({"keys": [changed]}).to_string().as_bytes())
            .map(|keys| keys.len())
            .ok()
    };
    assert_eq!(with("kid", json!("k2")), Some(1));
    assert_eq!(with("use", json!("")), Some(1));
    assert_eq!(with("key_ops", json!(["verify"])), Some(1));
    for (name, value) in [
        ("kty", json!("RSA")),
        ("crv", json!("P-384")),
        ("alg", json!("ES384")),
        ("use", json!("enc")),
        ("key_ops", json!(["sign"])),
    ] {
        assert_eq!(with(name, value), Some(0), "{name}");
    }
    for (name, value) in [
        ("kid", json!("")),
        ("kid", json!(null)),
        ("x", json!("AA")),
        ("y", json!(null)),
        ("y", jwk["x"].clone()),
        ("d", json!("AA")),
    ] {
        assert_eq!(with(name, value.clone()), None, "{name} = {value}");
    }
    let twice = json!({"keys": [jwk, jwk]}).to_string();
    assert!(matches!(
        KeySet::from_jwks_bytes(twice.as_bytes()),
        Err(crate::KeySetError::Duplicate(_))
    ));
    let many = json!({"keys": (0..65).map(|n| {
        let mut key = jwk.clone();
        key["kid"] = json!(format!("k{n}"));
        key
    }).collect::<Vec<_>>()})
    .to_string();
    assert!(matches!(
        KeySet::from_jwks_bytes(many.as_bytes()),
        Err(crate::KeySetError::TooMany)
    ));
}

#[test]
fn keys_that_are_not_sec1_p256_are_refused_and_debug_hides_the_key() {
    let key = key("k1");
    let pem = key.to_sec1_pem().unwrap();
    for text in [
        "",
        "EC PRIVATE KEY",
        &pem.replace("EC PRIVATE", "PRIVATE"),
        &pem[..pem.len() / 2],
    ] {
        assert!(
            SigningKey::from_sec1_pem("k1".try_into().unwrap(), text).is_err(),
            "{text}"
        );
    }
    assert_eq!(format!("{key:?}").matches("k1").count(), 1);
    assert!(format!("{key:?}").len() < 60, "only the id is shown");
}

proptest! {
    #[test]
    fn any_single_byte_change_is_refused(position in any::<prop::sample::Index>(), difference in 1..=255_u8) {
        let (keys, token) = golden();
        let mut bytes = token.into_bytes();
        let position = position.index(bytes.len());
        bytes[position] ^= difference;
        if let Ok(text) = String::from_utf8(bytes) {
            let proven = UnverifiedToken::parse(&text).ok().and_then(|token| verify(token, &keys, &RULES, NOW).ok());
            prop_assert!(proven.is_none(), "byte {position} changed by {difference:#x} passed");
        }
    }

    #[test]
    fn no_text_makes_the_parser_fail_otherwise_than_by_refusing(text in "\\PC{0,400}") {
        prop_assert!(UnverifiedToken::parse(&text).is_err());
    }
}

fn golden() -> (KeySet, String) {
    let keys = format!(
        r#"{{"keys":[{}]}}"#,
        include_str!("../../tests/vectors/openssl.jwk.json")
    );
    let token = include_str!("../../tests/vectors/openssl.jwt").trim().to_owned();
    (KeySet::from_jwks_bytes(keys.as_bytes()).unwrap(), token)
}

fn mac_key() -> MandateMacKey {
    MandateMacKey::derive(&[7; 32])
}

fn with_mac(key: &SigningKey) -> String {
    key.sign_as(TokenType::Jwt, &claims(), Some(&mac_key())).unwrap()
}

fn admit_text(token: &str, mac: &MandateMacKey, keys: &KeySet) -> Result<Proof, VerifyError> {
    admit(UnverifiedToken::parse(token).unwrap(), mac, keys, &RULES, NOW).map(|(claims, proof)| {
        assert_eq!(claims, self::claims());
        proof
    })
}

#[test]
fn a_token_with_a_mac_is_an_ordinary_token_to_who_has_not_its_key() {
    let key = key("k1");
    let token = with_mac(&key);
    assert_eq!(verify_text(&token, &set_of(&key)), Ok(claims()));
    let other = MandateMacKey::derive(&[8; 32]);
    assert_eq!(admit_text(&token, &other, &set_of(&key)), Ok(Proof::Signature));
    assert_eq!(admit_text(&token, &mac_key(), &set_of(&key)), Ok(Proof::Mac));
    let plain = key.sign(&claims()).unwrap();
    assert_eq!(
        admit_text(&plain, &mac_key(), &set_of(&key)),
        Ok(Proof::Signature)
    );
}

#[test]
fn the_mac_is_the_documented_one() {
    // By Python's hmac, over `payload.header` up to the value of the MAC.
    let header = mac_key().header(r#"{"alg":"ES256","kid":"k1","typ":"JWT""#, "e30");
    assert_eq!(
        header,
        r#"{"alg":"ES256","kid":"k1","typ":"JWT","mac":"0Z-xzhL4k1nI4dG7ggPxBA"}"#
    );
}

#[test]
fn a_mac_covers_every_byte_of_header_and_claims() {
    let key = key("k1");
    let keys = set_of(&key);
    let token = with_mac(&key);
    let segments: Vec<&str> = token.split('.').collect();
    let header = String::from_utf8(URL_SAFE_NO_PAD.decode(segments[0]).unwrap()).unwrap();
    let payload = String::from_utf8(URL_SAFE_NO_PAD.decode(segments[1]).unwrap()).unwrap();
    let assemble = |header: &str, payload: &str| {
        let (header, payload) = (URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        format!("{header}.{payload}.{}", segments[2])
    };
    assert_eq!(
        admit_text(&assemble(&header, &payload), &mac_key(), &keys),
        Ok(Proof::Mac)
    );
    let mac = header.rsplit('"').nth(1).unwrap();
    let refused = [
        assemble(&header.replace("JWT", "at+jwt"), &payload),
        assemble(&header.replace(r#""typ""#, r#""x":1,"typ""#), &payload),
        assemble(&header.replace(r#","mac""#, r#", "mac""#), &payload),
        assemble(
            &header.replace(mac, &mac.chars().rev().collect::<String>()),
            &payload,
        ),
        assemble(&header.replace(mac, ""), &payload),
        assemble(&header, &payload.replace("crm:write", "crm:admin")),
        assemble(&header, &payload.replace("1790000900", "1790009900")),
    ];
    for token in refused {
        let token = UnverifiedToken::parse(&token).unwrap();
        let outcome = admit(token, &mac_key(), &keys, &RULES, NOW);
        assert_eq!(outcome.map(|_| ()), Err(VerifyError::Signature));
    }
}

#[test]
fn a_mac_replaces_the_signature_and_nothing_else() {
    let key = key("k1");
    let token = with_mac(&key);
    assert_eq!(
        admit_text(&token, &mac_key(), &set_of(&self::key("k2"))),
        Err(VerifyError::UnknownKey),
        "a key that was withdrawn takes its tokens with it"
    );
    let rules = Rules {
        audience: "elsewhere",
        ..RULES
    };
    let elsewhere = admit(
        UnverifiedToken::parse(&token).unwrap(),
        &mac_key(),
        &set_of(&key),
        &rules,
        NOW,
    );
    assert_eq!(elsewhere.map(|_| ()), Err(VerifyError::Audience));
    let late = UnixSeconds(NOW.0 + 10_000);
    let late = admit(
        UnverifiedToken::parse(&token).unwrap(),
        &mac_key(),
        &set_of(&key),
        &RULES,
        late,
    );
    assert_eq!(late.map(|_| ()), Err(VerifyError::Expired));
}
