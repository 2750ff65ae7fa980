//! May this client connection stay open? Times out idle clients, and ends a response whose authority ended. An HTTP/2
//! connection carries many responses: there the connection only carries bytes, and [`ClientStream`] does this for each stream.
//!
//! Pingora reads from the client while it waits for the upstream, and writes to the client while the upstream sends.
//! So one of the two is always polled while a response is open, and whatever must end that response is polled along
//! with it: no task per request, no wait for the next chunk. For the same reason this is where joined writes are sent
//! on: whenever there is nothing to do but wait. A read that fails with [`Trip`] aborts the exchange; the
//! connection can still be written to, so the refusal or the last chunk goes out. The exception, an upload whose upstream takes
//! nothing, is the listener's (`crate::listener::unheard`).

mod leash;
mod left;
mod origin;
mod socket;
mod stream;

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, BufWriter, ReadBuf};
use tokio::time::Sleep;

pub(crate) use leash::{Authority, Leash, Patience, Trip};
use left::Lent;
pub(crate) use left::{Client, Left};
pub(crate) use origin::{Downstream, Origin};
pub(crate) use socket::Socket;
pub(crate) use stream::ClientStream;

/// Writes smaller than this are joined, so that a response head and a short body leave in one packet.
const WRITE_BUFFER_BYTES: usize = 8 * 1024;

/// The terminating chunk as Pingora writes it (RFC 9112 section 7.1).
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// One client connection as Pingora sees it.
pub(crate) struct ClientConnection {
    io: Lent<BufWriter<Socket>>,
    downstream: Downstream,
    sleep: Pin<Box<Sleep>>,
    /// For a connection that carries streams: how long it may take nothing, and since when it does.
    takes_within: Option<(Duration, Option<Pin<Box<Sleep>>>)>,
}

impl ClientConnection {
    /// Takes over an accepted connection.
    pub(crate) fn new(socket: Socket, origin: Origin, patience: Patience) -> Self {
        let leash = Leash::new(patience);
        Self {
            io: Lent::new(BufWriter::with_capacity(WRITE_BUFFER_BYTES, socket)),
            downstream: Downstream { origin, leash },
            sleep: Box::pin(tokio::time::sleep(patience.idle)),
            takes_within: None,
        }
    }

    /// The same connection with many exchanges on it, each on a leash of its own. What is left to the connection itself is that it
    /// ends when the client takes nothing for `write_timeout`.
    pub(crate) fn carrying_streams(mut self, write_timeout: Duration) -> Self {
        self.downstream.leash.deciding();
        self.takes_within = Some((write_timeout, None));
        self
    }

    /// A write went on, or could not.
    fn poll_written<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let Some((limit, since)) = &mut self.takes_within else {
            return match written {
                Poll::Pending => self.poll_leash(context),
                ready @ Poll::Ready(_) => ready,
            };
        };
        if written.is_ready() {
            *since = None;
            return written;
        }
        let sleep = since.get_or_insert_with(|| Box::pin(tokio::time::sleep(*limit)));
        sleep
            .as_mut()
            .poll(context)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Where it comes from, and what the request being served may restrict.
    pub(crate) fn downstream(&self) -> &Downstream {
        &self.downstream
    }

    /// An operation would wait: may it?
    fn poll_leash<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        let trip = self.downstream.leash.poll_trip(&mut self.sleep, context);
        trip.map(|trip| Err(io::Error::other(trip)))
    }
}

impl Drop for ClientConnection {
    fn drop(&mut self) {
        let (leash, io) = (&self.downstream.leash, &mut self.io);
        leash.leave_client(|| io.take().map(Client::Connection));
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
        if let Poll::Ready(result) = Pin::new(&mut *this.io).poll_read(context, buffer) {
            if buffer.filled().len() > before {
                this.downstream.leash.heard_client();
            }
            return Poll::Ready(result);
        }
        // About to wait: what was joined so far must not wait along.
        if !this.io.buffer().is_empty()
            && let Poll::Ready(Err(error)) = Pin::new(&mut *this.io).poll_flush(context)
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
            this.downstream.leash.lock().farewell
        } else {
            None
        };
        // A farewell is far shorter than the buffer, so it is taken whole or not at all.
        match Pin::new(&mut *this.io).poll_write(context, farewell.unwrap_or(bytes)) {
            Poll::Ready(Ok(_)) if farewell.is_some() => {
                this.downstream.leash.lock().farewell = None;
                Poll::Ready(Ok(bytes.len()))
            }
            written => this.poll_written(context, written),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = Pin::new(&mut *this.io).poll_write_vectored(context, slices);
        this.poll_written(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let written = Pin::new(&mut *this.io).poll_flush(context);
        this.poll_written(context, written)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let written = Pin::new(&mut *this.io).poll_shutdown(context);
        this.poll_written(context, written)
    }
}

impl fmt::Debug for ClientConnection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ClientConnection")
            .field("origin", &self.downstream.origin)
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
        UniqueIDType::from(self.downstream.origin.peer.port())
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
