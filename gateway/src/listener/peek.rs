//! What do the first bytes of a connection say, without taking them?

use std::io;
use std::time::Duration;

use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

/// Between two looks at bytes that have not become more: the operating system tells only that there are some. Doubled each time,
/// so that a client that dawdles costs nothing.
const AGAIN_AFTER: Duration = Duration::from_millis(2);
/// Longest pause between two looks.
const AGAIN_AFTER_MAX: Duration = Duration::from_millis(250);

/// Whether what was seen is enough to tell.
pub(super) enum Enough<T> {
    /// More bytes may tell.
    No,
    /// This is told.
    Yes(T),
}

/// A connection whose first bytes can be seen before they are read.
pub(super) trait Peek {
    /// Waits for bytes and copies the first of them to `buffer`; 0 at the end of the stream.
    async fn peek(&self, buffer: &mut [u8]) -> io::Result<usize>;
}

impl Peek for TcpStream {
    async fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Self::peek(self, buffer).await
    }
}

impl Peek for UnixStream {
    async fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.async_io(Interest::READABLE, || {
            let (read, _whole) = rustix::net::recv(self, &mut *buffer, RecvFlags::PEEK)?;
            Ok(read)
        })
        .await
    }
}

/// Looks at up to `bytes_max` first bytes until `tell` can tell. The caller bounds the time.
///
/// # Errors
/// What the operating system says; or that the bytes end, or are too many, before anything can be told.
pub(super) async fn peek_until<T>(
    stream: &impl Peek,
    bytes_max: usize,
    tell: impl Fn(&[u8]) -> Enough<T>,
) -> io::Result<T> {
    let mut buffer = vec![0; bytes_max];
    let (mut seen_before, mut pause) = (0, AGAIN_AFTER);
    loop {
        let seen = stream.peek(&mut buffer).await?;
        if let Enough::Yes(told) = tell(buffer.get(..seen).unwrap_or_default()) {
            return Ok(told);
        }
        if seen == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if seen == bytes_max {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "too long"));
        }
        if seen == seen_before {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(AGAIN_AFTER_MAX);
        }
        seen_before = seen;
    }
}

/// First bytes of every HTTP/2 connection (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whether a client in clear speaks HTTP/2 from its first byte (RFC 9113 section 3.3).
///
/// # Errors
/// As [`peek_until`].
pub(super) async fn speaks_http2(stream: &impl Peek) -> io::Result<bool> {
    peek_until(stream, PREFACE.len(), |bytes| {
        if bytes == PREFACE {
            Enough::Yes(true)
        } else if !bytes.is_empty() && PREFACE.starts_with(bytes) {
            Enough::No
        } else {
            Enough::Yes(false)
        }
    })
    .await
}
