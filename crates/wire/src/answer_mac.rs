//! Is this the answer of our token service to exactly this call?
//!
//! A gateway asks for the MAC with the header of its call, and takes it in place of the signature of the mandate in the
//! answer. It covers the signature of the call, and with it every byte that was asked, and every byte of the answer. The
//! question is a MAC itself: who answers knows before that its own will fit, and signs otherwise
//! (`docs/contract/wire-formats.md`, "Answer MAC").

use std::fmt;

use aws_lc_rs::hmac::{Context, HMAC_SHA256, Key, Tag, sign, verify};
use subtle::ConstantTimeEq as _;

/// Header of both: 64 lower-case hex digits in the answer, and in the call after [`VERSION`] and a space.
pub const HEADER: &str = "x-caracal-answer-mac";
/// How the MACs are made.
pub const VERSION: &str = "v1";

/// What the derived key of answers is for.
const ANSWERS: &[u8] = b"caracal/answer-mac/v1\x01";
/// What that of questions is for.
const QUESTIONS: &[u8] = b"caracal/answer-mac-question/v1\x01";

/// The keys of these MACs, for token services and gateways only.
#[derive(Clone)]
pub struct AnswerMacKey {
    answers: Key,
    questions: Key,
}

impl AnswerMacKey {
    /// Derives the keys from the shared secret, which serves other purposes too (HKDF-Expand, RFC 5869, one block each).
    pub fn derive(shared: &[u8]) -> Self {
        let shared = Key::new(HMAC_SHA256, shared);
        let derived = |purpose: &[u8]| Key::new(HMAC_SHA256, sign(&shared, purpose).as_ref());
        Self {
            answers: derived(ANSWERS),
            questions: derived(QUESTIONS),
        }
    }

    /// The value of [`HEADER`] in the call of this signature. One HMAC of 64 bytes.
    pub fn question(&self, call_signature: &str) -> String {
        let proof = sign(&self.questions, call_signature.as_bytes());
        format!("{VERSION} {}", hex::encode(proof))
    }

    /// Whether `presented` is that value: whoever asks has this key. Compared in constant time.
    pub fn is_question(&self, call_signature: &str, presented: &str) -> bool {
        let Some((VERSION, presented)) = presented.split_once(' ') else {
            return false;
        };
        let mut proof = [0; 32];
        hex::decode_to_slice(presented, &mut proof).is_ok()
            && verify(&self.questions, call_signature.as_bytes(), &proof).is_ok()
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
        let mut context = Context::with_key(&self.answers);
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
    fn a_question_is_good_for_one_call_under_one_key_and_is_no_answer() {
        let key = AnswerMacKey::derive(&[7; 32]);
        let question = key.question("aa");
        assert!(key.is_question("aa", &question));
        let bare = question.trim_start_matches("v1 ");
        for (key, call, presented) in [
            (&key, "ab", question.as_str()),
            (&key, "aa", "v1"),
            (&key, "aa", "v1 "),
            (&key, "aa", ""),
            (&key, "aa", bare),
            (&key, "aa", &format!("v2 {bare}")),
            (&key, "aa", &format!("v1  {bare}")),
            (&key, "aa", &question[..question.len() - 2]),
            (&key, "aa", &format!("v1 {}", key.seal("aa", b""))),
            (&AnswerMacKey::derive(&[8; 32]), "aa", &question),
        ] {
            assert!(!key.is_question(call, presented), "{call} {presented}");
        }
    }

    #[test]
    fn the_macs_are_the_documented_ones() {
        // By Python's hmac: HMAC(HMAC(0707..07, "caracal/answer-mac/v1\x01"), "v1\naa\n200\n{}").
        assert_eq!(
            AnswerMacKey::derive(&[7; 32]).seal("aa", b"{}"),
            "6eb52452b36ec2424598fe0d4d115771bbb424dff9ba0086d48963b6a26e097e"
        );
        // HMAC(HMAC(0707..07, "caracal/answer-mac-question/v1\x01"), "aa").
        assert_eq!(
            AnswerMacKey::derive(&[7; 32]).question("aa"),
            "v1 780497a9f9e6bd13ae40e89391fcc63a3214a8f18328d4621cd3a2cabe28ea3f"
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
