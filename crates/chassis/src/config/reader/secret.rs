//! Reading secrets: from a variable or a file, and never into a message.

use std::path::Path;

use super::super::source::{Found, Origin};
use super::Reader;
use crate::secret::Secret;

/// A usable stand-in for a key that was reported as wrong; the configuration it goes into is never used.
const DUMMY_KEY: [u8; 32] = [0; 32];

impl Reader<'_> {
    /// A secret that must be set, as `KEY` or as the content of the file `KEY_FILE`. Trailing white space of the file
    /// is dropped.
    pub fn secret(&mut self, key: &str) -> Secret {
        let before = self.problems.len();
        if let Some(secret) = self.optional_secret(key) {
            return secret;
        }
        if self.problems.len() == before {
            self.missing(key, &format!("{key} or {key}_FILE"));
        }
        Secret::from("")
    }

    /// A secret that may be left out.
    pub fn optional_secret(&mut self, key: &str) -> Option<Secret> {
        let key_file = format!("{key}_FILE");
        let direct = self.find(key);
        let by_file = self.find(&key_file);
        match (direct, by_file) {
            (Some(direct), None) => Some(self.direct_secret(key, direct)),
            (Some(direct), Some(by_file))
                if direct.origin == Origin::Environment || by_file.origin == Origin::File =>
            {
                Some(self.direct_secret(key, direct))
            }
            (_, Some(by_file)) => self.secret_file(&key_file, Path::new(&by_file.text)),
            (None, None) => None,
        }
    }

    /// A secret that must be set in every mode but dev.
    pub fn secret_outside_dev(&mut self, key: &str) -> Option<Secret> {
        if self.mode.is_dev() {
            self.optional_secret(key)
        } else {
            Some(self.secret(key))
        }
    }

    /// A key of at least `min_bytes` bytes, written in hexadecimal, that must be set.
    pub fn hex_key(&mut self, key: &str, min_bytes: usize) -> Secret<Vec<u8>> {
        let before = self.problems.len();
        let secret = self.secret(key);
        if self.problems.len() > before {
            return Secret::new(DUMMY_KEY.to_vec());
        }
        self.decode_key(key, &secret, min_bytes)
    }

    /// A key in hexadecimal that may be left out.
    pub fn optional_hex_key(&mut self, key: &str, min_bytes: usize) -> Option<Secret<Vec<u8>>> {
        let secret = self.optional_secret(key)?;
        Some(self.decode_key(key, &secret, min_bytes))
    }

    /// A key in hexadecimal that may be left out, and that must not be one of `others`, each with its name: who holds that one
    /// for its purpose must not hold this one.
    pub fn optional_own_hex_key(
        &mut self,
        key: &str,
        min_bytes: usize,
        others: &[(&str, Option<&[u8]>)],
    ) -> Option<Secret<Vec<u8>>> {
        let secret = self.optional_hex_key(key, min_bytes)?;
        for (other, value) in others {
            if *value == Some(secret.expose().as_slice()) {
                self.report(
                    key,
                    format!("is the same key as {other}"),
                    "give it a value of its own, e.g. from: openssl rand -hex 32",
                );
            }
        }
        Some(secret)
    }

    /// A key in hexadecimal that must be set in every mode but dev.
    pub fn hex_key_outside_dev(&mut self, key: &str, min_bytes: usize) -> Option<Secret<Vec<u8>>> {
        if self.mode.is_dev() {
            self.optional_hex_key(key, min_bytes)
        } else {
            Some(self.hex_key(key, min_bytes))
        }
    }

    /// A secret in the file itself is easily committed or copied; an address without a password is no secret.
    fn direct_secret(&mut self, key: &str, found: Found) -> Secret {
        let is_plain_address = found.text.contains(':') && !found.text.contains('@');
        if found.origin == Origin::File && !is_plain_address {
            self.warnings.push(format!(
                "{} is written in the configuration file: prefer {key}_FILE or the environment",
                self.source.shown(key)
            ));
        }
        Secret::new(found.text)
    }

    fn secret_file(&mut self, key_file: &str, path: &Path) -> Option<Secret> {
        match std::fs::read_to_string(path) {
            Ok(text) if text.trim_end().is_empty() => {
                self.report(
                    key_file,
                    format!("{} is empty", path.display()),
                    "write the secret into it",
                );
                None
            }
            Ok(text) => {
                let text = Secret::new(text);
                Some(Secret::new(text.expose().trim_end().to_owned()))
            }
            Err(error) => {
                let problem = format!("{} cannot be read: {error}", path.display());
                self.report(key_file, problem, "name a file this process may read");
                None
            }
        }
    }

    fn decode_key(&mut self, key: &str, secret: &Secret, min_bytes: usize) -> Secret<Vec<u8>> {
        let mend = format!(
            "write at least {} hexadecimal digits, e.g. from: openssl rand -hex {min_bytes}",
            min_bytes * 2
        );
        match hex::decode(secret.expose().trim()) {
            Ok(bytes) if bytes.len() >= min_bytes => return Secret::new(bytes),
            Ok(bytes) => self.report(
                key,
                format!("has {} bytes, which is too short", bytes.len()),
                mend,
            ),
            Err(_) => self.report(key, "is not hexadecimal", mend),
        }
        Secret::new(DUMMY_KEY.to_vec())
    }
}
