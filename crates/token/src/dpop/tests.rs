use serde_json::{Value, json};

use super::*;
use crate::SigningKey;

const NOW: UnixSeconds = UnixSeconds(1_790_000_000);
const HERE: &str = "https://sts.example.com/oauth/2/token";

fn key() -> SigningKey {
    SigningKey::generate("k1".try_into().unwrap()).unwrap()
}

fn header(key: &SigningKey) -> Value {
    let jwk = serde_json::to_value(key.jwk()).unwrap();
    json!({
        "typ": "dpop+jwt", "alg": "ES256",
        "jwk": {"kty": "EC", "crv": "P-256", "x": jwk["x"], "y": jwk["y"]},
    })
}

fn claims() -> Value {
    json!({"jti": "p-1", "htm": "POST", "htu": HERE, "iat": NOW.0})
}

fn with(mut value: Value, member: &str, changed: Value) -> Value {
    value[member] = changed;
    value
}

fn signed(key: &SigningKey, header: &Value, claims: &Value) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    key.sign_raw(&encode(header), &encode(claims))
}

fn check(text: &str, access_token: Option<&str>) -> Result<Proof, ProofError> {
    let rules = ProofRules {
        method: "POST",
        targets: &[Target::parse(HERE).unwrap()],
        access_token,
        age_max_seconds: 60,
        leeway_seconds: 30,
    };
    UnverifiedProof::parse(text)?.verify(&rules, NOW)
}

/// RFC 9449 section 4.1, figure 1: its key has this thumbprint (section 6.1, figure 8).
#[test]
fn the_proof_of_the_standard_is_read_and_names_its_key() {
    let text = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwiaWF0IjoxNTYyMjYyNjE2fQ.2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg";
    let rules = ProofRules {
        method: "POST",
        targets: &[Target::parse("https://server.example.com/token").unwrap()],
        access_token: None,
        age_max_seconds: 60,
        leeway_seconds: 30,
    };
    let proof = UnverifiedProof::parse(text)
        .unwrap()
        .verify(&rules, UnixSeconds(1_562_262_616))
        .unwrap();
    assert_eq!(proof.jti, "-BwC3ESc6acc2lTc");
    assert_eq!(
        proof.jkt.to_string(),
        "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
    );
}

#[test]
fn a_proof_says_who_holds_which_key_and_until_when_it_counts() {
    let key = key();
    let text = signed(&key, &header(&key), &with(claims(), "nonce", json!("n-1")));
    let proof = check(&text, None).unwrap();
    assert_eq!(proof.nonce.as_deref(), Some("n-1"));
    assert_eq!(proof.made_at, NOW - 30, "its clock may be ahead");
    assert_eq!(proof.until, NOW + 90);
    let again = signed(&key, &header(&key), &with(claims(), "jti", json!("p-2")));
    assert_eq!(check(&again, None).unwrap().jkt, proof.jkt);
}

#[test]
fn what_a_proof_says_is_checked_to_the_letter() {
    use ProofError as E;
    let key = key();
    let says = |member: &str, value: Value| signed(&key, &header(&key), &with(claims(), member, value));
    for (member, value, error) in [
        ("htm", json!("GET"), E::Method),
        ("htm", json!("post"), E::Method),
        ("htu", json!("https://other.example.com/oauth/2/token"), E::Target),
        ("htu", json!("https://sts.example.com/oauth/2/token/x"), E::Target),
        ("htu", json!("/oauth/2/token"), E::Target),
        ("iat", json!(NOW.0 - 90), E::Expired),
        ("iat", json!(i64::MIN), E::Expired),
        ("iat", json!(NOW.0 + 31), E::NotYetValid),
        ("iat", json!(i64::MAX), E::NotYetValid),
        ("jti", json!(""), E::Id),
        ("jti", json!("x".repeat(257)), E::Id),
    ] {
        assert_eq!(
            check(&says(member, value.clone()), None).unwrap_err(),
            error,
            "{member} {value}"
        );
    }
    for (member, value) in [
        ("htu", json!("https://STS.example.com:443/oauth/2/token?x#y")),
        ("iat", json!(NOW.0 - 89)),
        ("iat", json!(NOW.0 + 30)),
        ("jti", json!("x".repeat(256))),
    ] {
        assert!(
            check(&says(member, value.clone()), None).is_ok(),
            "{member} {value}"
        );
    }
}

#[test]
fn a_proof_that_comes_with_a_token_is_for_that_token() {
    let key = key();
    let hash = URL_SAFE_NO_PAD.encode(crate::digest(b"token"));
    let text = signed(&key, &header(&key), &with(claims(), "ath", json!(hash)));
    assert!(check(&text, Some("token")).is_ok());
    assert!(check(&text, None).is_ok(), "nothing was presented");
    assert_eq!(check(&text, Some("other")).unwrap_err(), ProofError::AccessToken);
    let without = signed(&key, &header(&key), &claims());
    assert_eq!(
        check(&without, Some("token")).unwrap_err(),
        ProofError::AccessToken
    );
}

#[test]
fn only_the_key_it_names_makes_a_proof() {
    let (one, other) = (key(), key());
    let stolen = signed(&other, &header(&one), &claims());
    assert_eq!(check(&stolen, None).unwrap_err(), ProofError::Signature);
    let good = signed(&one, &header(&one), &claims());
    let changed = signed(&one, &header(&one), &with(claims(), "jti", json!("p-2")));
    let (input, _) = changed.rsplit_once('.').unwrap();
    let (_, signature) = good.rsplit_once('.').unwrap();
    let moved = format!("{input}.{signature}");
    assert_eq!(check(&moved, None).unwrap_err(), ProofError::Signature);
}

#[test]
fn what_is_no_proof_is_not_read() {
    use ProofError as E;
    let key = key();
    let plain = || header(&key);
    let jwk = |member: &str, value: Value| {
        let mut header = plain();
        header["jwk"][member] = value;
        header
    };
    let without = |member: &str| {
        let mut header = plain();
        header.as_object_mut().unwrap().remove(member);
        header
    };
    for (header, error) in [
        (with(plain(), "typ", json!("JWT")), E::Malformed),
        (without("typ"), E::Malformed),
        (with(plain(), "alg", json!("none")), E::Malformed),
        (with(plain(), "alg", json!("HS256")), E::Malformed),
        (with(plain(), "alg", json!("RS256")), E::Malformed),
        (with(plain(), "crit", json!(["x"])), E::Malformed),
        (without("jwk"), E::Key),
        (with(plain(), "jwk", json!("x")), E::Malformed),
        (jwk("d", json!("AAAA")), E::Key),
        (jwk("kty", json!("oct")), E::Key),
        (jwk("kty", json!("RSA")), E::Key),
        (jwk("crv", json!("P-384")), E::Key),
        (jwk("alg", json!("ES384")), E::Key),
        (jwk("use", json!("enc")), E::Key),
        (jwk("x", json!("AAAA")), E::Key),
        (jwk("y", json!(URL_SAFE_NO_PAD.encode([1; 32]))), E::Key),
    ] {
        assert_eq!(
            check(&signed(&key, &header, &claims()), None).unwrap_err(),
            error,
            "{header}"
        );
    }
    for member in ["jti", "htm", "htu", "iat"] {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(member);
        let text = signed(&key, &plain(), &claims);
        assert_eq!(check(&text, None).unwrap_err(), E::Malformed, "{member}");
    }
    let long = with(claims(), "more", json!("x".repeat(4_000)));
    assert_eq!(
        check(&signed(&key, &plain(), &long), None).unwrap_err(),
        E::TooLong
    );
    for text in ["", "a.b.c", "..", "a"] {
        assert_eq!(check(text, None).unwrap_err(), E::Malformed, "{text}");
    }
}
