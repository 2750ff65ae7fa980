use aws_lc_rs::encoding::{AsDer, EcPrivateKeyRfc5915Der, Pkcs8V1Der};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, RSA_PKCS1_2048_8192_SHA256,
    UnparsedPublicKey, VerificationAlgorithm,
};
use base64::engine::general_purpose::STANDARD;

use serde_json::json;

use super::*;

fn pem(label: &str, der: &[u8]) -> String {
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        STANDARD.encode(der)
    )
}

fn part(token: &str, at: usize) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(token.split('.').nth(at).unwrap()).unwrap()
}

fn check(key: &AssertionKey, algorithm: &'static dyn VerificationAlgorithm, public: &[u8]) -> Value {
    let token = key
        .sign(Map::from_iter([("iss".to_owned(), Value::from("client-1"))]))
        .unwrap();
    let (signed, _) = token.rsplit_once('.').unwrap();
    UnparsedPublicKey::new(algorithm, public)
        .verify(signed.as_bytes(), &part(&token, 2))
        .unwrap();
    let claims: Value = serde_json::from_slice(&part(&token, 1)).unwrap();
    assert_eq!(claims["iss"], "client-1");
    assert_eq!(claims["jti"].as_str().unwrap().len(), 43);
    serde_json::from_slice(&part(&token, 0)).unwrap()
}

#[test]
fn every_curve_signs_with_its_own_algorithm_from_either_form() {
    let verifiers: [&'static dyn VerificationAlgorithm; 3] = [
        &ECDSA_P256_SHA256_FIXED,
        &ECDSA_P384_SHA384_FIXED,
        &ECDSA_P521_SHA512_FIXED,
    ];
    for ((name, curve), verifier) in CURVES.iter().zip(verifiers) {
        let pair = EcdsaKeyPair::generate(curve).unwrap();
        let pkcs8 = pair.to_pkcs8v1().unwrap();
        let sec1 = AsDer::<EcPrivateKeyRfc5915Der<'_>>::as_der(&pair.private_key()).unwrap();
        for text in [
            pem("PRIVATE KEY", pkcs8.as_ref()),
            pem("EC PRIVATE KEY", sec1.as_ref()),
        ] {
            let key = AssertionKey::from_pem(&text, Some("key-1".to_owned())).unwrap();
            assert_eq!(key.algorithm(), *name);
            let header = check(&key, verifier, pair.public_key().as_ref());
            assert_eq!(header, json!({"alg": name, "kid": "key-1", "typ": "JWT"}));
        }
    }
}

#[test]
fn an_rsa_key_signs_rs256() {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let der = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).unwrap();
    let key = AssertionKey::from_pem(&pem("PRIVATE KEY", der.as_ref()), None).unwrap();
    let header = check(&key, &RSA_PKCS1_2048_8192_SHA256, pair.public_key().as_ref());
    assert_eq!(header, json!({"alg": "RS256", "typ": "JWT"}));
    let printed = format!("{key:?}");
    assert!(printed.contains("RS256") && printed.len() < 80, "{printed}");
}

#[test]
fn a_certificate_of_the_key_adds_its_thumbprints_and_no_other_is_taken() {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let text = pem("PRIVATE KEY", pair.to_pkcs8v1().unwrap().as_ref());
    // What matters of a certificate here is that it holds the public key.
    let certificate = pem(
        "CERTIFICATE",
        &[b"certificate of ", pair.public_key().as_ref()].concat(),
    );
    let key = AssertionKey::from_pem(&text, None)
        .unwrap()
        .with_certificate(&certificate)
        .unwrap();
    let header = check(&key, &ECDSA_P256_SHA256_FIXED, pair.public_key().as_ref());
    assert_eq!(header["x5t"].as_str().unwrap().len(), 27);
    assert_eq!(header["x5t#S256"].as_str().unwrap().len(), 43);
    let other = AssertionKey::from_pem(&text, None).unwrap();
    let stranger = pem("CERTIFICATE", b"certificate of another key");
    assert_eq!(
        other.with_certificate(&stranger).unwrap_err(),
        KeyError::Certificate
    );
}

#[test]
fn what_is_no_key_is_refused() {
    for (text, error) in [
        ("", KeyError::Pem),
        (
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
            KeyError::Algorithm,
        ),
    ] {
        assert_eq!(AssertionKey::from_pem(text, None).unwrap_err(), error);
    }
}
