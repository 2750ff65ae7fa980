//! Which certificate authorities does the client trust? Those of the machine, and those of one extra file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};
use rustls::{ClientConfig, RootCertStore};

/// Why the authorities could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The extra file cannot be read, or is not PEM.
    #[error("the file of certificate authorities {path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: pem::Error,
    },
    /// The extra file holds no usable certificate.
    #[error("the file of certificate authorities {0} holds no usable certificate")]
    Empty(PathBuf),
    /// The cryptographic provider has no protocol version in common with us.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
}

/// TLS 1.2 and 1.3 with AWS-LC, HTTP/1.1 only.
pub(super) fn client_config(extra: Option<&Path>) -> Result<Arc<ClientConfig>, TrustError> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::warn!(%error, "some of the machine's certificate authorities cannot be read");
    }
    let (_added, ignored) = roots.add_parsable_certificates(native.certs);
    if ignored > 0 {
        tracing::debug!(
            ignored,
            "some of the machine's certificate authorities are malformed"
        );
    }
    if let Some(path) = extra {
        add(&mut roots, path)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn add(roots: &mut RootCertStore, path: &Path) -> Result<(), TrustError> {
    let unreadable = |source| TrustError::Read {
        path: path.to_owned(),
        source,
    };
    let certificates = CertificateDer::pem_file_iter(path)
        .map_err(unreadable)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(unreadable)?;
    match roots.add_parsable_certificates(certificates) {
        (0, _) => Err(TrustError::Empty(path.to_owned())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_file_that_cannot_be_used_is_an_error() {
        assert!(matches!(
            client_config(Some(Path::new("/nonexistent/ca.pem"))),
            Err(TrustError::Read { .. })
        ));
        assert!(matches!(
            client_config(Some(Path::new("/dev/null"))),
            Err(TrustError::Empty(_))
        ));
        assert!(client_config(None).is_ok());
    }
}
