//! Whose certificates are taken from clients, and what do they prove?

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoClientAuth, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};

use crate::config::ClientCertificates;

/// Why clients cannot be checked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthoritiesError {
    /// A certificate is none.
    #[error("it cannot be read as PEM")]
    Pem(#[source] rustls::pki_types::pem::Error),
    /// A certificate is no authority's.
    #[error("a certificate of it cannot be an authority")]
    Authority(#[source] rustls::Error),
    /// There is no authority.
    #[error("it holds no certificate authority")]
    Verifier(#[source] VerifierBuilderError),
}

impl ClientCertificates {
    /// The file of the authorities, where there is one.
    pub(super) fn authorities_file(&self) -> Option<&PathBuf> {
        match self {
            Self::Request(file) | Self::Require(file) => Some(file),
            Self::Off | Self::Any => None,
        }
    }

    /// What checks a client's certificate. `authorities` is what the file holds, PEM; nothing where there is none.
    ///
    /// # Errors
    /// [`AuthoritiesError`].
    pub(super) fn verifier(
        &self,
        authorities: &[u8],
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ClientCertVerifier>, AuthoritiesError> {
        let is_required = match self {
            Self::Off => return Ok(Arc::new(NoClientAuth)),
            Self::Any => return Ok(Arc::new(AnyCertificate(Arc::clone(provider)))),
            Self::Request(_) => false,
            Self::Require(_) => true,
        };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(authorities) {
            let certificate = certificate.map_err(AuthoritiesError::Pem)?;
            roots.add(certificate).map_err(AuthoritiesError::Authority)?;
        }
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        let builder = if is_required {
            builder
        } else {
            builder.allow_unauthenticated()
        };
        builder.build().map_err(AuthoritiesError::Verifier)
    }
}

/// Takes every certificate whose key the client holds (RFC 8705 section 2.2, without registered keys): who issued it, for
/// whom and for how long is not looked at. It is worth something only for mandates that are bound to it.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ClientCertVerifier for AnyCertificate {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
