//! The life of a listener and of each connection it accepts.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use futures_util::future::Either;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tower::ServiceExt;

use super::direct::{self, Direct};
use super::guard;
use super::idle::{Activity, BusyBody, Patience, Watched};
use super::peer::Peer;
use super::request_id::RequestId;
use super::upgrade::{Leave, Upgrade, asks_for_upgrade};
use super::{Limits, with_layers};
use crate::shutdown::Shutdown;

/// The least hyper accepts for its buffer.
const HEADER_BYTES_MIN: usize = 8 << 10;

/// How long to leave the operating system alone after it refused to hand over a connection (out of descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where connections come from.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

enum Accepted {
    Tcp(TcpStream, Peer),
    Unix(UnixStream),
}

impl Listener {
    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Answers are written whole; waiting for more would only delay them.
                stream.set_nodelay(true)?;
                Ok(Accepted::Tcp(stream, Peer::Tcp(address)))
            }
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| Accepted::Unix(stream)),
        }
    }
}

/// Accepts until the shutdown is requested, then waits for the requests in progress, at most `drain_timeout`.
pub(super) async fn serve<D: Direct>(
    listener: Listener,
    direct: Option<D>,
    router: Router,
    limits: Limits,
    shutdown: Shutdown,
) {
    let server = Server {
        direct,
        router: with_layers(router, &limits),
        limits,
        cut: Shutdown::new(),
        shutdown: shutdown.clone(),
        connections: TaskTracker::new(),
    };
    let slots = Arc::new(Semaphore::new(server.limits.connections));
    loop {
        let accepted = async {
            let slot = Arc::clone(&slots)
                .acquire_owned()
                .await
                .map_err(io::Error::other)?;
            Ok::<_, io::Error>((listener.accept().await?, slot))
        };
        let accepted = tokio::select! {
            biased;
            () = shutdown.requested() => break,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((accepted, slot)) => {
                let place = Place {
                    _slot: slot,
                    _counted: server.connections.token(),
                };
                tokio::spawn(server.clone().connection(accepted, place));
            }
            Err(error) => {
                tracing::warn!(error = %error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    server.connections.close();
    let drained = tokio::time::timeout(server.limits.drain_timeout, server.connections.wait()).await;
    if drained.is_err() {
        tracing::warn!("requests still in progress at the end of the drain time are cut off");
    }
    server.cut.trigger();
}

/// What a connection occupies for as long as it is open, upgraded or not.
pub(super) struct Place {
    _slot: OwnedSemaphorePermit,
    /// Whoever drains waits for it.
    _counted: TaskTrackerToken,
}

#[derive(Clone)]
struct Server<D> {
    direct: Option<D>,
    router: Router,
    limits: Limits,
    /// Asks connections to end when they are not used.
    shutdown: Shutdown,
    /// Ends the connections that outlive the drain time.
    cut: Shutdown,
    connections: TaskTracker,
}

impl<D: Direct> Server<D> {
    async fn connection(self, accepted: Accepted, place: Place) {
        match accepted {
            Accepted::Tcp(stream, peer) => self.exchange(stream, peer, place).await,
            Accepted::Unix(stream) => self.exchange(stream, Peer::Local, place).await,
        }
    }

    async fn exchange<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        self,
        stream: S,
        peer: Peer,
        place: Place,
    ) {
        let activity = Activity::default();
        let patience = Patience {
            head: self.limits.header_timeout,
            idle: self.limits.idle_timeout,
            write: self.limits.write_timeout,
        };
        let stream = Watched::new(stream, activity.clone(), patience);
        let (shortcut, router, request_timeout) = (self.direct, self.router, self.limits.request_timeout);
        let leave = Leave {
            _place: Arc::new(place),
            shutdown: self.shutdown.clone(),
            cut: self.cut.clone(),
        };
        let given = leave.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let busy = activity.begin();
            let is_upgrade = asks_for_upgrade(request.headers());
            let taken = shortcut
                .as_ref()
                .filter(|direct| !is_upgrade && direct.takes(&request));
            let answer = if let Some(direct) = taken.cloned() {
                // In a box: what is passed on is copied, a few times.
                Either::Left(Box::pin(async move {
                    let id = RequestId::adopt(request.headers());
                    let answer = pin!(direct.answer(request, peer, id.clone()));
                    let answer = guard::guarded(request_timeout, id, answer).await;
                    Ok(direct::with_length(answer))
                }))
            } else {
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(peer);
                if is_upgrade {
                    let upgrade = Upgrade::offered(&mut request, given.clone(), activity.begin());
                    request.extensions_mut().insert(upgrade);
                }
                Either::Right(router.clone().oneshot(request))
            };
            async move {
                answer
                    .await
                    .map(|answer| answer.map(|body| BusyBody { body, _busy: busy }))
            }
        });
        let connection = http1::Builder::new()
            .max_buf_size(self.limits.header_bytes.max(HEADER_BYTES_MIN))
            .header_read_timeout(None)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = pin!(connection);
        let mut is_asked = false;
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        // Clients go away all the time; nobody can act on it.
                        tracing::debug!(error = %error, "a connection broke");
                    }
                    return;
                }
                () = leave.shutdown.requested(), if !is_asked => {
                    is_asked = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = leave.cut.requested() => return,
            }
        }
    }
}
