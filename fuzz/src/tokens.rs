//! Tokens, key sets and sealed secrets.

use caracal_model::UnixSeconds;
use caracal_token::client_certificate::{self, CertificateFault};
use caracal_token::dpop::nonce::Nonces;
use caracal_token::dpop::{ProofRules, Target, UnverifiedProof};
use caracal_token::envelope::{Kek, Keyring};
use caracal_token::{KeySet, Rules, UnverifiedToken, Use, verify};

/// Public keys whose private halves nobody kept: nothing can be signed for them.
const KEYS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"k1","use":"sig","alg":"ES256",
    "x":"axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY","y":"T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU"}]}"#;
/// When the proof among the kept inputs was made (RFC 9449 section 4.1).
const PROVED_AT: UnixSeconds = UnixSeconds(1_562_262_616);
/// A member of a key set cannot be shorter: two coordinates of 43 characters.
const MEMBER_BYTES_MIN: usize = 86;
const KEK: &str = "8f3d9a712c45e6b0d18f2a4c6e9b3d57a1c4f8020e6a9c3d5b7f1a2c4e6d8b00";

/// Nothing that was not signed is believed, however it is written.
pub(crate) fn mandate(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(token) = UnverifiedToken::parse(text) else {
        return;
    };
    let claims = token.unverified_claims().clone();
    assert!(
        claims.anchors().iter().count() >= 1,
        "a mandate stands on something"
    );
    let _scopes = claims.scopes();
    let keys = KeySet::from_jwks_bytes(KEYS.as_bytes()).expect("a key set");
    let issuer = claims.iss.clone();
    let rules = Rules {
        issuer: &issuer,
        audience: claims.aud.first().map_or("", String::as_str),
        leeway_seconds: 30,
        uses: &[Use::Session, Use::Gateway, Use::Resource],
    };
    let now = UnixSeconds(claims.iat);
    assert!(
        verify(token, &keys, &rules, now).is_err(),
        "a forged token is believed"
    );
}

/// A set that was read holds no more keys than were in it.
pub(crate) fn key_set(bytes: &[u8]) {
    if let Ok(keys) = KeySet::from_jwks_bytes(bytes) {
        assert!(
            keys.len() <= bytes.len() / MEMBER_BYTES_MIN,
            "a key out of nothing"
        );
    }
}

/// A proof counts as it was signed, for as long as it says, and not with a byte changed.
pub(crate) fn dpop_proof(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let _target = Target::parse(text);
    let nonces = Nonces::new(b"fuzz");
    assert!(!nonces.is_good(text, PROVED_AT), "a nonce out of nothing");
    let targets = [Target::parse("https://server.example.com/token").expect("an address")];
    let rules = ProofRules {
        method: "POST",
        targets: &targets,
        access_token: None,
        age_max_seconds: 60,
        leeway_seconds: 60,
    };
    let verify = |text: &str| UnverifiedProof::parse(text)?.verify(&rules, PROVED_AT);
    let Ok(proof) = verify(text) else {
        return;
    };
    assert!(proof.until > PROVED_AT, "a proof that is over counts");
    assert!(!proof.jti.is_empty(), "a proof without an id counts");
    for place in 0..text.len() {
        let mut changed = bytes.to_vec();
        if let Some(byte) = changed.get_mut(place) {
            *byte = if *byte == b'A' { b'B' } else { b'A' };
        }
        let changed = String::from_utf8(changed).unwrap_or_default();
        assert!(verify(&changed).is_err(), "a changed proof counts");
    }
}

/// A field names one certificate: neither what stands around it counts, nor is there a second one in it, nor one in a piece of it.
pub(crate) fn client_cert(bytes: &[u8]) {
    let presented = |field: &[u8]| client_certificate::presented([field]);
    let Ok(print) = presented(bytes) else {
        return;
    };
    assert!(bytes.len() <= 16 << 10, "a field without limit was read");
    let spaced = [b" ", bytes, b" "].concat();
    assert!(
        spaced.len() > 16 << 10 || presented(&spaced) == Ok(print),
        "spaces make another certificate"
    );
    assert_eq!(
        client_certificate::presented([bytes, bytes]),
        Err(CertificateFault::Unreadable),
        "two fields are one certificate"
    );
    let inside = bytes.trim_ascii();
    assert!(
        presented(&[inside, b",", inside].concat()).is_err(),
        "two members are one certificate"
    );
    for length in 0..inside.len() {
        let piece = inside.get(..length).unwrap_or_default();
        assert!(presented(piece).is_err(), "a piece is a certificate");
    }
}

/// Only what was sealed here opens, whole and under the same associated data.
pub(crate) fn envelope(bytes: &[u8]) {
    let keyring = Keyring::new(Kek::from_hex(KEK).expect("a key"), None);
    assert!(
        keyring.open(bytes, b"fuzz").is_err(),
        "something forged was opened"
    );
    let (data, secret) = bytes.split_at(bytes.len() / 2);
    let sealed = keyring.seal(secret, data).expect("sealing needs only randomness");
    let opened = keyring.open(&sealed, data).expect("what was sealed opens");
    assert_eq!(&opened[..], secret);
    let place = bytes.first().copied().map_or(0, usize::from) % sealed.len();
    let mut broken = sealed;
    if let Some(byte) = broken.get_mut(place) {
        *byte ^= 1;
    }
    assert!(keyring.open(&broken, data).is_err(), "a changed envelope opened");
}
