use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair as _, RsaEncoding, RsaKeyPair,
};
use serde_json::{Value, json};

use super::*;

const NOW: UnixSeconds = UnixSeconds(1_790_000_000);
const RULES: IdTokenRules<'_> = IdTokenRules {
    issuer: "https://idp.example",
    audience: "caracal",
    leeway_seconds: 60,
    life_max_seconds: 3_600,
};

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// An issuer with a key of every kind; key ids are the names of the algorithms.
struct Issuer {
    rsa: RsaKeyPair,
    ec: [(&'static str, &'static str, usize, EcdsaKeyPair); 3],
}

impl Issuer {
    fn new() -> Self {
        let ec = |alg, crv, bytes, algorithm: &'static EcdsaSigningAlgorithm| {
            (alg, crv, bytes, EcdsaKeyPair::generate(algorithm).unwrap())
        };
        Self {
            rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
            ec: [
                ec("ES256", "P-256", 32, &signature::ECDSA_P256_SHA256_FIXED_SIGNING),
                ec("ES384", "P-384", 48, &signature::ECDSA_P384_SHA384_FIXED_SIGNING),
                ec("ES512", "P-521", 66, &signature::ECDSA_P521_SHA512_FIXED_SIGNING),
            ],
        }
    }

    fn jwks(&self) -> Value {
        // RFC 8017 appendix A.1.1: after nine bytes the modulus of 2048 bits, at the end the exponent 65537.
        let public = self.rsa.public_key().as_ref();
        let (n, e) = (encode(&public[9..265]), encode(&public[public.len() - 3..]));
        let rsa = |kid: &str| json!({"kty": "RSA", "kid": kid, "use": "sig", "n": n, "e": e});
        let mut keys: Vec<Value> = ["RS256", "RS384", "RS512"].map(rsa).into();
        for (alg, crv, bytes, key) in &self.ec {
            let point = key.public_key().as_ref();
            keys.push(json!({"kty": "EC", "kid": alg, "alg": alg, "crv": crv,
                "x": encode(&point[1..=*bytes]), "y": encode(&point[bytes + 1..])}));
        }
        json!({ "keys": keys })
    }

    fn keys(&self) -> IssuerKeys {
        IssuerKeys::from_jwks_bytes(self.jwks().to_string().as_bytes()).unwrap()
    }

    fn sign_text(&self, algorithm: &str, input: &str) -> String {
        let rsa = |encoding: &'static dyn RsaEncoding| {
            let mut signed = vec![0; self.rsa.public_modulus_len()];
            self.rsa
                .sign(encoding, &SystemRandom::new(), input.as_bytes(), &mut signed)
                .unwrap();
            signed
        };
        let signed = match algorithm {
            "RS256" => rsa(&signature::RSA_PKCS1_SHA256),
            "RS384" => rsa(&signature::RSA_PKCS1_SHA384),
            "RS512" => rsa(&signature::RSA_PKCS1_SHA512),
            _ => {
                let (.., key) = self.ec.iter().find(|(alg, ..)| *alg == algorithm).unwrap();
                key.sign(&SystemRandom::new(), input.as_bytes())
                    .unwrap()
                    .as_ref()
                    .to_vec()
            }
        };
        format!("{input}.{}", encode(&signed))
    }

    fn token(&self, algorithm: &str, claims: &Value) -> String {
        let header = json!({"alg": algorithm, "kid": algorithm, "typ": "JWT"});
        self.sign_text(algorithm, &input(&header, claims))
    }
}

fn input(header: &Value, claims: &Value) -> String {
    format!(
        "{}.{}",
        encode(header.to_string().as_bytes()),
        encode(claims.to_string().as_bytes())
    )
}

fn claims() -> Value {
    json!({"iss": RULES.issuer, "sub": "user-1", "aud": "caracal", "exp": NOW.0 + 600, "iat": NOW.0})
}

fn with(changes: &Value) -> Value {
    let mut claims = claims();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => claims.as_object_mut().unwrap().remove(name),
            value => claims
                .as_object_mut()
                .unwrap()
                .insert(name.clone(), value.clone()),
        };
    }
    claims
}

fn verify(issuer: &Issuer, token: &str) -> Result<Identity, IdTokenError> {
    UnverifiedIdToken::parse(token)?.verify(&issuer.keys(), &RULES, NOW)
}

#[test]
fn tokens_of_every_accepted_algorithm_are_verified() {
    let issuer = Issuer::new();
    for algorithm in ["RS256", "RS384", "RS512", "ES256", "ES384", "ES512"] {
        let identity = verify(&issuer, &issuer.token(algorithm, &claims())).unwrap();
        assert_eq!(identity.subject.as_str(), "user-1", "{algorithm}");
        assert_eq!(identity.expires_at, UnixSeconds(NOW.0 + 600));
        let other = Issuer::new().token(algorithm, &claims());
        assert_eq!(
            verify(&issuer, &other),
            Err(IdTokenError::Signature),
            "{algorithm}"
        );
    }
}

#[test]
fn every_rule_about_claims() {
    let issuer = Issuer::new();
    let rows = [
        (json!({"iss": "https://idp.example/"}), Err(IdTokenError::Issuer)),
        (json!({"aud": "other"}), Err(IdTokenError::Audience)),
        (json!({"aud": []}), Err(IdTokenError::Malformed)),
        (json!({"aud": ["caracal"]}), Ok(())),
        (json!({"aud": ["caracal", "other"]}), Err(IdTokenError::Audience)),
        (
            json!({"aud": ["caracal", "other"], "azp": "other"}),
            Err(IdTokenError::Audience),
        ),
        (json!({"aud": ["caracal", "other"], "azp": "caracal"}), Ok(())),
        (json!({"exp": NOW.0 - 59}), Ok(())),
        (json!({"exp": NOW.0 - 60}), Err(IdTokenError::Expired)),
        (json!({"exp": null}), Err(IdTokenError::Malformed)),
        (json!({"exp": "soon"}), Err(IdTokenError::Malformed)),
        (json!({"exp": -1}), Err(IdTokenError::Malformed)),
        (json!({"exp": 1e300}), Err(IdTokenError::Malformed)),
        (json!({"exp": f64::from(1_790_000_600) + 0.5}), Ok(())),
        (json!({"iat": null}), Err(IdTokenError::Malformed)),
        (json!({"exp": NOW.0 + 3_660}), Ok(())),
        (json!({"exp": NOW.0 + 3_661}), Err(IdTokenError::LivesTooLong)),
        (json!({"iat": NOW.0 + 60}), Ok(())),
        (json!({"iat": NOW.0 + 61}), Err(IdTokenError::NotYetValid)),
        (json!({"nbf": NOW.0 + 61}), Err(IdTokenError::NotYetValid)),
        (json!({"sub": null}), Err(IdTokenError::Malformed)),
        (json!({"sub": 7}), Err(IdTokenError::Malformed)),
    ];
    for (changes, expected) in rows {
        let token = issuer.token("ES256", &with(&changes));
        assert_eq!(verify(&issuer, &token).map(|_| ()), expected, "{changes}");
    }
}

#[test]
fn every_rule_about_subjects() {
    let issuer = Issuer::new();
    let long = "x".repeat(512);
    for subject in [
        "user-1",
        "auth0|5f7c8ec7",
        "Ünïcødé",
        "a b",
        long.as_str(),
        "e\u{301}",
        "not-caracal:x",
    ] {
        let token = issuer.token("ES256", &with(&json!({ "sub": subject })));
        assert_eq!(
            verify(&issuer, &token).unwrap().subject.as_str(),
            subject,
            "byte for byte"
        );
    }
    let too_long = "x".repeat(513);
    for subject in [
        "",
        " ",
        " user",
        "user ",
        "user\n",
        "caracal:shared",
        "a\u{0}b",
        "a\u{7f}",
        "a\u{85}b",
        "a\u{fffd}b",
        "a\u{202e}b",
        "a\u{2066}b",
        too_long.as_str(),
    ] {
        let token = issuer.token("ES256", &with(&json!({ "sub": subject })));
        assert_eq!(verify(&issuer, &token), Err(IdTokenError::Subject), "{subject:?}");
    }
}

#[test]
fn every_rule_about_headers() {
    let issuer = Issuer::new();
    let rows = [
        (json!({"alg": "none", "kid": "ES256"}), IdTokenError::Algorithm),
        (json!({"alg": "HS256", "kid": "ES256"}), IdTokenError::Algorithm),
        (json!({"alg": "PS256", "kid": "RS256"}), IdTokenError::Algorithm),
        (json!({"alg": "ES256"}), IdTokenError::KeyId),
        (json!({"alg": "ES256", "kid": ""}), IdTokenError::KeyId),
        (json!({"alg": "ES256", "kid": "nobody"}), IdTokenError::UnknownKey),
        // A key is only used for its own kind.
        (json!({"alg": "ES256", "kid": "ES384"}), IdTokenError::UnknownKey),
        (json!({"alg": "ES256", "kid": "RS256"}), IdTokenError::UnknownKey),
        (
            json!({"alg": "ES256", "kid": "ES256", "typ": "at+jwt"}),
            IdTokenError::Malformed,
        ),
        (
            json!({"alg": "ES256", "kid": "ES256", "crit": ["b64"]}),
            IdTokenError::Malformed,
        ),
    ];
    for (header, expected) in rows {
        let token = issuer.sign_text("ES256", &input(&header, &claims()));
        assert_eq!(verify(&issuer, &token), Err(expected), "{header}");
    }
    for text in ["", ".", "..", "a.b", "a.b.c", "a.b.c.d", "é.b.c"] {
        assert_eq!(verify(&issuer, text), Err(IdTokenError::Malformed), "{text:?}");
    }
}

#[test]
fn a_second_form_of_a_signature_is_the_same_token() {
    let issuer = Issuer::new();
    let input = input(&json!({"alg": "ES256", "kid": "ES256"}), &claims());
    let (one, other) = (
        issuer.sign_text("ES256", &input),
        issuer.sign_text("ES256", &input),
    );
    assert_ne!(one, other, "signatures are random");
    let fingerprint = |token: &str| verify(&issuer, token).unwrap().fingerprint;
    assert_eq!(fingerprint(&one), fingerprint(&other));
    assert_ne!(
        fingerprint(&one),
        fingerprint(&issuer.token("ES256", &with(&json!({"jti": "2"}))))
    );
}

#[test]
fn only_usable_keys_are_taken_and_none_is_an_error() {
    let issuer = Issuer::new();
    let good = issuer.jwks()["keys"].clone();
    let (rsa, ec) = (good[0].clone(), good[3].clone());
    let changed = |key: &Value, changes: Value| {
        let mut key = key.clone();
        key.as_object_mut()
            .unwrap()
            .extend(changes.as_object().unwrap().clone());
        key
    };
    let unusable = [
        json!({}),
        json!("key"),
        json!({"kty": "oct", "kid": "k", "k": "AAAA"}),
        changed(&rsa, json!({"use": "enc"})),
        changed(&rsa, json!({"kid": ""})),
        changed(&rsa, json!({"e": "AQ"})),
        changed(&rsa, json!({"e": "Ag"})),
        changed(&rsa, json!({"e": "AQAAAAE"})),
        changed(&rsa, json!({"n": encode(&[0xff; 128])})),
        changed(&rsa, json!({"n": encode(&[0xff; 1_025])})),
        changed(&ec, json!({"crv": "secp256k1"})),
        changed(&ec, json!({"x": ec["y"]})),
        changed(&ec, json!({"x": "AAAA"})),
    ];
    for key in &unusable {
        let document = json!({ "keys": [key] }).to_string();
        assert!(
            matches!(
                IssuerKeys::from_jwks_bytes(document.as_bytes()),
                Err(IssuerKeysError::NoUsableKey)
            ),
            "{key}"
        );
    }
    let mut keys = unusable.to_vec();
    keys.push(ec);
    let mixed = IssuerKeys::from_jwks_bytes(json!({ "keys": keys }).to_string().as_bytes()).unwrap();
    let token = issuer.token("ES256", &claims());
    let parsed = UnverifiedIdToken::parse(&token).unwrap();
    assert!(
        parsed.verify(&mixed, &RULES, NOW).is_ok(),
        "one good key is enough"
    );
    for document in ["", "[]", "{}", "{\"keys\": 1}"] {
        assert!(matches!(
            IssuerKeys::from_jwks_bytes(document.as_bytes()),
            Err(IssuerKeysError::Malformed)
        ));
    }
}

#[test]
fn a_set_in_which_many_keys_have_one_id_is_refused() {
    let issuer = Issuer::new();
    let key = issuer.jwks()["keys"][3].clone();
    let read = |count: usize| {
        let document = json!({ "keys": vec![key.clone(); count] }).to_string();
        IssuerKeys::from_jwks_bytes(document.as_bytes())
    };
    assert!(read(4).is_ok());
    assert!(
        matches!(read(5), Err(IssuerKeysError::OneId)),
        "one token would cost as many checks"
    );
}

#[test]
fn other_tokens_of_the_issuer_are_no_id_tokens() {
    let issuer = Issuer::new();
    for (changes, is_one) in [
        (json!({"scope": "openid"}), false),
        (json!({"scp": ["read"]}), false),
        (json!({"client_id": "caracal"}), false),
        (
            json!({"events": {"http://schemas.openid.net/event/backchannel-logout": {}}}),
            false,
        ),
        (json!({"events": {}, "nonce": "n"}), false),
        (
            json!({"azp": "caracal", "scope": "openid", "client_id": "x"}),
            false,
        ),
        (json!({"scope": "openid", "nonce": "n"}), true),
        (json!({"client_id": "x", "at_hash": "h"}), true),
        (json!({"scp": [], "c_hash": "h"}), true),
        (json!({"azp": "another", "auth_time": 1}), true),
    ] {
        let outcome = verify(&issuer, &issuer.token("ES256", &with(&changes)));
        let expected = if is_one { None } else { Some(IdTokenError::Kind) };
        assert_eq!(outcome.err(), expected, "{changes}");
    }
}
