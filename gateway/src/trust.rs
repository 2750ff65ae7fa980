//! Which certificate authorities are trusted? Those of the machine, and those of `CARACAL_TLS_EXTRA_CA_FILE`.
//!
//! Pingora takes either the machine's authorities or one file, so with an extra file both are written into one.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use pingora_core::tls::load_native_certs;

/// Why the authorities could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The extra file cannot be read.
    #[error("CARACAL_TLS_EXTRA_CA_FILE {path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        source: std::io::Error,
    },
    /// The extra file holds no certificate.
    #[error("CARACAL_TLS_EXTRA_CA_FILE {0} holds no certificate")]
    Empty(PathBuf),
    /// The combined file cannot be written.
    #[error("the combined certificate file cannot be written")]
    Write(#[source] std::io::Error),
}

/// A file with every trusted authority; removed when dropped, which is after the connectors have read it.
#[derive(Debug)]
pub(crate) struct TrustFile(PathBuf);

impl TrustFile {
    /// Combines the machine's authorities with those of `extra`, in a file only this user can read.
    ///
    /// # Errors
    /// [`TrustError`]. A file that was named and cannot be used stops the gateway: trusting less than was asked for
    /// would show much later.
    pub(crate) fn combine(extra: &Path) -> Result<Self, TrustError> {
        let text = std::fs::read_to_string(extra).map_err(|source| TrustError::Read {
            path: extra.to_owned(),
            source,
        })?;
        let mut bundle = String::new();
        for certificate in certificates(&text) {
            bundle.push_str(certificate);
            bundle.push('\n');
        }
        if bundle.is_empty() {
            return Err(TrustError::Empty(extra.to_owned()));
        }
        match load_native_certs() {
            Ok(native) => native
                .iter()
                .for_each(|certificate| bundle.push_str(&pem(certificate))),
            Err(error) => tracing::warn!(%error, "the machine's certificate authorities cannot be read"),
        }
        let path = std::env::temp_dir().join(format!("caracal-trust-{}.pem", uuid::Uuid::new_v4()));
        let created = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        created
            .and_then(|mut file| file.write_all(bundle.as_bytes()))
            .map_err(TrustError::Write)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> String {
        self.0.to_string_lossy().into_owned()
    }
}

impl Drop for TrustFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::debug!(%error, "the combined certificate file could not be removed");
        }
    }
}

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// The PEM blocks of certificates in `text`; other blocks and comments are passed over.
fn certificates(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices(BEGIN).filter_map(|(start, _marker)| {
        let block = text.get(start..)?;
        let end = block.find(END)?;
        block.get(..end + END.len())
    })
}

fn pem(certificate: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .filter_map(|line| std::str::from_utf8(line).ok())
        .collect();
    format!("{BEGIN}\n{}\n{END}\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_certificates_are_taken_from_a_bundle() {
        let text = format!(
            "# comment\n{BEGIN}\nAAAA\n{END}\n-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----\n{BEGIN}\nBBBB\n{END}"
        );
        let found: Vec<&str> = certificates(&text).collect();
        assert_eq!(
            found,
            [format!("{BEGIN}\nAAAA\n{END}"), format!("{BEGIN}\nBBBB\n{END}")]
        );
        assert_eq!(pem(&[0; 48]).lines().count(), 3);
    }

    #[test]
    fn a_file_without_certificates_is_refused() {
        let missing = TrustFile::combine(Path::new("/nonexistent/ca.pem"));
        assert!(matches!(missing, Err(TrustError::Read { .. })));
        let empty = TrustFile::combine(Path::new("/dev/null"));
        assert!(matches!(empty, Err(TrustError::Empty(_))));
    }
}
