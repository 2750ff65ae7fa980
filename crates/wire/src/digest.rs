//! Lower-case hex of SHA-256 and HMAC-SHA256, as every format in this crate writes them.

use aws_lc_rs::{digest, hmac};
use subtle::ConstantTimeEq as _;

/// SHA-256 of the parts, one after the other, as 64 lower-case hex digits.
pub(crate) fn sha256_hex(parts: &[&[u8]]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    lower_hex(context.finish().as_ref())
}

/// Lower-case hex. The digits are written into their place: `hex::encode` takes them one by one, at several times the price.
pub(crate) fn lower_hex(bytes: &[u8]) -> String {
    let mut digits = vec![0; 2 * bytes.len()];
    match hex::encode_to_slice(bytes, &mut digits) {
        Ok(()) => String::from_utf8(digits).unwrap_or_default(),
        Err(_length) => String::new(),
    }
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
    lower_hex(hmac_tag(key, parts).as_ref())
}

/// Whether two texts are equal; takes the same time wherever they differ.
pub(crate) fn equal(expected: &str, presented: &str) -> bool {
    expected.as_bytes().ct_eq(presented.as_bytes()).into()
}
