//! Is this the answer of our token service to exactly this call?
//!
//! A gateway asks for the MAC with the header of its call, and takes it in place of the signature of the mandate in the
//! answer. It covers the signature of the call, and with it every byte that was asked, and every byte of the answer
//! (`docs/contract/wire-formats.md`, "Answer MAC").

use std::fmt;

use aws_lc_rs::hmac::{Context, HMAC_SHA256, Key, Tag, sign};
use subtle::ConstantTimeEq as _;

/// Header of both: the call asks with [`VERSION`], the answer holds 64 lower-case hex digits.
pub const HEADER: &str = "x-caracal-answer-mac";
/// How the MAC is made.
pub const VERSION: &str = "v1";

/// What the derived key is for.
const INFO: &[u8] = b"caracal/answer-mac/v1\x01";

/// The key of these MACs, for token services and gateways only.
#[derive(Clone)]
pub struct AnswerMacKey(Key);

impl AnswerMacKey {
    /// Derives the key from the shared secret, which serves other purposes too (HKDF-Expand, RFC 5869, one block).
    pub fn derive(shared: &[u8]) -> Self {
        let derived = sign(&Key::new(HMAC_SHA256, shared), INFO);
        Self(Key::new(HMAC_SHA256, derived.as_ref()))
    }

    /// The MAC of a 200 with this body, answering the call of this signature. One HMAC of the body's length.
    pub fn seal(&self, call_signature: &str, body: &[u8]) -> String {
        hex::encode(self.tag(call_signature, body))
    }

    /// Whether `presented` is that MAC; compared in constant time.
    pub fn is_sealed(&self, call_signature: &str, body: &[u8], presented: &[u8]) -> bool {
        let mut tag = [0; 32];
        hex::decode_to_slice(presented, &mut tag).is_ok()
            && self.tag(call_signature, body).as_ref().ct_eq(&tag).into()
    }

    /// A signature has no line end, so nothing of the body can pass for a part of it.
    fn tag(&self, call_signature: &str, body: &[u8]) -> Tag {
        let mut context = Context::with_key(&self.0);
        for part in [
            VERSION.as_bytes(),
            b"\n",
            call_signature.as_bytes(),
            b"\n200\n",
            body,
        ] {
            context.update(part);
        }
        context.sign()
    }
}

/// Does not show the key.
impl fmt::Debug for AnswerMacKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("AnswerMacKey([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_is_good_for_one_call_and_one_answer_under_one_key() {
        let key = AnswerMacKey::derive(&[7; 32]);
        let mac = key.seal("aa", b"{}");
        assert!(key.is_sealed("aa", b"{}", mac.as_bytes()));
        for (key, call, body, mac) in [
            (&key, "ab", "{}", mac.as_str()),
            (&key, "aa", "{ }", &mac),
            (&key, "aa", "{}", &mac[..62]),
            (&key, "aa", "{}", ""),
            (&key, "aa", "{}", &"0".repeat(64)),
            (&AnswerMacKey::derive(&[8; 32]), "aa", "{}", &mac),
        ] {
            assert!(
                !key.is_sealed(call, body.as_bytes(), mac.as_bytes()),
                "{call} {body} {mac}"
            );
        }
    }

    #[test]
    fn the_mac_is_the_documented_one() {
        // By Python's hmac: HMAC(HMAC(0707..07, "caracal/answer-mac/v1\x01"), "v1\naa\n200\n{}").
        assert_eq!(
            AnswerMacKey::derive(&[7; 32]).seal("aa", b"{}"),
            "6eb52452b36ec2424598fe0d4d115771bbb424dff9ba0086d48963b6a26e097e"
        );
    }

    #[test]
    fn the_key_is_not_shown() {
        assert_eq!(
            format!("{:?}", AnswerMacKey::derive(&[7; 32])),
            "AnswerMacKey([redacted])"
        );
    }
}
