//! How is a channel opened? A signed request to upgrade, and the proof that the STS has the key.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use caracal_wire::channel::{ChannelKey, WELCOME};
use pingora_core::connectors::TransportConnector;
use pingora_core::protocols::Stream;
use pingora_core::upstreams::peer::HttpPeer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::Channel;
use crate::sts_client::link;

/// Longest head of the answer.
const HEAD_BYTES_MAX: usize = 8 * 1024;
const HEAD_END: &[u8] = b"\r\n\r\n";

/// Everything that opens one channel.
pub(in crate::sts_client) struct Opener {
    pub(in crate::sts_client) connector: Arc<TransportConnector>,
    pub(in crate::sts_client) peer: HttpPeer,
    /// The request to upgrade, signed.
    pub(in crate::sts_client) request: link::Call,
    pub(in crate::sts_client) key: ChannelKey,
    pub(in crate::sts_client) timeout: Duration,
}

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotOpened {
    #[error("the STS cannot be connected to")]
    Connect(#[source] Box<pingora_error::Error>),
    #[error("the connection to the STS broke")]
    Broken(#[source] std::io::Error),
    #[error("the STS did not answer in time")]
    Timeout,
    #[error("the STS offers none")]
    NotOffered,
    #[error("the STS does not have the key")]
    Unproven,
}

impl Opener {
    /// Opens it.
    ///
    /// # Errors
    /// [`NotOpened`].
    pub(super) async fn open(self) -> Result<Arc<Channel>, NotOpened> {
        let timeout = self.timeout;
        tokio::time::timeout(timeout, self.agree())
            .await
            .unwrap_or(Err(NotOpened::Timeout))
    }

    async fn agree(self) -> Result<Arc<Channel>, NotOpened> {
        let mut stream = self
            .connector
            .new_stream(&self.peer)
            .await
            .map_err(NotOpened::Connect)?;
        let asked = async {
            stream.write_all(&self.request.bytes).await?;
            stream.flush().await
        };
        asked.await.map_err(NotOpened::Broken)?;
        let (head, come) = read_head(&mut stream).await?;
        let welcome = welcome(&head).ok_or(NotOpened::NotOffered)?;
        let agreement = self
            .key
            .accept(&self.request.signature, welcome.as_bytes())
            .ok_or(NotOpened::Unproven)?;
        Ok(Channel::start(stream, agreement.of_gateway(), come))
    }
}

/// The head of the answer, and what has come after it.
async fn read_head(stream: &mut Stream) -> Result<(BytesMut, BytesMut), NotOpened> {
    let mut come = BytesMut::with_capacity(HEAD_BYTES_MAX);
    loop {
        let read = stream.read_buf(&mut come).await.map_err(NotOpened::Broken)?;
        let end = come.windows(HEAD_END.len()).position(|bytes| bytes == HEAD_END);
        if let Some(end) = end {
            let head = come.split_to(end);
            come.advance(HEAD_END.len());
            return Ok((head, come));
        }
        if read == 0 || come.len() >= HEAD_BYTES_MAX {
            return Err(NotOpened::NotOffered);
        }
    }
}

/// The value of the header that agrees, in a 101.
fn welcome(head: &[u8]) -> Option<&str> {
    let mut lines = std::str::from_utf8(head).ok()?.split("\r\n");
    lines.next().filter(|line| line.starts_with("HTTP/1.1 101 "))?;
    lines
        .filter_map(|line| line.split_once(':'))
        .find_map(|(name, value)| name.eq_ignore_ascii_case(WELCOME).then(|| value.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_101_that_agrees_is_a_welcome() {
        for (head, expected) in [
            (
                "HTTP/1.1 101 Switching Protocols\r\nX-Caracal-Channel: ab cd ",
                Some("ab cd"),
            ),
            ("HTTP/1.1 101 Switching Protocols\r\nupgrade: x", None),
            ("HTTP/1.1 200 OK\r\nx-caracal-channel: ab cd", None),
            ("x-caracal-channel: ab cd", None),
            ("", None),
        ] {
            assert_eq!(welcome(head.as_bytes()), expected, "{head}");
        }
        assert_eq!(welcome(b"HTTP/1.1 101 \xff"), None);
    }
}
