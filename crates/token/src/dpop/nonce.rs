//! Was this nonce given by one of us, and lately? (RFC 9449 section 8)
//!
//! A nonce is the time it was given and a MAC of that. Nobody has to remember any, and whoever has the key accepts those of
//! all others who have it.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use caracal_model::UnixSeconds;

/// How long a nonce is good, in seconds.
const LIFE_SECONDS: i64 = 300;
/// Clock difference granted between those who give and those who check, in seconds.
const LEEWAY_SECONDS: i64 = 60;
/// Bytes of the MAC that are kept: 128 bits.
const MAC_BYTES: usize = 16;
/// Keeps these MACs apart from every other use of the key.
const LABEL: &[u8] = b"caracal dpop nonce v1";

/// Gives and checks nonces.
pub struct Nonces(hmac::Key);

impl std::fmt::Debug for Nonces {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Nonces([redacted])")
    }
}

impl Nonces {
    /// With a key derived from `secret`, which may have other uses.
    pub fn new(secret: &[u8]) -> Self {
        let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), LABEL);
        Self(hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()))
    }

    /// A nonce for proofs made from now on. One HMAC, about a microsecond.
    pub fn give(&self, now: UnixSeconds) -> String {
        let at = now.0.to_be_bytes();
        let mac = hmac::sign(&self.0, &at);
        let mut bytes = at.to_vec();
        bytes.extend(mac.as_ref().iter().take(MAC_BYTES));
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Whether `nonce` was given within the last five minutes.
    pub fn is_good(&self, nonce: &str, now: UnixSeconds) -> bool {
        let Ok(bytes) = URL_SAFE_NO_PAD.decode(nonce) else {
            return false;
        };
        let Some((at, _mac)) = bytes.split_first_chunk::<8>() else {
            return false;
        };
        let at = UnixSeconds(i64::from_be_bytes(*at));
        let is_ours =
            aws_lc_rs::constant_time::verify_slices_are_equal(self.give(at).as_bytes(), nonce.as_bytes())
                .is_ok();
        let age = now.0.saturating_sub(at.0);
        is_ours && (-LEEWAY_SECONDS..LIFE_SECONDS).contains(&age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_790_000_000);

    #[test]
    fn a_nonce_is_good_for_five_minutes_with_everybody_who_has_the_key() {
        let (one, other) = (Nonces::new(b"key"), Nonces::new(b"key"));
        let nonce = one.give(NOW);
        assert!(nonce.len() == 32 && nonce.is_ascii());
        for (at, is_good) in [(-61, false), (-60, true), (0, true), (299, true), (300, false)] {
            assert_eq!(other.is_good(&nonce, NOW + at), is_good, "{at}");
        }
        assert!(!Nonces::new(b"another").is_good(&nonce, NOW));
        assert_ne!(one.give(NOW + 1), nonce);
    }

    #[test]
    fn a_nonce_that_was_changed_is_none() {
        let nonces = Nonces::new(b"key");
        let nonce = nonces.give(NOW);
        for place in 0..nonce.len() {
            let mut changed = nonce.clone().into_bytes();
            changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(!nonces.is_good(&changed, NOW), "{changed}");
        }
        for text in ["", "AAAA", &nonce[..31], &format!("{nonce}A"), "=", "\u{e9}"] {
            assert!(!nonces.is_good(text, NOW), "{text}");
        }
    }
}
