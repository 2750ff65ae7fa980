//! Which certificate does the gateway show to upstreams that ask for one, and to which of them?

use std::path::{Path, PathBuf};
use std::sync::Arc;

use caracal_egress::Target;
use pingora_core::utils::tls::CertKey;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Where the gateway's certificate as a client is, and who may see it.
#[derive(Clone, Debug)]
pub(crate) struct IdentityFiles {
    /// Chain, the certificate itself first, PEM.
    pub(crate) certificate: PathBuf,
    /// Its key, PEM.
    pub(crate) key: PathBuf,
    /// Hosts, in lower case.
    pub(crate) hosts: Vec<String>,
}

/// Why the gateway cannot show a certificate to upstreams.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    /// A file cannot be read, or what should be PEM is none.
    #[error("{path} cannot be read")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// There is no certificate, or something else in its place.
    #[error("{0} does not hold certificates")]
    Certificate(PathBuf),
    /// The key is of an unknown kind, or does not belong to the certificate.
    #[error("the key cannot be used with the certificate")]
    Key(#[source] rustls::Error),
}

/// The certificate the gateway shows to upstreams that ask for one. Only to listed hosts: where resources come from many hands,
/// one of them could otherwise point at a service that believes the gateway, and speak in its name.
#[derive(Debug)]
pub(crate) struct Identity {
    shown: Arc<CertKey>,
    hosts: Vec<String>,
}

impl Identity {
    /// Reads and checks the files, once: a renewed certificate needs a restart.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub(crate) fn open(files: &IdentityFiles) -> Result<Self, IdentityError> {
        let unreadable = |path: &Path| {
            let path = path.to_owned();
            |source| IdentityError::File { path, source }
        };
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&files.certificate)
            .and_then(Iterator::collect)
            .map_err(unreadable(&files.certificate))?;
        let are_certificates =
            !chain.is_empty() && chain.iter().all(|one| X509Certificate::from_der(one).is_ok());
        if !are_certificates {
            return Err(IdentityError::Certificate(files.certificate.clone()));
        }
        let key = PrivateKeyDer::from_pem_file(&files.key).map_err(unreadable(&files.key))?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        rustls::sign::CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider)
            .map_err(IdentityError::Key)?;
        let chain = chain.into_iter().map(|one| one.to_vec()).collect();
        Ok(Self {
            shown: Arc::new(CertKey::new(chain, key.secret_der().to_vec())),
            hosts: files.hosts.clone(),
        })
    }

    /// What `target` may see, if it asks.
    pub(crate) fn for_target(&self, target: &Target) -> Option<Arc<CertKey>> {
        let is_listed = self.hosts.iter().any(|host| host == target.host());
        (is_listed && target.is_tls()).then(|| Arc::clone(&self.shown))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_do_not_belong_together_are_refused() {
        let folder = tempfile::TempDir::new().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let made = |name: &str| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let (this, other) = (made("this"), made("other"));
        let certificate = write("a.pem", &this.cert.pem());
        let key = write("a.key", &this.signing_key.serialize_pem());
        let others = write("b.key", &other.signing_key.serialize_pem());
        let (nothing, missing) = (write("empty", ""), folder.path().join("missing"));
        let open = |certificate: &Path, key: &Path| {
            Identity::open(&IdentityFiles {
                certificate: certificate.to_owned(),
                key: key.to_owned(),
                hosts: vec!["a".to_owned()],
            })
        };
        assert!(open(&certificate, &key).is_ok());
        assert!(matches!(open(&certificate, &others), Err(IdentityError::Key(_))));
        assert!(matches!(open(&nothing, &key), Err(IdentityError::Certificate(_))));
        assert!(matches!(open(&missing, &key), Err(IdentityError::File { .. })));
        assert!(matches!(
            open(&certificate, &nothing),
            Err(IdentityError::File { .. })
        ));
    }
}
