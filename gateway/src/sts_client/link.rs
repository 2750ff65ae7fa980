//! How do bytes get to one STS address and back? Kept connections, one write per request, one deadline.
//!
//! A connection is used by one request at a time and driven by the task that waits for the answer, so no hand-over to
//! another task is on the request path. Reading is Pingora's HTTP/1.1 client session.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pingora_core::connectors::TransportConnector;
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::v1::client::HttpSession;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{ErrorType, RetryType};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use super::breaker::Breaker;

/// Kept connections at most; more requests at a time open more, which are then closed.
const IDLE_MAX: usize = 256;
/// A connection unused for longer may have been closed by the other side: the STS keeps one for 60 s.
const IDLE_FOR: Duration = Duration::from_secs(30);

/// One address of the STS.
pub(super) struct Link {
    peer: HttpPeer,
    idle: Mutex<Vec<(Stream, Instant)>>,
    pub(super) breaker: Breaker,
}

/// A complete answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) content_type: String,
    /// `Retry-After`, when it is a number of seconds.
    pub(super) retry_after_s: Option<u32>,
    pub(super) body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    /// No connection could be made; nothing was sent.
    #[error("the STS cannot be connected to")]
    Connect(#[source] Box<pingora_error::Error>),
    /// The connection broke, or what came back is not HTTP.
    #[error("the connection to the STS broke")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The answer is longer than allowed.
    #[error("the answer of the STS is too long")]
    TooLong,
}

// The session is large, so the future that holds it is boxed: one allocation for each call.

/// The connection was closed before a byte of the answer came: a kept one that the STS gave up.
struct GoneStale;

impl Link {
    pub(super) fn new(peer: HttpPeer) -> Self {
        Self {
            peer,
            idle: Mutex::default(),
            breaker: Breaker::default(),
        }
    }

    /// Whom it leads to.
    pub(super) fn peer(&self) -> &HttpPeer {
        &self.peer
    }

    /// Sends the bytes that `write` makes (called again for a second attempt, so that a nonce is never sent twice) and
    /// reads the answer, at most `body_bytes_max` of it.
    pub(super) async fn call(
        &self,
        connector: &TransportConnector,
        write: impl Fn() -> Bytes,
        body_bytes_max: usize,
    ) -> Result<Answer, LinkError> {
        if let Some(stream) = self.take_idle()
            && let Ok(outcome) = Box::pin(self.exchange(stream, &write(), body_bytes_max)).await
        {
            return outcome;
        }
        let stream = Box::pin(connector.new_stream(&self.peer))
            .await
            .map_err(LinkError::Connect)?;
        match Box::pin(self.exchange(stream, &write(), body_bytes_max)).await {
            Ok(outcome) => outcome,
            Err(GoneStale) => Err(LinkError::Broken("the STS closed the connection".into())),
        }
    }

    async fn exchange(
        &self,
        mut stream: Stream,
        request: &[u8],
        body_bytes_max: usize,
    ) -> Result<Result<Answer, LinkError>, GoneStale> {
        let sent = async {
            stream.write_all(request).await?;
            stream.flush().await
        };
        sent.await.map_err(|_closed| GoneStale)?;
        let mut session = HttpSession::new(stream);
        loop {
            match session.read_response().await {
                Ok(_)
                    if session
                        .get_status()
                        .is_some_and(|status| status.is_informational()) => {}
                Ok(_) => break,
                Err(error)
                    if error.etype == ErrorType::ConnectionClosed || error.retry == RetryType::ReusedOnly =>
                {
                    return Err(GoneStale);
                }
                Err(error) => return Ok(Err(LinkError::Broken(error))),
            }
        }
        Ok(self.read(session, body_bytes_max).await)
    }

    async fn read(&self, mut session: HttpSession, body_bytes_max: usize) -> Result<Answer, LinkError> {
        let status = session.get_status().map_or(0, |status| status.as_u16());
        let content_type = session
            .get_header(http::header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let content_type = content_type.unwrap_or_default().to_owned();
        let retry_after_s = session
            .get_header(http::header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        let mut body = BytesMut::new();
        while let Some(piece) = session
            .read_body_ref()
            .await
            .map_err(|error| LinkError::Broken(error))?
        {
            if body.len() + piece.len() > body_bytes_max {
                return Err(LinkError::TooLong);
            }
            body.extend_from_slice(piece);
        }
        session.respect_keepalive();
        if let Some(stream) = session.reuse().await {
            self.keep(stream);
        }
        Ok(Answer {
            status,
            content_type,
            retry_after_s,
            body: body.freeze(),
        })
    }

    fn take_idle(&self) -> Option<Stream> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let (stream, since) = idle.pop()?;
        if since.elapsed() < IDLE_FOR {
            return Some(stream);
        }
        // The newest is too old, so all are.
        idle.clear();
        None
    }

    fn keep(&self, stream: Stream) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push((stream, Instant::now()));
        }
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Link")
            .field("peer", &self.peer._address)
            .field("breaker", &self.breaker)
            .finish_non_exhaustive()
    }
}
