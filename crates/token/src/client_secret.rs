//! Is this the client's secret? Argon2id records, and the secrets themselves.
//!
//! A record is `argon2id$<salt>$<hash>` in unpadded standard base64; the parameters are constants
//! of the contract (`docs/contract/keys.md`, section "Client secrets").

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::random;

const PREFIX: &str = "argon2id$";
const PASSES: u32 = 3;
const MEMORY_KIB: u32 = 65_536;
const LANES: u32 = 2;
const SALT_BYTES: usize = 16;
const HASH_BYTES: usize = 32;

/// A record no secret matches, for the caller who has none to compare with.
///
/// Verifying against it costs what verifying a real one costs, so that the time of an answer does
/// not tell which client ids exist.
pub const DUMMY: &str = "argon2id$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// The record of `secret` under `salt`, to be stored.
///
/// CPU heavy: tens of milliseconds and 64 MiB. The caller bounds how many run at once.
#[expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "cannot panic: the parameters are constants within Argon2's ranges and a request body is far below 4 GiB"
)]
pub fn hash(secret: &str, salt: &[u8; SALT_BYTES]) -> String {
    let mut out = [0; HASH_BYTES];
    derive(secret, salt, &mut out).expect("constant parameters within range");
    format!(
        "{PREFIX}{}${}",
        STANDARD_NO_PAD.encode(salt),
        STANDARD_NO_PAD.encode(out)
    )
}

/// A fresh salt for [`hash`].
pub fn salt() -> [u8; SALT_BYTES] {
    random::bytes()
}

/// Whether `stored` is the record of `secret`, compared in constant time.
///
/// CPU heavy: tens of milliseconds and 64 MiB; the caller bounds how many run at once. A record
/// of another scheme is refused at once; one of this scheme that is damaged costs the same
/// derivation as a sound one.
pub fn verify(secret: &str, stored: &str) -> bool {
    let Some(record) = stored.strip_prefix(PREFIX) else {
        return false;
    };
    let (salt, expected, sound) = match parse(record) {
        Some((salt, expected)) => (salt, expected, true),
        None => (vec![0; SALT_BYTES], vec![0; HASH_BYTES], false),
    };
    let mut derived = vec![0; expected.len()];
    let ran = derive(secret, &salt, &mut derived).is_ok();
    bool::from(derived.ct_eq(&expected)) && ran && sound
}

/// A fresh secret: `prefix` (`cs_` client, `ws_` workload, `cat_` admin token) and 256 random bits
/// in base64url. Shown to its owner once, stored only as a record.
pub fn generate(prefix: &str) -> String {
    let bits = Zeroizing::new(random::bytes::<32>());
    format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bits.as_slice()))
}

/// Splits a record into salt and hash; `None` when either is not of a sensible length.
fn parse(record: &str) -> Option<(Vec<u8>, Vec<u8>)> {
    let (salt, hash) = record.split_once('$')?;
    let salt = STANDARD_NO_PAD.decode(salt).ok()?;
    let hash = STANDARD_NO_PAD.decode(hash).ok()?;
    ((8..=64).contains(&salt.len()) && (16..=64).contains(&hash.len())).then_some((salt, hash))
}

fn derive(secret: &str, salt: &[u8], out: &mut [u8]) -> Result<(), argon2::Error> {
    let parameters = Params::new(MEMORY_KIB, PASSES, LANES, Some(out.len()))?;
    Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters).hash_password_into(
        secret.as_bytes(),
        salt,
        out,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &str = "argon2id$AAECAwQFBgcICQoLDA0ODw$wrFQiwrdeIehGpqW8aRyJctAv6BudXD/c6QUGLKhXWE";
    const SECRET: &str = "correct horse battery staple";

    #[test]
    fn the_record_is_the_published_one() {
        let salt = std::array::from_fn(|i| u8::try_from(i).unwrap());
        assert_eq!(hash(SECRET, &salt), GOLDEN);
    }

    #[test]
    fn only_the_secret_matches_its_record() {
        assert!(verify(SECRET, GOLDEN));
        assert!(!verify("correct horse battery stapl", GOLDEN));
        assert!(!verify("", GOLDEN));
        assert!(!verify(SECRET, DUMMY));
    }

    #[test]
    fn damaged_and_foreign_records_match_nothing() {
        for stored in [
            "",
            "argon2id$",
            "argon2id$$",
            "argon2id$AAECAwQFBgcICQoLDA0ODw",
            "argon2id$AAECAwQFBgcICQoLDA0ODw$",
            "argon2id$AAECAwQFBgcICQoLDA0ODw$wrE",
            "argon2id$!!$wrFQiwrdeIehGpqW8aRyJctAv6BudXD/c6QUGLKhXWE",
            "$argon2id$v=19$m=65536,t=3,p=2$AAECAwQFBgcICQoLDA0ODw$wrFQiwrdeIehGpqW8aRyJctAv6BudXD/c6QUGLKhXWE",
            SECRET,
        ] {
            assert!(!verify(SECRET, stored), "{stored}");
        }
    }

    #[test]
    fn generated_secrets_carry_256_bits_and_differ() {
        let (one, two) = (generate("cs_"), generate("cs_"));
        assert_ne!(one, two);
        assert_eq!(one.len(), 3 + 43);
        assert_eq!(URL_SAFE_NO_PAD.decode(&one[3..]).unwrap().len(), 32);
    }
}
