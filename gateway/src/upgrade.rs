//! How does a new process take over from a running one? It asks at a Unix socket for the listeners, gets ready, says so, and
//! the running one takes no more connections and stays until those it has are done (docs/operating/upgrade.md).

mod message;
mod spools;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use caracal_chassis::server::{self, ServeError};
use caracal_chassis::shutdown::Shutdown;
use rustix::process::Uid;
use tokio::net::{TcpListener, UnixListener};

use message::{Offer, receive, send};
pub(crate) use spools::{adopt_left_behind, open_free};

/// Listeners handed over at once at most.
const LISTENERS_MAX: usize = 8;
/// How long a new process may take from asking to being ready.
const READY_WITHIN: Duration = Duration::from_mins(1);
/// How long either side may take to say one word.
const WORD_WITHIN: Duration = Duration::from_secs(5);
/// "I serve now; take no more."
const READY: u8 = b'R';
/// "I take no more."
const DONE: u8 = b'D';

/// What a door is called between processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    /// `PORT`.
    Main,
    /// `HTTP_PORT`.
    Plain,
    /// `UNIX_SOCKET`.
    Unix,
    /// `ADMIN_PORT`.
    Admin,
}

impl Name {
    const ALL: [Self; 4] = [Self::Main, Self::Plain, Self::Unix, Self::Admin];

    fn text(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Plain => "plain",
            Self::Unix => "unix",
            Self::Admin => "admin",
        }
    }
}

/// Why a running gateway cannot be taken over from.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// It does not answer as it should.
    #[error("the running gateway at UPGRADE_SOCKET does not hand over its listeners")]
    Handover(#[source] std::io::Error),
    /// This process did not become ready.
    #[error("this gateway did not become ready; the running one goes on")]
    NotReady,
}

/// A running gateway that waits for this process to be ready, and the listeners it has given.
#[derive(Debug)]
pub(crate) struct Predecessor {
    link: UnixStream,
    listeners: Vec<(Name, OwnedFd)>,
}

impl Predecessor {
    /// Asks whoever runs at `path`; `None` when nobody does. Blocks.
    ///
    /// # Errors
    /// [`UpgradeError::Handover`].
    pub(crate) fn ask(path: &Path) -> Result<Option<Self>, UpgradeError> {
        let Ok(link) = UnixStream::connect(path) else {
            return Ok(None);
        };
        let asked = || -> std::io::Result<Self> {
            of_this_user(rustix::net::sockopt::socket_peercred(&link)?.uid)?;
            link.set_read_timeout(Some(WORD_WITHIN))?;
            let Offer { names, listeners } = receive(&link)?;
            Ok(Self {
                listeners: names.into_iter().zip(listeners).collect(),
                link,
            })
        };
        asked().map(Some).map_err(UpgradeError::Handover)
    }

    /// Takes the listener of that name, if it was given and listens at the address wanted now.
    pub(crate) fn take(&mut self, name: Name) -> Option<OwnedFd> {
        let at = self
            .listeners
            .iter()
            .position(|(held, _listener)| *held == name)?;
        Some(self.listeners.swap_remove(at).1)
    }

    /// Tells it that this process serves; returns when it takes no more connections. Blocks.
    ///
    /// # Errors
    /// [`UpgradeError::Handover`].
    pub(crate) fn relieve(self) -> Result<(), UpgradeError> {
        use std::io::{Read, Write};
        let mut link = &self.link;
        let mut word = [0];
        link.write_all(&[READY])
            .and_then(|()| link.read_exact(&mut word))
            .map_err(UpgradeError::Handover)
    }
}

/// A TCP listener that was given, if it listens at `address` (any port for port 0).
pub(crate) fn adopt_tcp(listener: OwnedFd, address: std::net::SocketAddr) -> Option<TcpListener> {
    let listener = std::net::TcpListener::from(listener);
    let is_wanted = listener
        .local_addr()
        .is_ok_and(|at| at.ip() == address.ip() && (address.port() == 0 || at.port() == address.port()));
    listener.set_nonblocking(true).ok()?;
    is_wanted.then(|| TcpListener::from_std(listener).ok())?
}

/// A Unix listener that was given, if it listens at `path`.
pub(crate) fn adopt_unix(listener: OwnedFd, path: &Path) -> Option<UnixListener> {
    let listener = std::os::unix::net::UnixListener::from(listener);
    let is_wanted = listener
        .local_addr()
        .is_ok_and(|at| at.as_pathname() == Some(path));
    listener.set_nonblocking(true).ok()?;
    is_wanted.then(|| UnixListener::from_std(listener).ok())?
}

/// What this process can hand over: its listeners, held a second time.
#[derive(Debug, Default)]
pub(crate) struct Listeners(Vec<(Name, OwnedFd)>);

impl Listeners {
    /// Adds one.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub(crate) fn add(&mut self, name: Name, listener: &impl AsFd) -> Result<(), ServeError> {
        let held = listener.as_fd().try_clone_to_owned();
        let held = held.map_err(|source| ServeError::Bind {
            address: name.text().to_owned(),
            source,
        })?;
        self.0.push((name, held));
        Ok(())
    }
}

/// Hands the listeners to whoever asks at `path`, and triggers `relieved` when a new process serves in place of this one.
///
/// # Errors
/// When the socket cannot be taken.
pub(crate) async fn offer(
    path: &Path,
    listeners: Listeners,
    relieved: Shutdown,
    stop: Shutdown,
) -> Result<(), ServeError> {
    let socket = server::bind_unix(path)?;
    loop {
        let link = tokio::select! {
            () = stop.requested() => return Ok(()),
            accepted = socket.accept() => accepted,
        };
        let handed = match link {
            Ok((link, _peer)) => hand_over(link, &listeners).await,
            Err(error) => Err(error),
        };
        match handed {
            Ok(mut link) => {
                tracing::info!("a new process serves; this one takes no more connections");
                relieved.trigger();
                // It may be gone already: then nobody waits for the word.
                let _told = tokio::io::AsyncWriteExt::write_all(&mut link, &[DONE]).await;
                return Ok(());
            }
            Err(error) => {
                tracing::warn!(%error, "a new process asked for the listeners and did not become ready");
            }
        }
    }
}

/// Gives the listeners away and waits until the new process serves.
async fn hand_over(
    link: tokio::net::UnixStream,
    listeners: &Listeners,
) -> std::io::Result<tokio::net::UnixStream> {
    of_this_user(rustix::net::sockopt::socket_peercred(&link)?.uid)?;
    link.writable().await?;
    send(&link, &listeners.0)?;
    let mut link = link;
    let mut word = [0];
    let said = tokio::io::AsyncReadExt::read_exact(&mut link, &mut word);
    tokio::time::timeout(READY_WITHIN, said).await??;
    if word == [READY] {
        Ok(link)
    } else {
        Err(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            "another word than expected",
        ))
    }
}

/// Only processes of the same user, or of root, give and get listeners.
fn of_this_user(peer: Uid) -> std::io::Result<()> {
    is_of(peer, rustix::process::geteuid())
}

fn is_of(peer: Uid, this: Uid) -> std::io::Result<()> {
    if peer.is_root() || peer == this {
        return Ok(());
    }
    Err(std::io::Error::new(
        std::io::ErrorKind::PermissionDenied,
        "a process of another user",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_given_to_this_user_and_to_root_and_to_nobody_else() {
        let user = Uid::from_raw;
        for (peer, this, passes) in [
            (1_000, 1_000, true),
            (0, 1_000, true),
            (0, 0, true),
            (1_001, 1_000, false),
            (1_000, 0, false),
            (u32::MAX - 1, 1_000, false),
        ] {
            let given = is_of(user(peer), user(this));
            assert_eq!(given.is_ok(), passes, "{peer} to {this}");
        }
    }
}
