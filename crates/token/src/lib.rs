//! The mandate: claims, signing, verification, key sets, sealed keys.
//!
//! Everything here is a pure function of its arguments: no I/O and no clock. Fresh random bytes
//! (new keys, nonces, client secrets) come from AWS-LC, the only provider of cryptography.
//!
//! The life of a token in this crate:
//!
//! 1. [`SigningKey::sign`] turns [`Claims`] into compact ES256 text (RFC 7515, RFC 7518 section 3.4);
//! 2. [`UnverifiedToken::parse`] splits and parses such text exactly once, trusting nothing;
//! 3. [`verify`] (or [`admit`], by a MAC) consumes the unverified token and returns proven [`Claims`] or a [`VerifyError`].
//!
//! What each claim means is `docs/contract/mandate.md`; keys and envelopes are `docs/contract/keys.md`.

mod claims;
pub mod client_assertion;
pub mod client_certificate;
pub mod client_secret;
mod compact;
mod confirmation;
mod digest;
pub mod dpop;
pub mod envelope;
pub mod id_token;
mod jwk;
mod key_set;
mod mandate_mac;
mod random;
pub mod sender;
mod signing_key;
mod unverified;
mod verify;

pub use claims::{Actor, Claims, Hop, SubjectType, Use};
pub use compact::MalformedJws;
pub use confirmation::{Confirmation, Possession, Thumbprint};
pub use digest::{digest, fingerprint};
pub use jwk::{Jwk, JwkError, JwkSet};
pub use key_set::{KeySet, KeySetError};
pub use mandate_mac::MandateMacKey;
pub use signing_key::{KeyError, SignError, SigningKey, TokenType};
pub use unverified::{Malformed, UnverifiedToken};
pub use verify::{Proof, Rules, VerifyError, admit, verify};
