//! May this client connection stay open? Times out idle clients, and ends a response whose authority ended.
//!
//! Pingora reads from the client while it waits for the upstream, and writes to the client while the upstream sends.
//! So one of the two is always polled while a response is open, and whatever must end that response is polled along
//! with it: no task per request, no wait for the next chunk. For the same reason this is where joined writes are sent
//! on: whenever there is nothing to do but wait. A read that fails with [`Trip`] aborts the exchange; the
//! connection can still be written to, so the refusal or the last chunk goes out.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use caracal_bus::revocation::{Revocations, RevokedSignal};
use caracal_model::{Anchor, Anchors};
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, UniqueIDType,
};
use pingora_core::tls::ServerTlsStream;
use tokio::io::{AsyncRead, AsyncWrite, BufWriter, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// Writes smaller than this are joined, so that a response head and a short body leave in one packet.
const WRITE_BUFFER_BYTES: usize = 8 * 1024;

/// The terminating chunk as Pingora writes it (RFC 9112 section 7.1).
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Why a connection was not allowed to stay as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Trip {
    /// Nothing was asked for too long.
    #[error("the connection was idle for too long")]
    Idle,
    /// A request head did not arrive in time.
    #[error("the request head did not arrive in time")]
    SlowHead,
    /// An anchor of the mandate was revoked.
    #[error("the authority of the response was revoked")]
    Revoked(Anchor),
    /// The mandate expired.
    #[error("the mandate of the response expired")]
    Expired,
    /// The upstream was silent for longer than allowed.
    #[error("the upstream was silent for too long")]
    UpstreamSilent,
}

/// Timeouts of a client connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Between requests (`IDLE_TIMEOUT`).
    pub(crate) idle: Duration,
    /// From the first byte of a request head to its last (`READ_HEADER_TIMEOUT`).
    pub(crate) head: Duration,
}

/// What the request being served allows its connection. Shared between the connection and the proxy hooks.
#[derive(Clone, Debug)]
pub(crate) struct Leash(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    patience: Patience,
    phase: Phase,
    trip: Option<Trip>,
    farewell: Option<&'static [u8]>,
}

#[derive(Debug)]
enum Phase {
    /// Between requests.
    Idle { until: Instant },
    /// The first bytes of a request arrived.
    Head { until: Instant },
    /// The request is being decided; its own timeouts apply.
    Deciding,
    /// The request went to the upstream.
    Forwarding(Box<Forwarding>),
}

#[derive(Debug)]
struct Forwarding {
    /// Absent for a response that needs no authority.
    authority: Option<Authority>,
    /// When the upstream counts as silent.
    silent_at: Instant,
}

/// What a response needs to stay open.
#[derive(Debug)]
pub(crate) struct Authority {
    anchors: Anchors,
    revocations: Revocations,
    expires_at: Instant,
    /// Registered when the connection first has to wait, so that a response that is there at once costs nothing.
    signal: Option<RevokedSignal>,
}

impl Authority {
    /// Authority that ends at `expires_at`, or when one of `anchors` is revoked.
    pub(crate) fn new(anchors: Anchors, revocations: Revocations, expires_at: Instant) -> Self {
        Self {
            anchors,
            revocations,
            expires_at,
            signal: None,
        }
    }

    /// Whether it ended by now. At most four reads in memory.
    fn ended(&self, now: Instant) -> Option<Trip> {
        if now >= self.expires_at {
            return Some(Trip::Expired);
        }
        self.revocations.is_revoked(&self.anchors).map(Trip::Revoked)
    }
}

impl Leash {
    fn new(patience: Patience) -> Self {
        let until = Instant::now() + patience.idle;
        Self(Arc::new(Mutex::new(State {
            patience,
            phase: Phase::Idle { until },
            trip: None,
            farewell: None,
        })))
    }

    /// The request head is complete: from here on the stages watch the time.
    pub(crate) fn deciding(&self) {
        self.lock().phase = Phase::Deciding;
    }

    /// The request goes to the upstream now, under `authority`; the first answer is due within `silence_max`.
    pub(crate) fn forwarding(&self, authority: Option<Authority>, silence_max: Duration) {
        let silent_at = Instant::now() + silence_max;
        self.lock().phase = Phase::Forwarding(Box::new(Forwarding { authority, silent_at }));
    }

    /// Something passed in either direction; the upstream's next word is not due before `silence_max` from now.
    pub(crate) fn progress(&self, silence_max: Duration) {
        if let Phase::Forwarding(forwarding) = &mut self.lock().phase {
            forwarding.silent_at = forwarding.silent_at.max(Instant::now() + silence_max);
        }
    }

    /// Whether the authority of the open response ended; remembers it if so. For checks between chunks.
    pub(crate) fn check(&self) -> Option<Trip> {
        let mut state = self.lock();
        if let Phase::Forwarding(forwarding) = &state.phase
            && let Some(authority) = &forwarding.authority
            && let Some(trip) = authority.ended(Instant::now())
        {
            state.trip = Some(trip);
        }
        state.trip.clone()
    }

    /// What ended the present exchange, if this leash did.
    pub(crate) fn tripped(&self) -> Option<Trip> {
        self.lock().trip.clone()
    }

    /// Replaces the terminating chunk of the open response, once, so that it can carry a trailer. `chunk` must be a
    /// complete `last-chunk trailer-section CRLF` (RFC 9112 section 7.1).
    pub(crate) fn say_farewell(&self, chunk: &'static [u8]) {
        self.lock().farewell = Some(chunk);
    }

    /// The exchange is over; the connection may carry another one.
    pub(crate) fn idle(&self) {
        let mut state = self.lock();
        let until = Instant::now() + state.patience.idle;
        state.phase = Phase::Idle { until };
        state.trip = None;
        state.farewell = None;
    }

    /// Bytes arrived while nothing was being served: a request begins.
    fn heard_client(&self) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Idle { .. }) {
            let until = Instant::now() + state.patience.head;
            state.phase = Phase::Head { until };
        }
    }

    /// Held for a few instructions, and never contended: the one task of the connection takes it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Resolves when the connection must not wait any longer. Registers the task for the next reason to look again.
    fn poll_trip(&mut self, sleep: &mut Pin<Box<Sleep>>, context: &mut Context<'_>) -> Poll<Trip> {
        if let Some(trip) = &self.trip {
            return Poll::Ready(trip.clone());
        }
        let (until, trip) = match &mut self.phase {
            Phase::Deciding => return Poll::Pending,
            Phase::Idle { until } => (*until, Trip::Idle),
            Phase::Head { until } => (*until, Trip::SlowHead),
            Phase::Forwarding(forwarding) => match &mut forwarding.authority {
                None => (forwarding.silent_at, Trip::UpstreamSilent),
                Some(authority) => {
                    let Authority {
                        anchors,
                        revocations,
                        expires_at,
                        signal,
                    } = authority;
                    let signal = signal.get_or_insert_with(|| revocations.watch(anchors));
                    if let Poll::Ready(anchor) = Pin::new(signal).poll(context) {
                        self.trip = Some(Trip::Revoked(anchor.clone()));
                        return Poll::Ready(Trip::Revoked(anchor));
                    }
                    if *expires_at <= forwarding.silent_at {
                        (*expires_at, Trip::Expired)
                    } else {
                        (forwarding.silent_at, Trip::UpstreamSilent)
                    }
                }
            },
        };
        if sleep.deadline() != until {
            sleep.as_mut().reset(until);
        }
        if sleep.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        self.trip = Some(trip.clone());
        Poll::Ready(trip)
    }
}

/// The bytes of a client, in clear or inside TLS.
pub(crate) enum Socket {
    /// Plain TCP.
    Plain(TcpStream),
    /// TLS that this gateway terminates.
    Tls(Box<ServerTlsStream<TcpStream>>),
}

/// One client connection as Pingora sees it.
pub(crate) struct ClientConnection {
    io: BufWriter<Socket>,
    peer: SocketAddr,
    leash: Leash,
    sleep: Pin<Box<Sleep>>,
}

impl ClientConnection {
    /// Takes over an accepted connection from `peer`.
    pub(crate) fn new(socket: Socket, peer: SocketAddr, patience: Patience) -> Self {
        Self {
            io: BufWriter::with_capacity(WRITE_BUFFER_BYTES, socket),
            peer,
            leash: Leash::new(patience),
            sleep: Box::pin(tokio::time::sleep(patience.idle)),
        }
    }

    /// Who is at the other end of the TCP connection.
    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Whether the connection came in through TLS that this gateway terminated.
    pub(crate) fn is_tls(&self) -> bool {
        matches!(self.io.get_ref(), Socket::Tls(_))
    }

    /// What the request being served may restrict.
    pub(crate) fn leash(&self) -> &Leash {
        &self.leash
    }

    /// An operation would wait: may it?
    fn poll_leash<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        let leash = self.leash.clone();
        let mut state = leash.lock();
        state
            .poll_trip(&mut self.sleep, context)
            .map(|trip| Err(io::Error::other(trip)))
    }
}

impl AsyncRead for ClientConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        if let Poll::Ready(result) = Pin::new(&mut this.io).poll_read(context, buffer) {
            if buffer.filled().len() > before {
                this.leash.heard_client();
            }
            return Poll::Ready(result);
        }
        // About to wait: what was joined so far must not wait along.
        if !this.io.buffer().is_empty()
            && let Poll::Ready(Err(error)) = Pin::new(&mut this.io).poll_flush(context)
        {
            return Poll::Ready(Err(error));
        }
        this.poll_leash(context)
    }
}

impl AsyncWrite for ClientConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let farewell = if bytes == LAST_CHUNK {
            this.leash.lock().farewell
        } else {
            None
        };
        // A farewell is far shorter than the buffer, so it is taken whole or not at all.
        match Pin::new(&mut this.io).poll_write(context, farewell.unwrap_or(bytes)) {
            Poll::Ready(Ok(_)) if farewell.is_some() => {
                this.leash.lock().farewell = None;
                Poll::Ready(Ok(bytes.len()))
            }
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => this.poll_leash(context),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        match Pin::new(&mut this.io).poll_write_vectored(context, slices) {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => this.poll_leash(context),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        match Pin::new(&mut this.io).poll_flush(context) {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => this.poll_leash(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        match Pin::new(&mut this.io).poll_shutdown(context) {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => this.poll_leash(context),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

impl fmt::Debug for ClientConnection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ClientConnection")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Shutdown for ClientConnection {
    async fn shutdown(&mut self) {
        if let Err(error) = tokio::io::AsyncWriteExt::shutdown(self).await {
            tracing::debug!(%error, "the client closed first");
        }
    }
}

impl UniqueID for ClientConnection {
    fn id(&self) -> UniqueIDType {
        UniqueIDType::from(self.peer.port())
    }
}

impl Ssl for ClientConnection {}
impl Peek for ClientConnection {}

impl GetTimingDigest for ClientConnection {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for ClientConnection {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for ClientConnection {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}
