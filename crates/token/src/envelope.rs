//! How is a secret kept at rest? In a CSS1 envelope: a fresh data key per value, sealed under the KEK.
//!
//! Layout (`docs/contract/keys.md`, section "CSS1 envelope"), ChaCha20-Poly1305 (RFC 8439) throughout:
//!
//! | offset | length | content |
//! |---|---|---|
//! | 0 | 4 | `CSS1` |
//! | 4 | 8 | first 8 bytes of SHA-256 of the KEK |
//! | 12 | 12 | nonce of the data key |
//! | 24 | 48 | data key sealed under the KEK, AAD `caracal.css1.dek` |
//! | 72 | 12 | nonce of the value |
//! | 84 | n + 16 | value sealed under the data key, AAD given by the caller |

use std::fmt;

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::{digest, random};

const MAGIC: &[u8; 4] = b"CSS1";
const DATA_KEY_AAD: &[u8] = b"caracal.css1.dek";
const SEALED_DATA_KEY_BYTES: usize = 48;

/// Logical location of a zone signing key, the AAD of its envelope.
pub const ZONE_SIGNING_KEY_AAD: &str = "caracal/secrets/zoneSigningKey";
/// Logical location of the access token of a provider connection, the AAD of its envelope.
pub const CONNECTION_ACCESS_TOKEN_AAD: &str = "caracal/providerConnections/accessToken";
/// Logical location of the refresh token of a provider connection, the AAD of its envelope.
pub const CONNECTION_REFRESH_TOKEN_AAD: &str = "caracal/providerConnections/refreshToken";

/// Why a text is not acceptable as a key encryption key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KekError {
    /// Not 64 hexadecimal digits.
    #[error("a key encryption key is 64 hexadecimal digits")]
    Format,
    /// A pattern somebody typed: one repeated byte, a repeated pair, or a counting sequence.
    #[error("the key encryption key is a guessable pattern")]
    Weak,
}

/// Why a value could not be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// AWS-LC refused: the value is larger than one nonce may seal (256 GiB).
    #[error("the value cannot be sealed")]
    Library,
}

/// Why an envelope could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Too short, or not a CSS1 envelope.
    #[error("not a CSS1 envelope")]
    Format,
    /// Sealed under a key encryption key this ring does not hold.
    #[error("sealed under an unknown key encryption key")]
    UnknownKek,
    /// Altered, or sealed for another location.
    #[error("the envelope does not authenticate")]
    Authentication,
}

/// A key encryption key: 32 bytes, wiped when dropped, never shown.
pub struct Kek {
    bytes: Zeroizing<[u8; 32]>,
    id: [u8; 8],
}

impl Kek {
    /// Reads a key encryption key from 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`KekError::Format`], or [`KekError::Weak`] for patterns a person types instead of drawing.
    pub fn from_hex(text: &str) -> Result<Self, KekError> {
        let mut bytes = Zeroizing::new([0; 32]);
        hex::decode_to_slice(text, bytes.as_mut_slice()).or(Err(KekError::Format))?;
        if is_weak(&bytes) {
            return Err(KekError::Weak);
        }
        let mut id = [0; 8];
        id.iter_mut()
            .zip(digest(bytes.as_slice()))
            .for_each(|(to, from)| *to = from);
        Ok(Self { bytes, id })
    }

    /// Which key this is, in every envelope it seals: the first 8 bytes of its SHA-256. Tells nothing about the key.
    pub fn id(&self) -> [u8; 8] {
        self.id
    }
}

/// Shows the public id, never the key.
impl fmt::Debug for Kek {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Kek")
            .field("id", &hex::encode(self.id))
            .finish_non_exhaustive()
    }
}

/// The key encryption keys in force: one that seals, and its predecessor that still opens.
#[derive(Debug)]
pub struct Keyring {
    /// Seals, and opens what it sealed.
    pub current: Kek,
    /// Opens only.
    pub previous: Option<Kek>,
}

impl Keyring {
    /// A ring of the current key and, while a rotation is under way, its predecessor.
    pub fn new(current: Kek, previous: Option<Kek>) -> Self {
        Self { current, previous }
    }

    /// Seals `plaintext` for the logical location `aad` under a fresh data key.
    ///
    /// # Errors
    /// [`SealError::Library`] for a value no nonce may seal.
    pub fn seal(&self, plaintext: &[u8], aad: &[u8]) -> Result<Vec<u8>, SealError> {
        let data_key = Zeroizing::new(random::bytes::<32>());
        let mut out =
            Vec::with_capacity(MAGIC.len() + 8 + 12 + SEALED_DATA_KEY_BYTES + 12 + plaintext.len() + 16);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.current.id);
        append_sealed(&mut out, &self.current.bytes, data_key.as_slice(), DATA_KEY_AAD)?;
        append_sealed(&mut out, &data_key, plaintext, aad)?;
        Ok(out)
    }

    /// Opens an envelope sealed for the logical location `aad`; the result is wiped when dropped.
    ///
    /// # Errors
    /// [`OpenError`]; which part of the envelope was altered is not told.
    pub fn open(&self, envelope: &[u8], aad: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let Unwrapped { data_key, value, .. } = self.data_key(envelope)?;
        let (value_nonce, sealed_value) = value.split_first_chunk::<12>().ok_or(OpenError::Format)?;
        open_one(&data_key, value_nonce, sealed_value, aad)
    }

    /// Seals the data key of an envelope under the current key, whichever of the two it was sealed under. The value stays
    /// as it is and is not opened, so its location need not be known. `None` when the current key sealed it already.
    ///
    /// # Errors
    /// [`OpenError`] when the data key cannot be opened; an altered value is not noticed.
    pub fn rewrap(&self, envelope: &[u8]) -> Result<Option<Vec<u8>>, OpenError> {
        let Unwrapped {
            kek_id,
            data_key,
            value,
        } = self.data_key(envelope)?;
        if kek_id == self.current.id {
            return Ok(None);
        }
        let mut out = Vec::with_capacity(envelope.len());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.current.id);
        append_sealed(&mut out, &self.current.bytes, data_key.as_slice(), DATA_KEY_AAD)
            .or(Err(OpenError::Format))?;
        out.extend_from_slice(value);
        Ok(Some(out))
    }

    fn data_key<'e>(&self, envelope: &'e [u8]) -> Result<Unwrapped<'e>, OpenError> {
        let rest = envelope.strip_prefix(MAGIC).ok_or(OpenError::Format)?;
        let (id, rest) = rest.split_first_chunk::<8>().ok_or(OpenError::Format)?;
        let (nonce, rest) = rest.split_first_chunk::<12>().ok_or(OpenError::Format)?;
        let (sealed, value) = rest
            .split_first_chunk::<SEALED_DATA_KEY_BYTES>()
            .ok_or(OpenError::Format)?;
        let kek = self.find(*id).ok_or(OpenError::UnknownKek)?;
        let data_key = open_one(&kek.bytes, nonce, sealed, DATA_KEY_AAD)?;
        let data_key = Zeroizing::new(data_key.as_slice().try_into().or(Err(OpenError::Format))?);
        Ok(Unwrapped {
            kek_id: *id,
            data_key,
            value,
        })
    }

    fn find(&self, id: [u8; 8]) -> Option<&Kek> {
        [Some(&self.current), self.previous.as_ref()]
            .into_iter()
            .flatten()
            .find(|kek| kek.id == id)
    }
}

/// An envelope whose data key is open and whose value is not.
struct Unwrapped<'e> {
    /// The key it is sealed under.
    kek_id: [u8; 8],
    data_key: Zeroizing<[u8; 32]>,
    /// The sealed value with its nonce.
    value: &'e [u8],
}

/// Appends a fresh nonce and `plaintext` sealed under `key`.
fn append_sealed(out: &mut Vec<u8>, key: &[u8; 32], plaintext: &[u8], aad: &[u8]) -> Result<(), SealError> {
    let nonce = random::bytes::<12>();
    let mut buffer = Zeroizing::new(plaintext.to_vec());
    let tag = aead(key)
        .ok_or(SealError::Library)?
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut buffer)
        .or(Err(SealError::Library))?;
    out.extend_from_slice(&nonce);
    out.extend_from_slice(&buffer);
    out.extend_from_slice(tag.as_ref());
    Ok(())
}

fn open_one(
    key: &[u8; 32],
    nonce: &[u8; 12],
    sealed: &[u8],
    aad: &[u8],
) -> Result<Zeroizing<Vec<u8>>, OpenError> {
    let mut buffer = Zeroizing::new(sealed.to_vec());
    let length = aead(key)
        .ok_or(OpenError::Format)?
        .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(aad), &mut buffer)
        .or(Err(OpenError::Authentication))?
        .len();
    buffer.truncate(length);
    Ok(buffer)
}

fn aead(key: &[u8; 32]) -> Option<LessSafeKey> {
    UnboundKey::new(&CHACHA20_POLY1305, key)
        .ok()
        .map(LessSafeKey::new)
}

/// One byte or one pair of bytes over and over, or a sequence counting up or down by one.
fn is_weak(key: &[u8; 32]) -> bool {
    let steps = |difference: u8| {
        key.iter()
            .zip(key.iter().skip(1))
            .all(|(a, b)| b.wrapping_sub(*a) == difference)
    };
    let pairs_repeat = key.iter().zip(key.iter().skip(2)).all(|(a, b)| a == b);
    pairs_repeat || steps(1) || steps(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEK: &str = "8f3d9a712c45e6b0d18f2a4c6e9b3d57a1c4f8020e6a9c3d5b7f1a2c4e6d8b90";
    const OTHER: &str = "00f1e2d3c4b5a69788796a5b4c3d2e1f102132435465768798a9bacbdcedfe0f";
    const GOLDEN: &str = concat!(
        "435353318547798a706fba7297f14e4710dbb70cafae5284625e843ff8421f7c39a916393521998fb02c28cb8ed66bd5",
        "9c3ee433fdb69dbe116f295b047f469dda4e0b18458de702ee430005bce2eb80fa7179ebc2f1703b332eb089df95e406",
        "89a592b90f696c8a10b80922d812515ec4db3ff067ccb578a016521c9e815538",
    );

    fn ring(kek: &str) -> Keyring {
        Keyring::new(Kek::from_hex(kek).unwrap(), None)
    }

    #[test]
    fn the_published_envelope_opens() {
        let envelope = hex::decode(GOLDEN).unwrap();
        let opened = ring(KEK).open(&envelope, b"caracal/test/golden").unwrap();
        assert_eq!(opened.as_slice(), b"cross-language golden secret");
    }

    #[test]
    fn what_is_sealed_opens_only_for_its_location() {
        let ring = ring(KEK);
        for plaintext in [&b""[..], b"x", &[7; 5_000]] {
            let envelope = ring.seal(plaintext, b"here").unwrap();
            assert_eq!(envelope.len(), 100 + plaintext.len());
            assert_eq!(ring.open(&envelope, b"here").unwrap().as_slice(), plaintext);
            assert_eq!(
                ring.open(&envelope, b"there").unwrap_err(),
                OpenError::Authentication
            );
        }
    }

    #[test]
    fn two_seals_of_one_value_differ() {
        let ring = ring(KEK);
        assert_ne!(
            ring.seal(b"value", b"a").unwrap(),
            ring.seal(b"value", b"a").unwrap()
        );
    }

    #[test]
    fn a_rotated_kek_opens_and_a_forgotten_one_does_not() {
        let envelope = ring(KEK).seal(b"value", b"a").unwrap();
        let rotated = Keyring::new(Kek::from_hex(OTHER).unwrap(), Some(Kek::from_hex(KEK).unwrap()));
        assert_eq!(rotated.open(&envelope, b"a").unwrap().as_slice(), b"value");
        assert_eq!(
            ring(OTHER).open(&envelope, b"a").unwrap_err(),
            OpenError::UnknownKek
        );
        assert!(
            ring(KEK).open(&rotated.seal(b"v", b"a").unwrap(), b"a").is_err(),
            "seals with the current key"
        );
    }

    #[test]
    fn a_rewrapped_envelope_needs_only_the_current_key() {
        let envelope = ring(KEK).seal(b"value", b"a").unwrap();
        let rotating = Keyring::new(Kek::from_hex(OTHER).unwrap(), Some(Kek::from_hex(KEK).unwrap()));
        let rewrapped = rotating.rewrap(&envelope).unwrap().unwrap();
        assert_eq!(ring(OTHER).open(&rewrapped, b"a").unwrap().as_slice(), b"value");
        assert_eq!(rewrapped.len(), envelope.len());
        assert_eq!(rewrapped[72..], envelope[72..], "the value is not sealed again");
        assert_eq!(rotating.rewrap(&rewrapped).unwrap(), None, "once is enough");
        assert_eq!(ring(OTHER).rewrap(&envelope).unwrap_err(), OpenError::UnknownKek);
        assert_eq!(rotating.rewrap(b"CSS1").unwrap_err(), OpenError::Format);
        let mut altered = envelope;
        altered[30] ^= 1;
        assert_eq!(rotating.rewrap(&altered).unwrap_err(), OpenError::Authentication);
    }

    #[test]
    fn no_altered_or_cut_envelope_opens() {
        let ring = ring(KEK);
        let envelope = ring.seal(b"value", b"a").unwrap();
        for position in 0..envelope.len() {
            let mut altered = envelope.clone();
            altered[position] ^= 1;
            assert!(ring.open(&altered, b"a").is_err(), "bit flipped at {position}");
            assert!(
                ring.open(&envelope[..position], b"a").is_err(),
                "cut at {position}"
            );
        }
    }

    #[test]
    fn guessable_keks_are_refused() {
        let pattern = |byte: fn(u8) -> u8| hex::encode((0..32).map(byte).collect::<Vec<_>>());
        for (what, text) in [
            ("zeros", pattern(|_| 0)),
            ("one byte", pattern(|_| 0xa5)),
            ("ascending", pattern(|i| i)),
            (
                "ascending from elsewhere, wrapping",
                pattern(|i| i.wrapping_add(250)),
            ),
            ("descending", pattern(|i| 31 - i)),
            ("a pair", pattern(|i| if i % 2 == 0 { 0xde } else { 0xad })),
        ] {
            assert_eq!(Kek::from_hex(&text).unwrap_err(), KekError::Weak, "{what}");
        }
        for text in ["", "zz", &KEK[1..], &format!("{KEK}00"), &KEK.replace('8', "g")] {
            assert_eq!(Kek::from_hex(text).unwrap_err(), KekError::Format, "{text}");
        }
    }

    #[test]
    fn debug_output_does_not_show_the_key() {
        let shown = format!("{:?}", ring(KEK));
        assert!(!shown.contains("8f3d"), "{shown}");
    }
}
