//! What does `caracal dev` remember between two starts? Its keys and the demo's ids, readable by the owner only.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// The keys and tokens that the roles share.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Keys {
    pub(crate) secret_store_kek: String,
    pub(crate) audit_hmac_key: String,
    pub(crate) streams_hmac_key: String,
    pub(crate) gateway_sts_hmac_key: String,
    /// Absent from folders that were made before there was one: then mandates are proven by their signatures.
    #[serde(default)]
    pub(crate) mandate_mac_key: String,
    pub(crate) idempotency_hmac_key: String,
    pub(crate) admin_token: String,
    pub(crate) coordinator_token: String,
    pub(crate) database_password: String,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys([redacted])")
    }
}

impl Keys {
    /// A fresh random set.
    ///
    /// # Errors
    /// When the machine gives no random bytes.
    pub(crate) fn generate() -> Result<Self> {
        Ok(Self {
            secret_store_kek: random_hex()?,
            audit_hmac_key: random_hex()?,
            streams_hmac_key: random_hex()?,
            gateway_sts_hmac_key: random_hex()?,
            mandate_mac_key: random_hex()?,
            idempotency_hmac_key: random_hex()?,
            admin_token: format!("cat_{}", random_hex()?),
            coordinator_token: format!("cot_{}", random_hex()?),
            database_password: random_hex()?,
        })
    }
}

/// 32 random bytes in hex.
fn random_hex() -> Result<String> {
    let mut bytes = [0_u8; 32];
    aws_lc_rs::rand::fill(&mut bytes)
        .ok()
        .context("the machine gives no random bytes")?;
    Ok(hex::encode(bytes))
}

/// The demo application's credential, which the control plane shows once.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct DemoCredential {
    pub(crate) zone_id: String,
    pub(crate) application_id: String,
    pub(crate) client_secret: String,
}

impl std::fmt::Debug for DemoCredential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DemoCredential")
            .field("zone_id", &self.zone_id)
            .finish_non_exhaustive()
    }
}

/// The data directory.
#[derive(Debug, Clone)]
pub(crate) struct Home {
    path: PathBuf,
}

impl Home {
    /// Makes the directory when it is missing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        if !path.exists() {
            std::fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
            // Others may pass through (the database's user has to, when the caller is root) but not list; secrets in it are 0600.
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o711))?;
        }
        let path = path
            .canonicalize()
            .with_context(|| format!("cannot resolve {}", path.display()))?;
        Ok(Self { path })
    }

    /// The absolute path of something inside.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The absolute path of the directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the directory for this process until the returned file is closed.
    ///
    /// # Errors
    /// When another process has it.
    pub(crate) fn lock(&self) -> Result<std::fs::File> {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.join("lock"))?;
        file.try_lock().ok().with_context(|| {
            format!(
                "another `caracal dev` uses {}: stop it, or choose another --data-dir",
                self.path.display()
            )
        })?;
        Ok(file)
    }

    /// The keys of the last start, or fresh ones.
    ///
    /// # Errors
    /// When they cannot be read or written.
    pub(crate) fn keys(&self) -> Result<Keys> {
        if let Some(keys) = self.read("keys.json")? {
            return Ok(keys);
        }
        let keys = Keys::generate()?;
        self.write("keys.json", &keys)?;
        Ok(keys)
    }

    /// Reads a remembered value.
    ///
    /// # Errors
    /// When the file is there but cannot be read or understood.
    pub(crate) fn read<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let path = self.join(name);
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).with_context(|| {
                format!(
                    "{} is damaged: remove it, or the whole data directory",
                    path.display()
                )
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Remembers a value, for the owner's eyes only.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<()> {
        write_private(&self.join(name), &serde_json::to_vec_pretty(value)?)
    }
}

/// Writes a file that only its owner can read, whole or not at all.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    let partial = path.with_extension("partial");
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&partial)
        .with_context(|| format!("cannot write {}", partial.display()))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&partial, path).with_context(|| format!("cannot write {}", path.display()))
}
