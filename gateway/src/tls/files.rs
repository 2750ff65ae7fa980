//! What do the certificate files hold now? Compared by content, so that a changed link, a renamed file and a rewritten one
//! are all noticed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;

use super::clients::AuthoritiesError;
use super::pair::{Pair, PairError};
use crate::config::{ClientCertificates, PairFiles};

/// Why files cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FilesError {
    /// A file cannot be read.
    #[error("{path} cannot be read")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// A certificate and its key cannot be shown.
    #[error("the certificate {path} cannot be used")]
    Pair {
        path: PathBuf,
        #[source]
        source: PairError,
    },
    /// The authorities of clients cannot be used.
    #[error("TLS_CLIENT_CA_FILE {path} cannot be used")]
    Authorities {
        path: PathBuf,
        #[source]
        source: AuthoritiesError,
    },
}

/// Something made of files, and the digest of what they held when it was last tried.
#[derive(Debug)]
pub(super) struct Watched<T> {
    tried: Option<[u8; 32]>,
    value: T,
}

/// What another look at files has shown.
#[derive(Debug)]
pub(super) enum Look {
    /// They are as they were, or as broken as they were.
    Same,
    /// They are others, and good.
    Replaced,
    /// They are others, and cannot be used: what was made of the old ones stays.
    Broken(FilesError),
}

impl<T> Watched<T> {
    /// What it is.
    pub(super) fn value(&self) -> &T {
        &self.value
    }

    fn first(bytes: &[Vec<u8>], value: T) -> Self {
        Self {
            tried: Some(digest(bytes)),
            value,
        }
    }

    /// Makes it again if the files hold something else than at the last try.
    fn again(
        &mut self,
        read: Result<Vec<Vec<u8>>, FilesError>,
        make: impl FnOnce(&[Vec<u8>]) -> Result<T, FilesError>,
    ) -> Look {
        let made = match read {
            Ok(bytes) => {
                let digest = digest(&bytes);
                if self.tried == Some(digest) {
                    return Look::Same;
                }
                self.tried = Some(digest);
                make(&bytes)
            }
            // Said once: until it can be read again there is nothing new to say.
            Err(_) if self.tried.is_none() => return Look::Same,
            Err(error) => {
                self.tried = None;
                Err(error)
            }
        };
        match made {
            Ok(value) => {
                self.value = value;
                Look::Replaced
            }
            Err(error) => Look::Broken(error),
        }
    }
}

/// A certificate in files.
#[derive(Debug)]
pub(super) struct PairOfFiles {
    files: PairFiles,
    pair: Watched<Arc<Pair>>,
}

impl PairOfFiles {
    /// Reads them for the first time.
    ///
    /// # Errors
    /// [`FilesError`].
    pub(super) fn open(files: PairFiles, provider: &CryptoProvider) -> Result<Self, FilesError> {
        let bytes = read_pair(&files)?;
        let pair = Watched::first(&bytes, make_pair(&files, &bytes, provider)?);
        Ok(Self { files, pair })
    }

    /// What they held when they were last good.
    pub(super) fn pair(&self) -> &Arc<Pair> {
        self.pair.value()
    }

    /// Looks again.
    pub(super) fn look(&mut self, provider: &CryptoProvider) -> Look {
        let files = &self.files;
        self.pair
            .again(read_pair(files), |bytes| make_pair(files, bytes, provider))
    }
}

/// The check of clients, made of a file where there is one.
#[derive(Debug)]
pub(super) struct ClientCheck {
    clients: ClientCertificates,
    verifier: Watched<Arc<dyn ClientCertVerifier>>,
}

impl ClientCheck {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// [`FilesError`].
    pub(super) fn open(
        clients: ClientCertificates,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, FilesError> {
        let bytes = read_authorities(&clients)?;
        let verifier = Watched::first(&bytes, make_verifier(&clients, &bytes, provider)?);
        Ok(Self { clients, verifier })
    }

    /// What the file held when it was last good.
    pub(super) fn verifier(&self) -> &Arc<dyn ClientCertVerifier> {
        self.verifier.value()
    }

    /// Looks again.
    pub(super) fn look(&mut self, provider: &Arc<CryptoProvider>) -> Look {
        let clients = &self.clients;
        self.verifier.again(read_authorities(clients), |bytes| {
            make_verifier(clients, bytes, provider)
        })
    }
}

fn read_pair(files: &PairFiles) -> Result<Vec<Vec<u8>>, FilesError> {
    [&files.certificate, &files.key]
        .into_iter()
        .map(|path| read(path))
        .collect()
}

fn make_pair(
    files: &PairFiles,
    bytes: &[Vec<u8>],
    provider: &CryptoProvider,
) -> Result<Arc<Pair>, FilesError> {
    let [chain, key] = bytes else {
        return Err(pair_error(files, PairError::Empty));
    };
    let pair = Pair::from_pem(chain, key, provider).map_err(|source| pair_error(files, source))?;
    Ok(Arc::new(pair))
}

fn pair_error(files: &PairFiles, source: PairError) -> FilesError {
    FilesError::Pair {
        path: files.certificate.clone(),
        source,
    }
}

fn read_authorities(clients: &ClientCertificates) -> Result<Vec<Vec<u8>>, FilesError> {
    clients
        .authorities_file()
        .into_iter()
        .map(|path| read(path))
        .collect()
}

fn make_verifier(
    clients: &ClientCertificates,
    bytes: &[Vec<u8>],
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, FilesError> {
    let authorities = bytes.first().map(Vec::as_slice).unwrap_or_default();
    clients
        .verifier(authorities, provider)
        .map_err(|source| FilesError::Authorities {
            path: clients.authorities_file().cloned().unwrap_or_default(),
            source,
        })
}

fn read(path: &Path) -> Result<Vec<u8>, FilesError> {
    std::fs::read(path).map_err(|source| FilesError::Read {
        path: path.to_owned(),
        source,
    })
}

/// One digest of several files.
fn digest(files: &[Vec<u8>]) -> [u8; 32] {
    let digests: Vec<u8> = files
        .iter()
        .flat_map(|bytes| caracal_token::digest(bytes))
        .collect();
    caracal_token::digest(&digests)
}
