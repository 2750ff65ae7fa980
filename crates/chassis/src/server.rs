//! How does a service answer HTTP without being held up, filled up or brought down by a client?

mod body;
mod connection;
mod direct;
mod guard;
mod idle;
mod peer;
mod request_id;
#[cfg(test)]
mod tests;
mod upgrade;

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware;
use tokio::net::{TcpListener, UnixListener};

use crate::shutdown::Shutdown;

pub use body::{BodyError, read_body};
pub use direct::Direct;
pub use hyper::body::Incoming;
pub use peer::Peer;
pub use request_id::{REQUEST_ID_HEADER, RequestId};
pub use upgrade::{Upgrade, Upgraded};

/// How much of everything one server allows, and to one client.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of request line and headers; more is answered 431. Default 16 KiB, at least 8 KiB.
    pub header_bytes: usize,
    /// Bytes of a body an extractor reads; more is answered 413. A route may set its own with
    /// `axum::extract::DefaultBodyLimit`. Default 1 MiB.
    pub body_bytes: usize,
    /// From the first byte of a connection or request to the end of its headers. Default 5 s.
    pub header_timeout: Duration,
    /// From the end of the headers to the beginning of the answer; longer is answered 503. Default 30 s.
    pub request_timeout: Duration,
    /// How long a client may take nothing of an answer. Default 30 s.
    pub write_timeout: Duration,
    /// How long a kept connection may be unused. Default 60 s.
    pub idle_timeout: Duration,
    /// Connections at a time; further ones wait in the operating system's queue. Default 10 000.
    pub connections: usize,
    /// How long requests in progress may take to end after the shutdown was requested. Default 15 s.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: 16 << 10,
            body_bytes: 1 << 20,
            header_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_mins(1),
            connections: 10_000,
            drain_timeout: Duration::from_secs(15),
        }
    }
}

/// Why a server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is taken or not ours.
    #[error("cannot listen on {address}")]
    Bind {
        /// The address and port, or the socket's path.
        address: String,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
}

/// Takes `address`. Port 0 takes a free one; ask the listener which.
///
/// # Errors
/// [`ServeError::Bind`].
pub async fn bind(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ServeError::Bind {
            address: address.to_string(),
            source,
        })
}

/// Takes the Unix socket `path`, replacing what a killed process left there. Only this user may connect.
///
/// # Errors
/// [`ServeError::Bind`].
pub fn bind_unix(path: &Path) -> Result<UnixListener, ServeError> {
    let taken = || -> io::Result<UnixListener> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    taken().map_err(|source| ServeError::Bind {
        address: path.display().to_string(),
        source,
    })
}

/// Serves `router` until the shutdown is requested, then lets the requests in progress end.
///
/// Every request gets a [`RequestId`] and a [`Peer`] as extensions (both are extractors) and the answer the header
/// `x-request-id`; a panic becomes a JSON 500, a body over its limit a JSON 413 unless the handler answers it itself.
///
/// # Errors
/// None today: trouble with one connection is logged and ends that connection.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    shutdown: Shutdown,
) -> Result<(), ServeError> {
    let listener = connection::Listener::Tcp(listener);
    connection::serve(listener, None::<direct::Never>, router, limits, shutdown).await;
    Ok(())
}

/// The same, but `direct` answers what it takes.
///
/// # Errors
/// See [`serve`].
pub async fn serve_direct(
    listener: TcpListener,
    direct: impl Direct,
    router: Router,
    limits: Limits,
    shutdown: Shutdown,
) -> Result<(), ServeError> {
    let listener = connection::Listener::Tcp(listener);
    connection::serve(listener, Some(direct), router, limits, shutdown).await;
    Ok(())
}

/// The same on a Unix socket.
///
/// # Errors
/// See [`serve`].
pub async fn serve_unix(
    listener: UnixListener,
    router: Router,
    limits: Limits,
    shutdown: Shutdown,
) -> Result<(), ServeError> {
    let listener = connection::Listener::Unix(listener);
    connection::serve(listener, None::<direct::Never>, router, limits, shutdown).await;
    Ok(())
}

/// The layers every request passes, without a server: for tests that call a router directly.
pub fn with_layers(router: Router, limits: &Limits) -> Router {
    let request_timeout = limits.request_timeout;
    router
        .layer(DefaultBodyLimit::max(limits.body_bytes))
        .layer(middleware::from_fn(move |request, next| {
            guard::guard(request_timeout, request, next)
        }))
}
