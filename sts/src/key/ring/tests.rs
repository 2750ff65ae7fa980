//! The life of a key, by a clock that is only moved.

use caracal_token::envelope::Kek;

use super::*;

const KEK: &str = "8f3d9a712c45e6b0d18f2a4c6e9b3d57a1c4f8020e6a9c3d5b7f1a2c4e6d8b90";

fn keyring() -> Keyring {
    Keyring::new(Kek::from_hex(KEK).unwrap(), None)
}

fn row(id: &str, signs_from: i64) -> SigningKeyRow {
    let id = KeyId::try_from(id).unwrap();
    let pem = SigningKey::generate(id.clone()).unwrap().to_sec1_pem().unwrap();
    let envelope = keyring()
        .seal(pem.as_bytes(), ZONE_SIGNING_KEY_AAD.as_bytes())
        .unwrap();
    SigningKeyRow {
        id,
        version: 1,
        envelope,
        created_at: signs_from,
        signs_from,
        withdrawn_at: None,
    }
}

fn unopenable(id: &str, signs_from: i64) -> SigningKeyRow {
    SigningKeyRow {
        envelope: b"CSS1nonsense".to_vec(),
        ..row(id, signs_from)
    }
}

fn withdrawn(id: &str, signs_from: i64, at: i64) -> SigningKeyRow {
    SigningKeyRow {
        withdrawn_at: Some(at),
        ..row(id, signs_from)
    }
}

fn ring(rows: Vec<SigningKeyRow>) -> KeyRing {
    KeyRing::open(&ZoneId::try_from("z1").unwrap(), rows, &keyring(), UnixSeconds(0))
}

fn published(ring: &KeyRing, now: i64) -> Vec<String> {
    let published = ring.published(UnixSeconds(now)).unwrap();
    let set: JwkSet = serde_json::from_slice(&published.body).unwrap();
    set.keys.iter().map(|key| key.kid().to_string()).collect()
}

fn signing(ring: &KeyRing, now: i64) -> Option<&str> {
    ring.signing(UnixSeconds(now)).map(|key| key.kid().as_str())
}

fn states(ring: &KeyRing, now: i64) -> Vec<(String, KeyState)> {
    let view = |view: KeyView| (view.kid.to_string(), view.state);
    ring.views(UnixSeconds(now)).into_iter().map(view).collect()
}

#[test]
fn a_key_waits_signs_verifies_and_retires() {
    use KeyState::{Retired, Signing, Verifying, Waiting};
    let ring = ring(vec![row("k2", 10_000), row("k1", 1_000)]);
    let life = [
        (9_999, ["k2", "k1"].as_slice(), "k1", [Waiting, Signing]),
        (10_000, &["k2", "k1"], "k2", [Signing, Verifying]),
        (
            10_000 + GRACE_SECONDS - 1,
            &["k2", "k1"],
            "k2",
            [Signing, Verifying],
        ),
        (10_000 + GRACE_SECONDS, &["k2"], "k2", [Signing, Retired]),
    ];
    for (now, keys, signer, expected) in life {
        assert_eq!(published(&ring, now), keys, "published at {now}");
        assert_eq!(signing(&ring, now), Some(signer), "signs at {now}");
        let found: Vec<KeyState> = states(&ring, now).into_iter().map(|(_, state)| state).collect();
        assert_eq!(found, expected, "states at {now}");
    }
}

#[test]
fn every_key_is_published_until_a_day_after_the_next_began_to_sign() {
    let ring = ring(vec![row("k3", 2_000), row("k2", 1_500), row("k1", 1_000)]);
    assert_eq!(
        published(&ring, 2_000),
        ["k3", "k2", "k1"],
        "two rotations in a day drop nobody's tokens"
    );
    assert_eq!(published(&ring, 1_500 + GRACE_SECONDS), ["k3", "k2"]);
    assert_eq!(published(&ring, 2_000 + GRACE_SECONDS), ["k3"]);
}

#[test]
fn a_newer_key_that_signs_at_once_overtakes_one_that_waits() {
    let ring = ring(vec![
        row("urgent", 5_000),
        row("waiting", 5_600),
        row("k1", 1_000),
    ]);
    assert_eq!(signing(&ring, 5_000), Some("urgent"));
    assert_eq!(
        signing(&ring, 6_000),
        Some("urgent"),
        "the overtaken key never signs"
    );
    assert_eq!(
        published(&ring, 5_000 + GRACE_SECONDS),
        ["urgent"],
        "both older ones ended when it began"
    );
}

#[test]
fn a_withdrawn_key_is_gone_at_once() {
    let ring = ring(vec![row("k2", 2_000), withdrawn("k1", 1_000, 2_000)]);
    assert_eq!(published(&ring, 2_000), ["k2"]);
    assert_eq!(
        states(&ring, 2_000),
        [
            ("k2".to_owned(), KeyState::Signing),
            ("k1".to_owned(), KeyState::Withdrawn)
        ]
    );
}

#[test]
fn the_first_key_signs_even_when_the_clocks_disagree() {
    let ring = ring(vec![row("k1", 1_000)]);
    assert_eq!(signing(&ring, 990), Some("k1"));
}

#[test]
fn an_old_key_that_cannot_be_opened_is_left_out() {
    let ring = ring(vec![row("k2", 2_000), unopenable("k1", 1_000)]);
    assert_eq!(published(&ring, 2_000), ["k2"]);
    assert_eq!(signing(&ring, 2_000), Some("k2"));
}

#[test]
fn nothing_signs_when_the_key_whose_turn_it_is_cannot_be_opened() {
    let ring = ring(vec![unopenable("k2", 2_000), row("k1", 1_000)]);
    assert_eq!(signing(&ring, 1_999), Some("k1"));
    assert_eq!(
        signing(&ring, 2_000),
        None,
        "an older key would be refused by whoever knows the newer one"
    );
    assert_eq!(published(&ring, 2_000), ["k1"]);
    assert!(!ring.is_empty(), "so that no third key is made");
}

#[test]
fn a_zone_without_keys_differs_from_one_whose_keys_are_lost() {
    assert_eq!(
        ring(vec![]).published(UnixSeconds(0)).unwrap_err(),
        KeySetUnavailable::None
    );
    let lost = ring(vec![unopenable("k1", 1_000)]);
    assert_eq!(
        lost.published(UnixSeconds(0)).unwrap_err(),
        KeySetUnavailable::Unopened
    );
}
