//! Did our gateway send this exchange, just now, with exactly this body?
//!
//! The signature covers time, nonce, method, path and body (`docs/contract/wire-formats.md`, "Gateway signature"). Whether
//! the nonce was seen before is for the receiver to ask of its own memory.

use crate::digest::{equal, hmac_hex, hmac_tag, sha256_hex};

/// Header with the time of signing, in decimal seconds since the epoch.
pub const TIMESTAMP: &str = "x-caracal-gateway-timestamp";
/// Header with the nonce: 64 hex digits from 32 random bytes.
pub const NONCE: &str = "x-caracal-gateway-request";
/// Header with the signature: 64 lower-case hex digits.
pub const SIGNATURE: &str = "x-caracal-gateway-signature";
/// How far the two clocks may differ, in seconds.
pub const MAX_SKEW_SECONDS: i64 = 60;
/// How long a nonce must be remembered, in seconds: a timestamp is acceptable from 60 s before to 60 s after.
pub const NONCE_MEMORY_SECONDS: i64 = 2 * MAX_SKEW_SECONDS;
/// Longest nonce accepted, in bytes. What we send has 64.
pub const MAX_NONCE_BYTES: usize = 128;

/// The `info` of the key derivation: what the derived key is for.
const DERIVED_KEY_INFO: &[u8] = b"caracal/gateway-sts-hmac-key/v1";

/// The three headers as received; absent ones are empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Presented<'a> {
    /// Value of [`TIMESTAMP`].
    pub timestamp: &'a str,
    /// Value of [`NONCE`].
    pub nonce: &'a str,
    /// Value of [`SIGNATURE`].
    pub signature: &'a str,
}

impl Presented<'_> {
    /// Whether no header is there at all: an ordinary exchange, not a gateway's.
    pub fn is_absent(&self) -> bool {
        self.timestamp.is_empty() && self.nonce.is_empty() && self.signature.is_empty()
    }
}

/// Why an exchange is not our gateway's. The client is not told which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// One of the three headers is missing.
    #[error("gateway signature header missing")]
    Missing,
    /// The timestamp is not a decimal number, or the nonce is unreasonably long.
    #[error("gateway signature header malformed")]
    Malformed,
    /// The two clocks differ by more than [`MAX_SKEW_SECONDS`], or the request is old.
    #[error("gateway signature outside the accepted time")]
    Skew,
    /// The signature does not match.
    #[error("gateway signature does not match")]
    Mismatch,
}

/// Signs a request, as 64 lower-case hex digits. The method is signed in upper case, the path as it is sent.
///
/// Cost: one SHA-256 of the body and one HMAC of about 150 bytes.
pub fn sign(key: &[u8], unix_seconds: i64, nonce: &str, method: &str, path: &str, body: &[u8]) -> String {
    signature(key, &unix_seconds.to_string(), nonce, method, path, body)
}

fn signature(key: &[u8], timestamp: &str, nonce: &str, method: &str, path: &str, body: &[u8]) -> String {
    let method = method.to_ascii_uppercase();
    let body_digest = sha256_hex(&[body]);
    let text = [timestamp, nonce, &method, path, &body_digest].join("\n");
    hmac_hex(key, &[text.as_bytes()])
}

/// Checks a request: headers complete, time within [`MAX_SKEW_SECONDS`] of `now`, signature equal in constant time.
///
/// # Errors
/// See [`SignatureError`].
pub fn verify(
    key: &[u8],
    presented: &Presented<'_>,
    method: &str,
    path: &str,
    body: &[u8],
    now_unix_seconds: i64,
) -> Result<(), SignatureError> {
    if presented.timestamp.is_empty() || presented.nonce.is_empty() || presented.signature.is_empty() {
        return Err(SignatureError::Missing);
    }
    let signed_at: i64 = presented
        .timestamp
        .parse()
        .map_err(|_not_a_number| SignatureError::Malformed)?;
    if presented.nonce.len() > MAX_NONCE_BYTES || presented.nonce.chars().any(char::is_control) {
        return Err(SignatureError::Malformed);
    }
    if now_unix_seconds.abs_diff(signed_at) > MAX_SKEW_SECONDS.unsigned_abs() {
        return Err(SignatureError::Skew);
    }
    let expected = signature(key, presented.timestamp, presented.nonce, method, path, body);
    if equal(&expected, presented.signature) {
        Ok(())
    } else {
        Err(SignatureError::Mismatch)
    }
}

/// Derives the key of these signatures from the audit key, for installations that configure no key of its own.
///
/// HKDF-SHA256 (RFC 5869) without salt, one block of output. Gateway and STS both hold the audit key; services that hold
/// only the stream key cannot pose as a gateway.
pub fn derive_key(audit_key: &[u8]) -> [u8; 32] {
    let pseudorandom_key = hmac_tag(&[0; 32], &[audit_key]);
    let output = hmac_tag(pseudorandom_key.as_ref(), &[DERIVED_KEY_INFO, &[1]]);
    let mut key = [0; 32];
    for (to, from) in key.iter_mut().zip(output.as_ref()) {
        *to = *from;
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{form, sts};

    const T: i64 = 1_700_000_000;

    fn key() -> Vec<u8> {
        (0..32).collect()
    }

    fn nonce() -> String {
        "0".repeat(64)
    }

    fn body() -> String {
        form::encode(&[
            (sts::field::ZONE_ID, "zone-1"),
            (sts::field::APPLICATION_ID, "app-1"),
            (sts::field::GATEWAY_REQUEST_ID, "req-1"),
            (sts::field::GRANT_TYPE, sts::TOKEN_EXCHANGE_GRANT),
            (sts::field::REQUEST_METHOD, "POST"),
            (sts::field::REQUEST_PATH, "/v1/chat"),
            (sts::field::RESOURCE, "resource://pipernet"),
            (sts::field::SUBJECT_TOKEN, "aaa.bbb.ccc"),
            (sts::field::SUBJECT_TOKEN_TYPE, sts::ACCESS_TOKEN_TYPE),
        ])
    }

    #[test]
    fn the_published_exchange_is_written_and_signed_byte_for_byte() {
        assert_eq!(
            body(),
            "application_id=app-1&gateway_request_id=req-1&grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3A\
             token-exchange&request_method=POST&request_path=%2Fv1%2Fchat&resource=resource%3A%2F%2Fpipernet&\
             subject_token=aaa.bbb.ccc&subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aaccess_token&\
             zone_id=zone-1"
        );
        assert_eq!(
            sha256_hex(&[body().as_bytes()]),
            "955e9ad60e6c1a8b2b0dd810031c6919d51ca5e3edb5d6bfdc7fd48222be14e8"
        );
        assert_eq!(
            sign(&key(), T, &nonce(), "POST", sts::TOKEN_PATH, body().as_bytes()),
            "ebe46eb909421e7c2546fd864c0e13c36ada0592641664484ae6ad3dc376cc73"
        );
    }

    #[test]
    fn the_method_is_signed_in_upper_case() {
        assert_eq!(
            sign(
                b"gateway-signing-key-with-entropy",
                T,
                "req-123",
                "post",
                "/oauth/token",
                br#"{"grant_id":"grant_123","scope":"read write"}"#
            ),
            "4d299b9ededc03aae1467f1d85502ee7c9399d05c9a46123a31d4a768d2e0925"
        );
    }

    fn check(
        presented: &Presented<'_>,
        method: &str,
        path: &str,
        body: &[u8],
        now: i64,
    ) -> Result<(), SignatureError> {
        verify(&key(), presented, method, path, body, now)
    }

    #[test]
    fn a_signature_holds_for_sixty_seconds_either_way() {
        let (nonce, signature) = (nonce(), sign(&key(), T, &nonce(), "GET", "/p", b""));
        let presented = Presented {
            timestamp: "1700000000",
            nonce: &nonce,
            signature: &signature,
        };
        for (now, outcome) in [
            (T - 61, Err(SignatureError::Skew)),
            (T - 60, Ok(())),
            (T + 60, Ok(())),
            (T + 61, Err(SignatureError::Skew)),
            (i64::MIN, Err(SignatureError::Skew)),
        ] {
            assert_eq!(check(&presented, "GET", "/p", b"", now), outcome, "{now}");
        }
    }

    #[test]
    fn nothing_that_is_covered_can_be_changed() {
        let (nonce, signature) = (nonce(), sign(&key(), T, &nonce(), "POST", "/p", b"a=1"));
        let presented = Presented {
            timestamp: "1700000000",
            nonce: &nonce,
            signature: &signature,
        };
        let mismatch = Err(SignatureError::Mismatch);
        assert_eq!(check(&presented, "POST", "/p", b"a=1", T), Ok(()));
        assert_eq!(check(&presented, "PUT", "/p", b"a=1", T), mismatch);
        assert_eq!(check(&presented, "POST", "/q", b"a=1", T), mismatch);
        assert_eq!(check(&presented, "POST", "/p", b"a=2", T), mismatch);
        assert_eq!(
            check(
                &Presented {
                    timestamp: "1700000001",
                    ..presented
                },
                "POST",
                "/p",
                b"a=1",
                T
            ),
            mismatch
        );
        assert_eq!(
            check(
                &Presented {
                    nonce: "other",
                    ..presented
                },
                "POST",
                "/p",
                b"a=1",
                T
            ),
            mismatch
        );
        assert_eq!(
            verify(b"other key", &presented, "POST", "/p", b"a=1", T),
            mismatch
        );
        assert_eq!(
            check(
                &Presented {
                    signature: "",
                    ..presented
                },
                "POST",
                "/p",
                b"a=1",
                T
            ),
            Err(SignatureError::Missing)
        );
        assert_eq!(
            check(
                &Presented {
                    timestamp: "soon",
                    ..presented
                },
                "POST",
                "/p",
                b"",
                T
            ),
            Err(SignatureError::Malformed)
        );
    }

    #[test]
    fn the_derived_key_is_the_one_of_rfc_5869() {
        use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
        let audit_key = [7; 32];
        let mut expected = [0; 32];
        let pseudorandom_key = Salt::new(HKDF_SHA256, &[]).extract(&audit_key);
        pseudorandom_key
            .expand(&[DERIVED_KEY_INFO], HKDF_SHA256)
            .unwrap()
            .fill(&mut expected)
            .unwrap();
        assert_eq!(derive_key(&audit_key), expected);
        assert_ne!(derive_key(&[8; 32]), expected);
    }
}
