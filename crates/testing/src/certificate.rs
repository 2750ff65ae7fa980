//! A client certificate as a TLS terminator tells of it (RFC 9440), by an implementation of its own.

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use caracal_token::{Confirmation, Possession, Thumbprint};

/// Something that looks like a certificate from outside, different each time.
#[derive(Debug)]
pub struct ClientCertificate(Vec<u8>);

impl Default for ClientCertificate {
    fn default() -> Self {
        Self::new()
    }
}

impl ClientCertificate {
    /// A fresh one.
    ///
    /// # Panics
    /// When there is no randomness.
    pub fn new() -> Self {
        let mut contents = [0; 200];
        rand::fill(&mut contents).expect("randomness");
        Self([&[0x30, 0x81, 200][..], &contents].concat())
    }

    /// The value of the header `Client-Cert`.
    pub fn header(&self) -> String {
        format!(":{}:", STANDARD.encode(&self.0))
    }

    /// What tokens that are bound to it, and to these other keys, say.
    ///
    /// # Panics
    /// Never: it is a key.
    pub fn confirmation_with(&self, others: Possession) -> Confirmation {
        let keys = Possession {
            x5t_s256: Some(Thumbprint::of_digest(caracal_token::digest(&self.0))),
            ..others
        };
        keys.confirmation().expect("a key")
    }

    /// What tokens that are bound to it say.
    pub fn confirmation(&self) -> Confirmation {
        self.confirmation_with(Possession::default())
    }
}
