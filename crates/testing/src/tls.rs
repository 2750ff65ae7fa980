//! Which certificate does a TLS server of a test show, and who signed it?

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// The authority in PEM that signed the certificate of [`Upstream::start_tls`](crate::Upstream::start_tls).
pub fn test_authority() -> PathBuf {
    file("ca.pem")
}

pub(crate) fn acceptor() -> TlsAcceptor {
    acceptor_of(&[])
}

/// Accepts TLS and offers these protocols (ALPN), if any.
pub(crate) fn acceptor_of(protocols: &[&str]) -> TlsAcceptor {
    let chain = CertificateDer::pem_file_iter(file("server.pem"))
        .expect("the certificate is in the repository")
        .collect::<Result<Vec<_>, _>>()
        .expect("the certificate is PEM");
    let key = PrivateKeyDer::from_pem_file(file("server.key")).expect("the key is in the repository");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("AWS-LC speaks TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("the key belongs to the certificate");
    config.alpn_protocols = protocols
        .iter()
        .map(|protocol| protocol.as_bytes().to_vec())
        .collect();
    TlsAcceptor::from(Arc::new(config))
}

pub(crate) fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tls").join(name)
}
