//! Where is a secret setting kept, when it is written neither in the settings nor in a file? In Vault.
//!
//! A value may be a reference: it names a source and a place in it, and what is there is put in before any setting is
//! read. References are followed once, at the start; a changed secret takes effect with the next one
//! (docs/operating/configuration.md, "Keys kept elsewhere").

mod vault;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use async_trait::async_trait;
use caracal_chassis::Secret;
use caracal_chassis::config::{Reader, Source};

use vault::{Kv, Transit, Vault};

/// A place that keeps secrets.
#[async_trait]
trait KeySource: Send + Sync {
    /// How a reference to it begins.
    fn scheme(&self) -> &'static str;

    /// What is kept at `place`, the rest of the reference.
    ///
    /// # Errors
    /// Why it could not be read, never what was read.
    async fn read(&self, place: &str) -> Result<Secret, Unreadable>;
}

/// Why a secret could not be read: words for the operator without any secret.
#[derive(Debug, thiserror::Error)]
#[error("{problem} ({mend})")]
struct Unreadable {
    problem: String,
    mend: &'static str,
}

impl Unreadable {
    fn new(problem: impl fmt::Display, mend: &'static str) -> Self {
        Self {
            problem: problem.to_string(),
            mend,
        }
    }
}

/// Every source there is, by the beginning of its references.
const SCHEMES: [&str; 2] = ["vault-kv:", "vault-transit:"];

/// The settings of this process: the environment and `config_file`, with what their references refer to.
///
/// # Errors
/// A file that cannot be read; every reference that cannot be followed, with its key and its mend.
pub(crate) async fn settings(config_file: Option<&Path>) -> Result<Source> {
    let source = Source::from_env_and_file(config_file).map_err(|errors| anyhow!("{errors}"))?;
    resolve(source).await
}

/// `source` with what its references refer to. Nothing of what is kept elsewhere is in an error.
async fn resolve(source: Source) -> Result<Source> {
    let references = source.texts_beginning_with(&SCHEMES);
    if references.is_empty() {
        return Ok(source);
    }
    let sources = sources(&source)?;
    let (mut values, mut problems) = (Vec::new(), Vec::new());
    for (key, reference) in references {
        let found = sources.iter().find_map(|source| {
            let place = reference.strip_prefix(source.scheme())?;
            Some((source, place.to_owned()))
        });
        let outcome = match found {
            Some((source, place)) => source.read(&place).await,
            None => Err(Unreadable::new(
                "names a secret in Vault, but VAULT_ADDR is not set",
                "set VAULT_ADDR and VAULT_TOKEN or VAULT_TOKEN_FILE",
            )),
        };
        match outcome {
            Ok(secret) => values.push((key, secret.expose().clone())),
            Err(error) => problems.push(format!("  {key}: {error}")),
        }
    }
    if problems.is_empty() {
        Ok(source.with_pairs(values))
    } else {
        Err(anyhow!(
            "keys that are kept elsewhere cannot be read:\n{}",
            problems.join("\n")
        ))
    }
}

fn sources(source: &Source) -> Result<Vec<Box<dyn KeySource>>> {
    let environment = source.without_file();
    let mut reader = Reader::new(&environment);
    let vault = Vault::read(&mut reader);
    reader
        .finish()
        .map_err(|errors| anyhow!("Vault cannot be asked with these settings:\n{errors}"))?;
    let Some(vault) = vault else {
        return Ok(Vec::new());
    };
    let vault = vault.connect()?;
    Ok(vec![Box::new(Kv(Arc::clone(&vault))), Box::new(Transit(vault))])
}

#[cfg(test)]
mod tests;
