//! A certificate chain with its key: for which names, and until when?

use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Why a chain and a key cannot be shown to clients.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PairError {
    /// What should be PEM is none.
    #[error("it cannot be read as PEM")]
    Pem(#[source] rustls::pki_types::pem::Error),
    /// There is no certificate.
    #[error("it holds no certificate")]
    Empty,
    /// The first certificate is none.
    #[error("its certificate cannot be read")]
    Certificate,
    /// The key is of an unknown kind, or does not belong to the certificate.
    #[error("the key cannot be used with the certificate")]
    Key(#[source] rustls::Error),
}

/// A certificate chain with its key, ready to be shown.
#[derive(Debug)]
pub(crate) struct Pair {
    certified: Arc<CertifiedKey>,
    names: Vec<String>,
    not_before_unix_s: i64,
    not_after_unix_s: i64,
}

impl Pair {
    /// Reads a chain, the certificate of the server first, and the key of that certificate. Some 100 us, none of it for a request.
    ///
    /// # Errors
    /// [`PairError`].
    pub(crate) fn from_pem(chain: &[u8], key: &[u8], provider: &CryptoProvider) -> Result<Self, PairError> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(PairError::Pem)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(PairError::Pem)?;
        let leaf = chain.first().ok_or(PairError::Empty)?;
        let (_rest, leaf) =
            X509Certificate::from_der(leaf).map_err(|_not_a_certificate| PairError::Certificate)?;
        let names = dns_names(&leaf);
        let validity = leaf.validity();
        let (not_before_unix_s, not_after_unix_s) =
            (validity.not_before.timestamp(), validity.not_after.timestamp());
        let certified = CertifiedKey::from_der(chain, key, provider).map_err(PairError::Key)?;
        Ok(Self {
            certified: Arc::new(certified),
            names,
            not_before_unix_s,
            not_after_unix_s,
        })
    }

    /// What rustls shows.
    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    /// The host names it is for, in lower case; `*.` stands for one label.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// What to call it: its first name.
    pub(crate) fn name(&self) -> &str {
        self.names.first().map_or("unnamed", String::as_str)
    }

    /// A byte that is another one for most other certificates.
    pub(crate) fn fingerprint(&self) -> u8 {
        let leaf = self.certified.cert.first();
        let digest = caracal_token::digest(leaf.map(AsRef::as_ref).unwrap_or_default());
        let [first, ..] = digest;
        first
    }

    /// From when it is valid (Unix).
    pub(crate) fn not_before_unix_s(&self) -> i64 {
        self.not_before_unix_s
    }

    /// Until when it is valid (Unix).
    pub(crate) fn not_after_unix_s(&self) -> i64 {
        self.not_after_unix_s
    }

    /// Whether a client that takes these signatures can check one of its key.
    pub(super) fn suits(&self, schemes: &[SignatureScheme]) -> bool {
        self.certified.key.choose_scheme(schemes).is_some()
    }
}

/// The names of the subject's alternative names; the common name counts for nothing (RFC 9525 section 2).
fn dns_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let names = alternative.iter().flat_map(|names| &names.value.general_names);
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .collect()
}
