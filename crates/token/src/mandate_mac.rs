//! Did our token service write these claims? A MAC in the header of a mandate says so to whoever shares the key.
//!
//! It spares gateways a signature check for each request and proves less: who holds the key can make one, and it does not
//! cover the signature. So it only lets a mandate in; the token service, which answers for every exchange, knows what it
//! minted by its digest or checks the signature (`docs/contract/mandate.md`, "MAC").

use aws_lc_rs::hmac::{HMAC_SHA256, Key, Tag, sign};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::fmt;
use subtle::ConstantTimeEq as _;

use crate::UnverifiedToken;

/// What the derived key is for.
const INFO: &[u8] = b"caracal/mandate-mac/v1\x01";
/// Half of an HMAC-SHA256 (RFC 2104 section 5).
const MAC_BYTES: usize = 16;
/// The same in base64url.
const MAC_CHARS: usize = 22;
/// What stands between the other members of the header and the MAC.
const BEFORE: &[u8] = br#","mac":""#;
/// What closes the header after it.
const AFTER: &[u8] = br#""}"#;

/// The key of these MACs, for token services and gateways only.
#[derive(Clone)]
pub struct MandateMacKey(Key);

impl MandateMacKey {
    /// Derives the key from the shared secret, which serves other purposes too (HKDF-Expand, RFC 5869, one block).
    pub fn derive(shared: &[u8]) -> Self {
        let derived = sign(&Key::new(HMAC_SHA256, shared), INFO);
        Self(Key::new(HMAC_SHA256, derived.as_ref()))
    }

    /// The header of a mandate with the MAC as its last member. `members` are those before it, `payload` is the second segment.
    pub(crate) fn header(&self, members: &str, payload: &str) -> String {
        let mut header = String::with_capacity(members.len() + 32);
        header.push_str(members);
        header.push_str(r#","mac":""#);
        let tag = self.tag(header.as_bytes(), payload.as_bytes());
        URL_SAFE_NO_PAD.encode_string(half(&tag), &mut header);
        header.push_str(r#""}"#);
        header
    }

    /// Whether the MAC of a token is right. One HMAC of the token's length, about a microsecond.
    pub(crate) fn vouches_for(&self, token: &UnverifiedToken<'_>) -> bool {
        token.mac.as_ref().is_some_and(|presented| {
            let tag = self.tag(&presented.covered, token.payload);
            half(&tag).ct_eq(&presented.tag).into()
        })
    }

    /// Over the header as it is up to the MAC, and the payload. A dot, which base64url has not, keeps them apart.
    fn tag(&self, covered: &[u8], payload: &[u8]) -> Tag {
        let mut context = aws_lc_rs::hmac::Context::with_key(&self.0);
        for part in [payload, b".", covered] {
            context.update(part);
        }
        context.sign()
    }
}

/// Does not show the key.
impl fmt::Debug for MandateMacKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("MandateMacKey([redacted])")
    }
}

fn half(tag: &Tag) -> &[u8] {
    tag.as_ref().get(..MAC_BYTES).unwrap_or_default()
}

/// The MAC of a header, and the bytes of the header that it covers.
#[derive(Debug)]
pub(crate) struct PresentedMac {
    covered: Vec<u8>,
    tag: [u8; MAC_BYTES],
}

impl PresentedMac {
    /// Takes it from a header. None when there is none, or not as the last member in just the form we write.
    pub(crate) fn of(mut header: Vec<u8>) -> Option<Self> {
        let (before, presented) = header.strip_suffix(AFTER)?.split_last_chunk::<MAC_CHARS>()?;
        if !before.ends_with(BEFORE) {
            return None;
        }
        let tag = URL_SAFE_NO_PAD.decode(presented).ok()?.try_into().ok()?;
        let covered = before.len();
        header.truncate(covered);
        Some(Self { covered: header, tag })
    }
}
