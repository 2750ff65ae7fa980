//! How is a WebSocket kept open whose upstream consents at once?
//!
//! Pingora 0.9.1 takes the end of a handshake's own, empty body for the end of the tunnel when it has read the upstream's 101
//! first (<https://github.com/cloudflare/pingora/issues/946>). Both are there at the same time when the upstream is fast or this
//! machine is busy, and then chance decides. So a connection for a handshake lets everybody else go first: the first look for an
//! answer after a write finds nothing, and asks to be made again at once. It costs such a request one turn of the scheduler.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use http::header::UPGRADE;
use pingora_core::connectors::L4Connect;
use pingora_core::protocols::l4::ext::set_tcp_keepalive;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorType, OrErr, Result};
use pingora_http::RequestHeader;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::coop::poll_proceed;

/// The peer for this request: one whose connections wait their turn, if it asks for an upgrade.
pub(crate) fn adapt(mut peer: HttpPeer, request: &RequestHeader) -> HttpPeer {
    if request.headers.contains_key(UPGRADE) && peer._address.as_inet().is_some() {
        // No connection that was made for other requests, and none that others get.
        peer.group_key = peer.group_key.rotate_left(1) ^ 1;
        peer.options.custom_l4 = Some(std::sync::Arc::new(Dial));
        peer.options.idle_timeout = Some(std::time::Duration::from_millis(1));
    }
    peer
}

/// Connects in the way handshakes need.
#[derive(Debug)]
struct Dial;

#[async_trait]
impl L4Connect for Dial {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let Some(address) = address.as_inet() else {
            return Error::e_explain(ErrorType::ConnectError, "not an address of the Internet");
        };
        let connected = TcpStream::connect(address).await;
        let stream = connected.or_err(ErrorType::ConnectError, "cannot connect for a handshake")?;
        let socket = Unhurried {
            stream,
            holds_back: true,
        };
        Ok(VirtualSocketStream::new(Box::new(socket)).into())
    }
}

/// A connection whose first look for an answer after a write finds nothing yet.
#[derive(Debug)]
struct Unhurried<S> {
    stream: S,
    holds_back: bool,
}

impl<S: AsyncRead + Unpin> AsyncRead for Unhurried<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.holds_back {
            // Where the task has used up its turn nobody went first yet.
            ready!(poll_proceed(context)).made_progress();
            self.holds_back = false;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Unhurried<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.holds_back = true;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl VirtualSocket for Unhurried<TcpStream> {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        match option {
            VirtualSockOpt::NoDelay => self.stream.set_nodelay(true),
            VirtualSockOpt::KeepAlive(keepalive) => {
                set_tcp_keepalive(&self.stream, &keepalive).map_err(io::Error::other)
            }
            // Whatever else Pingora may set one day.
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn only_the_first_look_after_a_write_finds_nothing() {
        let (stream, mut other) = tokio::io::duplex(64);
        let mut socket = Unhurried {
            stream,
            holds_back: false,
        };
        other.write_all(b"abc").await.unwrap();
        socket.write_all(b"request").await.unwrap();
        let mut buffer = [0; 1];
        for (look, is_there) in [false, true, true].into_iter().enumerate() {
            let mut byte = ReadBuf::new(&mut buffer);
            let found = std::future::poll_fn(|context| {
                Poll::Ready(Pin::new(&mut socket).poll_read(context, &mut byte).is_ready())
            });
            assert_eq!(found.await, is_there, "look {look}");
        }
        socket.write_all(b"again").await.unwrap();
        socket.read_exact(&mut buffer).await.unwrap();
        assert_eq!(buffer, *b"c", "who waits is woken");
    }
}
