//! Who may connect, and for how long does a connection live? Accepts, terminates TLS, hands requests to Pingora, and
//! drains at the end.
//!
//! Pingora's own listeners are not used, because the connection must be ours: it carries the leash that ends a
//! response when its authority ends. `HttpProxy` is made to be driven by such a loop.

mod http2;
mod peek;
mod proxy_header;
mod unheard;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use caracal_chassis::address_range::AddressRanges;
use caracal_chassis::shutdown::Shutdown;
use futures_util::future::join_all;
use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::H2Options;
use pingora_proxy::HttpProxy;
use prometheus::IntCounterVec;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use crate::Gateway;
use crate::config::{Doors, ProxyTrust};
use crate::connection::{ClientConnection, Origin, Patience, Socket};
use crate::proxy::Proxy;
use crate::source::{Place, Places, network};
use crate::tls::Tls;
use unheard::Watch;

/// How long to leave the operating system alone after it refused a connection (out of descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long what is cut may take to be recorded.
const CUT_MAX: Duration = Duration::from_secs(2);
/// How long a kept connection without a request stays when another process serves.
const KEPT_STAYS: Duration = Duration::from_secs(10);
/// Pingora's own wait between requests is a backstop behind the leash's.
const KEEPALIVE_SLACK_S: u64 = 5;
/// Whom a process of this machine counts as.
const THIS_MACHINE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// The name of HTTP/2 in a TLS handshake (RFC 9113 section 3.2).
const HTTP2: &[u8] = b"h2";
/// The name of HTTP/1.1 (RFC 7301 section 6).
const HTTP1: &[u8] = b"http/1.1";

/// The application protocols offered in a TLS handshake, the preferred one first (RFC 7301).
pub(crate) fn protocols(doors: &Doors) -> &'static [&'static [u8]] {
    if doors.http2 { &[HTTP2, HTTP1] } else { &[HTTP1] }
}

/// Where clients come in.
#[derive(Debug)]
pub(crate) enum Door {
    /// A port, in TLS when the gateway has certificates.
    Main(TcpListener),
    /// A port in clear in any case.
    Plain(TcpListener),
    /// A Unix socket.
    Unix(UnixListener),
}

/// A connection that was accepted, and nothing read from it.
enum Accepted {
    Main(TcpStream, SocketAddr),
    Plain(TcpStream, SocketAddr),
    Unix(UnixStream),
}

/// What the listeners need.
pub(crate) struct Server {
    app: Arc<HttpProxy<Proxy>>,
    tls: Option<Arc<Tls>>,
    patience: Patience,
    slots: Arc<Semaphore>,
    places: Arc<Places>,
    trust: ProxyTrust,
    proxy_protocol_from: AddressRanges,
    /// Whether requests of [`Door::Plain`] are sent to the port that speaks TLS.
    plain_redirects: bool,
    speaks_http2: bool,
    http2: H2Options,
    /// Requests of one HTTP/2 connection at a time, given up ones included.
    http2_tasks_max: usize,
    drain: Duration,
    /// The same when another process serves.
    relieved_drain: Duration,
    /// How long a client may take nothing.
    write_timeout: Duration,
    /// Connections that were closed before a request, by reason.
    refused: IntCounterVec,
    /// Ends what may not go on.
    watch: Watch,
    /// Tells Pingora that no further request is taken on a connection.
    stopping: watch::Sender<bool>,
}

impl Server {
    /// A server of `app`, which proxies for `gateway`, with its limits and TLS.
    pub(crate) fn new(app: HttpProxy<Proxy>, gateway: Arc<Gateway>) -> Self {
        let (config, tls) = (&gateway.config, gateway.tls.clone());
        let refused = gateway.metrics.connections_refused.clone();
        let doors = &config.doors;
        Self {
            app: Arc::new(app),
            plain_redirects: doors.plain_redirects && tls.is_some(),
            tls,
            patience: Patience {
                idle: config.timeouts.idle,
                head: config.timeouts.read_header,
            },
            slots: Arc::new(Semaphore::new(config.connections_max)),
            places: Places::new(doors.connections_of_source_max),
            trust: config.trust.clone(),
            proxy_protocol_from: doors.proxy_protocol_from.clone(),
            speaks_http2: doors.http2,
            http2: http2::options(config),
            http2_tasks_max: usize::try_from(doors.http2_streams_max)
                .unwrap_or(usize::MAX)
                .saturating_mul(2),
            drain: config.timeouts.drain,
            relieved_drain: config
                .upgrade
                .as_ref()
                .map_or(Duration::ZERO, |upgrade| upgrade.drain),
            write_timeout: config.timeouts.write,
            refused,
            watch: Watch::new(gateway),
            stopping: watch::Sender::new(false),
        }
    }

    /// Serves until the shutdown is requested, or another process has taken over; then lets requests in progress end, at
    /// most for the drain time of either.
    pub(crate) async fn serve(self, doors: Vec<Door>, shutdown: Shutdown, relieved: Shutdown) {
        let server = Arc::new(self);
        let serving = doors
            .into_iter()
            .map(|door| Arc::clone(&server).attend(door, shutdown.clone(), relieved.clone()));
        join_all(serving).await;
    }

    async fn attend(self: Arc<Self>, door: Door, shutdown: Shutdown, relieved: Shutdown) {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.requested() => break,
                () = relieved.requested() => break,
                Some(ended) = connections.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "a connection ended in a panic");
                    }
                    continue;
                }
                accepted = door.accept(&self.slots) => accepted,
            };
            match accepted {
                Ok((accepted, slot)) => {
                    let server = Arc::clone(&self);
                    connections.spawn(async move {
                        server.connection(accepted).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(door);
        self.drain(connections, &shutdown).await;
    }

    /// Lets what has begun end: for long when another process serves, for the drain time once this one is to stop.
    async fn drain(&self, mut connections: JoinSet<()>, shutdown: &Shutdown) {
        self.stopping.send_replace(true);
        let too_long = async {
            // A kept connection may be used at this very moment. It is not closed under a request as long as this process has time:
            // the next answer on it says that it is the last.
            let _stopped = tokio::time::timeout(KEPT_STAYS, shutdown.requested()).await;
            self.app.http_cleanup().await;
            let _stopped = tokio::time::timeout(self.relieved_drain, shutdown.requested()).await;
            if shutdown.is_requested() {
                tokio::time::sleep(self.drain).await;
            }
        };
        let drained = async { while connections.join_next().await.is_some() {} };
        let is_drained = tokio::select! {
            () = drained => true,
            () = too_long => false,
        };
        if !is_drained {
            tracing::warn!(
                connections = connections.len(),
                "requests did not end in time and are cut off"
            );
            // Each is told, so that what became of it is recorded.
            self.watch.cut.trigger();
            let told = async { while connections.join_next().await.is_some() {} };
            if tokio::time::timeout(CUT_MAX, told).await.is_err() {
                connections.shutdown().await;
            }
        }
    }

    async fn connection(&self, accepted: Accepted) {
        let opened = match self.open(accepted).await {
            Ok(opened) => opened,
            Err(refused) => {
                self.refused.with_label_values(&[refused.label()]).inc();
                return tracing::debug!(
                    error = &refused as &dyn std::error::Error,
                    "a connection did not begin as it should"
                );
            }
        };
        let connection = ClientConnection::new(opened.socket, opened.origin, self.patience);
        if opened.is_http2 {
            http2::serve(self, connection).await;
        } else {
            self.http1(connection).await;
        }
        drop(opened.place);
    }

    /// Learns who connects and what is spoken.
    async fn open(&self, accepted: Accepted) -> Result<Opened, Refused> {
        match accepted {
            Accepted::Unix(stream) => Ok(Opened {
                is_http2: self.is_http2_in_clear(&stream, stream.readable()).await?,
                socket: Socket::Unix(stream),
                origin: Origin {
                    peer: THIS_MACHINE,
                    is_tls: false,
                    belongs_to_tls: false,
                    certificate: None,
                },
                place: None,
            }),
            Accepted::Plain(stream, peer) => {
                let mut opened = self.open_tcp(stream, peer, None).await?;
                opened.origin.belongs_to_tls = self.plain_redirects;
                Ok(opened)
            }
            Accepted::Main(stream, peer) => self.open_tcp(stream, peer, self.tls.as_deref()).await,
        }
    }

    async fn open_tcp(
        &self,
        mut stream: TcpStream,
        peer: SocketAddr,
        tls: Option<&Tls>,
    ) -> Result<Opened, Refused> {
        // Answers are written in whole pieces; waiting for more would only delay them.
        stream.set_nodelay(true).map_err(Refused::Handshake)?;
        let peer = if self.proxy_protocol_from.contain(peer.ip()) {
            let header = proxy_header::read(&mut stream, peer);
            self.in_time(header).await.map_err(Refused::ProxyHeader)?
        } else {
            peer
        };
        let place = self.place(peer)?;
        let mut origin = Origin {
            peer,
            is_tls: tls.is_some(),
            belongs_to_tls: false,
            certificate: None,
        };
        let (socket, is_http2) = match tls {
            None => {
                let is_http2 = self.is_http2_in_clear(&stream, stream.readable()).await?;
                (Socket::Tcp(stream), is_http2)
            }
            Some(tls) => {
                let stream = self
                    .in_time(tls.accept(stream))
                    .await
                    .map_err(Refused::Handshake)?;
                let stream = stream.ok_or(Refused::OnlyHandshake)?;
                let shown = stream.get_ref().1.peer_certificates();
                origin.certificate = shown
                    .and_then(|chain| chain.first())
                    .map(|shown| Arc::from(shown.as_ref()));
                let is_http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP2);
                (Socket::Tls(Box::new(stream)), is_http2)
            }
        };
        Ok(Opened {
            socket,
            origin,
            is_http2,
            place,
        })
    }

    /// Bounds a step of the beginning of a connection.
    async fn in_time<T>(&self, step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        let outcome = tokio::time::timeout(self.patience.head, step).await;
        outcome.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Whether a client in clear speaks HTTP/2. It may take its time to say anything: load balancers connect ahead.
    async fn is_http2_in_clear(
        &self,
        stream: &impl peek::Peek,
        first_bytes: impl Future<Output = io::Result<()>>,
    ) -> Result<bool, Refused> {
        if !self.speaks_http2 {
            return Ok(false);
        }
        let waited = tokio::time::timeout(self.patience.idle, first_bytes).await;
        waited
            .map_err(|_elapsed| Refused::Silent)?
            .map_err(Refused::Handshake)?;
        self.in_time(peek::speaks_http2(stream))
            .await
            .map_err(Refused::Handshake)
    }

    /// A place among the connections of the source. Proxies that the operator listed carry those of many.
    fn place(&self, peer: SocketAddr) -> Result<Option<Place>, Refused> {
        if self.trust.lists(peer.ip()) {
            return Ok(None);
        }
        self.places
            .take(network(peer.ip()))
            .map(Some)
            .ok_or(Refused::TooMany)
    }

    async fn http1(&self, connection: ClientConnection) {
        let leash = connection.downstream().leash.clone();
        self.watch.over(&leash, self.requests(connection)).await;
    }

    /// One request after the other.
    async fn requests(&self, connection: ClientConnection) {
        let stopping = self.stopping.subscribe();
        let mut session = ServerSession::new_http1(Box::new(connection));
        session.set_keepalive(Some(self.patience.idle.as_secs() + KEEPALIVE_SLACK_S));
        let mut reusable = self.app.process_new_http(session, &stopping).await;
        while let Some((stream, settings)) = reusable.map(pingora_core::apps::ReusedHttpStream::consume) {
            if let Some(connection) = stream.as_ref().as_any().downcast_ref::<ClientConnection>() {
                connection.downstream().leash.idle();
            }
            let mut session = ServerSession::new_http1(stream);
            if let Some(settings) = settings {
                settings.apply_to_session(&mut session);
            }
            reusable = self.app.process_new_http(session, &stopping).await;
        }
    }
}

/// Why a connection carries no request.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("there is no PROXY header")]
    ProxyHeader(#[source] io::Error),
    #[error("its source has too many connections")]
    TooMany,
    #[error("its handshake failed")]
    Handshake(#[source] io::Error),
    #[error("it says nothing")]
    Silent,
    #[error("the handshake was all there was to do")]
    OnlyHandshake,
}

impl Refused {
    /// A fixed set.
    fn label(&self) -> &'static str {
        match self {
            Self::ProxyHeader(_) => "proxy_header",
            Self::TooMany => "source_limit",
            Self::Handshake(_) => "handshake",
            Self::Silent => "silent",
            Self::OnlyHandshake => "challenge",
        }
    }
}

/// A connection whose first words are known.
struct Opened {
    socket: Socket,
    origin: Origin,
    is_http2: bool,
    place: Option<Place>,
}

impl Door {
    /// Takes the next connection once there is a slot for it; until then it waits in the operating system's queue.
    async fn accept(&self, slots: &Arc<Semaphore>) -> io::Result<(Accepted, OwnedSemaphorePermit)> {
        let slot = Arc::clone(slots)
            .acquire_owned()
            .await
            .map_err(io::Error::other)?;
        let accepted = match self {
            Self::Main(listener) => {
                let (stream, peer) = listener.accept().await?;
                Accepted::Main(stream, peer)
            }
            Self::Plain(listener) => {
                let (stream, peer) = listener.accept().await?;
                Accepted::Plain(stream, peer)
            }
            Self::Unix(listener) => Accepted::Unix(listener.accept().await?.0),
        };
        Ok((accepted, slot))
    }
}
