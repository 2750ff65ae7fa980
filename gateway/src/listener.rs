//! Who may connect, and for how long does a connection live? Accepts, terminates TLS, hands requests to Pingora, and
//! drains at the end.
//!
//! Pingora's own listeners are not used, because the connection must be ours: it carries the leash that ends a
//! response when its authority ends. `HttpProxy` is made to be driven by such a loop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use caracal_chassis::shutdown::Shutdown;
use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::http::ServerSession;
use pingora_proxy::HttpProxy;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use crate::config::Config;
use crate::connection::{ClientConnection, Patience, Socket};
use crate::proxy::Proxy;
use crate::tls::Tls;

/// How long to leave the operating system alone after it refused a connection (out of descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Pingora's own wait between requests is a backstop behind the leash's.
const KEEPALIVE_SLACK_S: u64 = 5;
/// Application protocols, the preferred one first (RFC 7301).
pub(crate) const PROTOCOLS: &[&[u8]] = &[b"http/1.1"];

/// What one listener needs.
pub(crate) struct Server {
    app: Arc<HttpProxy<Proxy>>,
    tls: Option<Arc<Tls>>,
    patience: Patience,
    connections_max: usize,
    drain: Duration,
    /// Tells Pingora that no further request is taken on a connection.
    stopping: watch::Sender<bool>,
}

impl Server {
    /// A server of `app` with the limits of `config`, and TLS where there is some.
    pub(crate) fn new(app: HttpProxy<Proxy>, config: &Config, tls: Option<Arc<Tls>>) -> Self {
        Self {
            app: Arc::new(app),
            tls,
            patience: Patience {
                idle: config.timeouts.idle,
                head: config.timeouts.read_header,
            },
            connections_max: config.connections_max,
            drain: config.timeouts.drain,
            stopping: watch::Sender::new(false),
        }
    }

    /// Serves until the shutdown is requested, then lets requests in progress end, at most for the drain time.
    pub(crate) async fn serve(self, listener: TcpListener, shutdown: Shutdown) {
        let server = Arc::new(self);
        let slots = Arc::new(Semaphore::new(server.connections_max));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.requested() => break,
                Some(ended) = connections.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a connection ended in a panic");
                    }
                    continue;
                }
                accepted = accept(&listener, &slots) => accepted,
            };
            match accepted {
                Ok((stream, peer, slot)) => {
                    let server = Arc::clone(&server);
                    connections.spawn(async move {
                        server.connection(stream, peer).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        server.stopping.send_replace(true);
        server.app.http_cleanup().await;
        let drained = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(server.drain, drained).await.is_err() {
            tracing::warn!(
                connections = connections.len(),
                "requests did not end in time and are cut off"
            );
            connections.shutdown().await;
        }
    }

    async fn connection(&self, stream: TcpStream, peer: SocketAddr) {
        let socket = match &self.tls {
            None => Socket::Plain(stream),
            Some(tls) => match tokio::time::timeout(self.patience.head, tls.accept(stream)).await {
                Ok(Ok(Some(stream))) => Socket::Tls(Box::new(stream)),
                Ok(Ok(None)) => return,
                Ok(Err(error)) => return tracing::debug!(%error, "a TLS handshake failed"),
                Err(_elapsed) => return tracing::debug!("a TLS handshake took too long"),
            },
        };
        let stopping = self.stopping.subscribe();
        let mut session =
            ServerSession::new_http1(Box::new(ClientConnection::new(socket, peer, self.patience)));
        session.set_keepalive(Some(self.patience.idle.as_secs() + KEEPALIVE_SLACK_S));
        let mut reusable = self.app.process_new_http(session, &stopping).await;
        while let Some((stream, settings)) = reusable.map(pingora_core::apps::ReusedHttpStream::consume) {
            if let Some(connection) = stream.as_ref().as_any().downcast_ref::<ClientConnection>() {
                connection.leash().idle();
            }
            let mut session = ServerSession::new_http1(stream);
            if let Some(settings) = settings {
                settings.apply_to_session(&mut session);
            }
            reusable = self.app.process_new_http(session, &stopping).await;
        }
    }
}

/// Takes the next connection once there is a slot for it; until then it waits in the operating system's queue.
async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots)
        .acquire_owned()
        .await
        .map_err(std::io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    // Answers are written in whole pieces; waiting for more would only delay them.
    stream.set_nodelay(true)?;
    Ok((stream, peer, slot))
}
