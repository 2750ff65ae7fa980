//! The life of a listener and of each connection it accepts.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tower::ServiceExt;

use super::idle::{Activity, BusyBody, Patience, Watched};
use super::peer::Peer;
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
pub(super) async fn serve(listener: Listener, router: Router, limits: Limits, shutdown: Shutdown) {
    let server = Server {
        router: with_layers(router, &limits),
        limits,
        cut: Shutdown::new(),
    };
    let slots = Arc::new(Semaphore::new(server.limits.connections));
    let graceful = GracefulShutdown::new();
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
                let serving = server.clone().connection(accepted, graceful.watcher());
                tokio::spawn(async move {
                    serving.await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(error = %error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(server.limits.drain_timeout, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("requests still in progress at the end of the drain time are cut off");
    }
    server.cut.trigger();
}

#[derive(Clone)]
struct Server {
    router: Router,
    limits: Limits,
    /// Ends the connections that outlive the drain time.
    cut: Shutdown,
}

impl Server {
    async fn connection(self, accepted: Accepted, watcher: Watcher) {
        match accepted {
            Accepted::Tcp(stream, peer) => self.exchange(stream, peer, watcher).await,
            Accepted::Unix(stream) => self.exchange(stream, Peer::Local, watcher).await,
        }
    }

    async fn exchange<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        self,
        stream: S,
        peer: Peer,
        watcher: Watcher,
    ) {
        let activity = Activity::default();
        let patience = Patience {
            head: self.limits.header_timeout,
            idle: self.limits.idle_timeout,
            write: self.limits.write_timeout,
        };
        let stream = Watched::new(stream, activity.clone(), patience);
        let router = self.router;
        let service = service_fn(move |request: Request<Incoming>| {
            let busy = activity.begin();
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(peer);
            let answer = router.clone().oneshot(request);
            async move {
                answer
                    .await
                    .map(|answer| answer.map(|body| BusyBody { body, _busy: busy }))
            }
        });
        let connection = http1::Builder::new()
            .max_buf_size(self.limits.header_bytes.max(HEADER_BYTES_MIN))
            .header_read_timeout(None)
            .serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            ended = watcher.watch(connection) => if let Err(error) = ended {
                // Clients go away all the time; nobody can act on it.
                tracing::debug!(error = %error, "a connection broke");
            },
            () = self.cut.requested() => {}
        }
    }
}
