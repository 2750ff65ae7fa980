//! Lower-case hex of SHA-256 and HMAC-SHA256, as every format in this crate writes them.

use aws_lc_rs::{digest, hmac};
use subtle::ConstantTimeEq as _;

/// SHA-256 of the parts, one after the other, as 64 lower-case hex digits.
pub(crate) fn sha256_hex(parts: &[&[u8]]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    hex::encode(context.finish())
}

/// HMAC-SHA256 of the parts, one after the other.
pub(crate) fn hmac_tag(key: &[u8], parts: &[&[u8]]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in parts {
        context.update(part);
    }
    context.sign()
}

/// HMAC-SHA256 of the parts, one after the other, as 64 lower-case hex digits.
pub(crate) fn hmac_hex(key: &[u8], parts: &[&[u8]]) -> String {
    hex::encode(hmac_tag(key, parts))
}

/// Whether two texts are equal; takes the same time wherever they differ.
pub(crate) fn equal(expected: &str, presented: &str) -> bool {
    expected.as_bytes().ct_eq(presented.as_bytes()).into()
}
