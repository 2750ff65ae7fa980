//! Which listeners does the gateway serve? Those of a running gateway it takes over from, else new ones.

use tokio::net::{TcpListener, UnixListener};

use caracal_chassis::server::{self, ServeError};

use super::{Addresses, RunError};
use crate::config::Config;
use crate::listener::Door;
use crate::upgrade::{Listeners, Name, Predecessor, UpgradeError, adopt_tcp, adopt_unix};

/// The listeners of one gateway.
#[derive(Debug)]
pub(super) struct Bound {
    main: TcpListener,
    plain: Option<TcpListener>,
    unix: Option<UnixListener>,
    /// Health, metrics and reload.
    pub(super) admin: TcpListener,
    /// The running gateway that gave some of them, until it is told that this one serves.
    pub(super) predecessor: Option<Predecessor>,
}

impl Bound {
    /// Takes over or takes what `config` names.
    ///
    /// # Errors
    /// [`RunError::Listen`], [`RunError::Upgrade`].
    pub(super) async fn take(config: &Config) -> Result<Self, RunError> {
        let mut predecessor = match &config.upgrade {
            None => None,
            Some(upgrade) => {
                let socket = upgrade.socket.clone();
                let asked = tokio::task::spawn_blocking(move || Predecessor::ask(&socket)).await;
                asked.map_err(|_panicked| UpgradeError::NotReady)??
            }
        };
        let mut tcp = async |name: Name, address| {
            let given = predecessor
                .as_mut()
                .and_then(|predecessor| predecessor.take(name));
            match given.and_then(|listener| adopt_tcp(listener, address)) {
                Some(listener) => Ok(listener),
                None => server::bind(address).await,
            }
        };
        let main = tcp(Name::Main, config.address).await?;
        let admin = tcp(Name::Admin, config.admin_address).await?;
        let plain = match config.doors.plain {
            Some(address) => Some(tcp(Name::Plain, address).await?),
            None => None,
        };
        let unix = match &config.doors.unix {
            None => None,
            Some(path) => {
                let given = predecessor
                    .as_mut()
                    .and_then(|predecessor| predecessor.take(Name::Unix));
                match given.and_then(|listener| adopt_unix(listener, path)) {
                    Some(listener) => Some(listener),
                    None => Some(server::bind_unix(path)?),
                }
            }
        };
        Ok(Self {
            main,
            plain,
            unix,
            admin,
            predecessor,
        })
    }

    /// Where they listen.
    ///
    /// # Errors
    /// What the operating system says.
    pub(super) fn addresses(&self) -> Result<Addresses, ServeError> {
        Ok(Addresses {
            main: local(&self.main)?,
            plain: self.plain.as_ref().map(local).transpose()?,
            admin: local(&self.admin)?,
        })
    }

    /// The same listeners for the next process.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub(super) fn to_hand_over(&self) -> Result<Listeners, ServeError> {
        let mut listeners = Listeners::default();
        listeners.add(Name::Main, &self.main)?;
        listeners.add(Name::Admin, &self.admin)?;
        if let Some(plain) = &self.plain {
            listeners.add(Name::Plain, plain)?;
        }
        if let Some(unix) = &self.unix {
            listeners.add(Name::Unix, unix)?;
        }
        Ok(listeners)
    }

    /// The doors for requests, and the listener of the admin port.
    pub(super) fn into_doors(self) -> (Vec<Door>, TcpListener) {
        let doors = std::iter::once(Door::Main(self.main))
            .chain(self.plain.map(Door::Plain))
            .chain(self.unix.map(Door::Unix));
        (doors.collect(), self.admin)
    }
}

fn local(listener: &TcpListener) -> Result<std::net::SocketAddr, ServeError> {
    listener.local_addr().map_err(|source| ServeError::Bind {
        address: "unknown".to_owned(),
        source,
    })
}
