//! Who runs the private database? The caller, unless that is root, which PostgreSQL refuses.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::unistd::{Gid, Uid, User};
use tokio::process::Command;

/// The user that owns the database's files and processes.
#[derive(Debug)]
pub(crate) struct Owner {
    /// Set when this process is root and has to become somebody else.
    drop_to: Option<(Uid, Gid)>,
}

impl Owner {
    /// The caller, or an unprivileged user of this machine when the caller is root.
    ///
    /// # Errors
    /// When the caller is root and the machine has neither a `postgres` nor a `nobody` user.
    pub(crate) fn for_database() -> Result<Self> {
        if !Uid::effective().is_root() {
            return Ok(Self { drop_to: None });
        }
        for name in ["postgres", "nobody"] {
            if let Some(user) = User::from_name(name).context("cannot read the user database")? {
                return Ok(Self {
                    drop_to: Some((user.uid, user.gid)),
                });
            }
        }
        bail!(
            "PostgreSQL refuses to run as root, and this machine has no `postgres` or `nobody` user: run as an ordinary user or set DATABASE_URL"
        )
    }

    /// A command that runs as this user, in a folder it may enter.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir("/");
        if let Some((uid, gid)) = self.drop_to {
            command.uid(uid.as_raw()).gid(gid.as_raw());
        }
        command
    }

    /// Makes a folder only this user may enter; everything in it belongs to this user.
    ///
    /// # Errors
    /// When the folder cannot be made or given away.
    pub(crate) fn make_dir(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))?;
        match self.drop_to {
            Some((uid, gid)) => std::os::unix::fs::chown(folder, Some(uid.as_raw()), Some(gid.as_raw()))
                .with_context(|| format!("cannot give {} to the database's user", folder.display())),
            None => Ok(()),
        }
    }

    /// Whether this user may walk down to `folder`.
    pub(crate) fn can_reach(&self, folder: &Path) -> bool {
        let Some((uid, gid)) = self.drop_to else {
            return true;
        };
        folder.ancestors().all(|ancestor| {
            std::fs::metadata(ancestor).is_ok_and(|meta| {
                let mode = meta.mode();
                if meta.uid() == uid.as_raw() {
                    mode & 0o100 != 0
                } else if meta.gid() == gid.as_raw() {
                    mode & 0o010 != 0
                } else {
                    mode & 0o001 != 0
                }
            })
        })
    }
}
