//! Whose directory is this? One process at a time, readable by its user only.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

const LOCK_FILE: &str = "lock";
const DIRECTORY_MODE: u32 = 0o700;
/// Mode of every file in the directory.
pub(crate) const FILE_MODE: u32 = 0o600;

/// A directory that no other process may use while this lives. The operating system takes the lock back when the
/// process ends, however it ends.
#[derive(Debug)]
pub(crate) struct OwnedDirectory {
    path: PathBuf,
    _lock: File,
}

/// Why a directory could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Another process uses it.
    #[error("{} is in use by {holder}; every process needs a directory of its own", .directory.display())]
    InUse {
        /// The directory.
        directory: PathBuf,
        /// `process <pid>`, or `another process` when it did not say.
        holder: String,
    },
    /// It cannot be created, read or written.
    #[error("{} cannot be used", .directory.display())]
    Io {
        /// The directory.
        directory: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl OwnedDirectory {
    /// Creates the directory when it is missing, closes it to other users, and locks it.
    pub(crate) fn take(path: &Path) -> Result<Self, DirectoryError> {
        let failed = |source| DirectoryError::Io {
            directory: path.to_owned(),
            source,
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(DIRECTORY_MODE)
            .create(path)
            .map_err(failed)?;
        fs::set_permissions(path, fs::Permissions::from_mode(DIRECTORY_MODE)).map_err(failed)?;
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(path.join(LOCK_FILE))
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(DirectoryError::InUse {
                    directory: path.to_owned(),
                    holder: holder(&mut lock),
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        lock.set_len(0).map_err(failed)?;
        writeln!(lock, "{}", std::process::id()).map_err(failed)?;
        lock.rewind().map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Creates a file that must not exist yet.
    pub(crate) fn create(&self, name: &str) -> io::Result<File> {
        OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(self.path.join(name))
    }

    /// Replaces a file as a whole: a reader finds the old or the new content, never a mixture. Returns the new file,
    /// open for appending.
    pub(crate) fn replace(&self, name: &str, content: &[u8]) -> io::Result<File> {
        let next = format!("{name}.next");
        match fs::remove_file(self.path.join(&next)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut file = self.create(&next)?;
        file.write_all(content)?;
        fs::rename(self.path.join(next), self.path.join(name))?;
        Ok(file)
    }

    /// Makes created, renamed and removed names survive a power cut.
    pub(crate) fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }
}

fn holder(lock: &mut File) -> String {
    let mut text = String::new();
    match lock.read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => format!("process {}", text.trim()),
        Ok(_) | Err(_) => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_owner_and_the_refusal_names_it() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("spool");
        let owned = OwnedDirectory::take(&path).unwrap();
        let refused = OwnedDirectory::take(&path).unwrap_err().to_string();
        assert!(
            refused.contains(&format!("in use by process {}", std::process::id())),
            "{refused}"
        );
        drop(owned);
        OwnedDirectory::take(&path).unwrap();
    }

    #[test]
    fn only_its_user_may_look_inside() {
        let parent = tempfile::tempdir().unwrap();
        fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let owned = OwnedDirectory::take(parent.path()).unwrap();
        owned.create("file").unwrap();
        owned.replace("other", b"content").unwrap();
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(parent.path().to_owned()), 0o700);
        for name in ["file", "other", LOCK_FILE] {
            assert_eq!(mode(parent.path().join(name)), 0o600, "{name}");
        }
    }
}
