//! How do bytes get to one STS address and back? Kept connections, one write per request, one deadline.
//!
//! A connection is used by one request at a time and driven by the task that waits for the answer, so no hand-over to
//! another task is on the request path. Reading is Pingora's HTTP/1.1 client session.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use caracal_wire::answer_mac;
use futures_util::FutureExt;
use http::HeaderValue;
use pingora_core::connectors::TransportConnector;
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::v1::client::HttpSession;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{ErrorType, RetryType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::breaker::Breaker;
use super::channel::Channels;
use super::site::Site;

/// Kept connections at most; more requests at a time open more, which are then closed.
const IDLE_MAX: usize = 256;
/// A connection unused for longer may have been closed by the other side: the STS keeps one for 60 s.
const IDLE_FOR: Duration = Duration::from_secs(30);

/// One address of the STS.
pub(super) struct Link {
    site: Arc<Site>,
    peer: HttpPeer,
    idle: Mutex<Vec<(Stream, Instant)>>,
    channels: Arc<Channels>,
    pub(super) breaker: Breaker,
}

/// A call, as it is sent.
pub(super) struct Call {
    pub(super) bytes: Bytes,
    /// The signature in it; empty without one.
    pub(super) signature: String,
}

/// A complete answer.
#[derive(Debug)]
pub(super) struct Answer {
    /// The signature of the call that it answers.
    pub(super) call_signature: String,
    /// The MAC that it shows, unchecked.
    pub(super) mac: Option<HeaderValue>,
    /// Whether it came in a frame that proves it.
    pub(super) is_proven: bool,
    pub(super) status: u16,
    pub(super) content_type: Cow<'static, str>,
    /// `Retry-After`, when it is a number of seconds.
    pub(super) retry_after_s: Option<u32>,
    pub(super) body: Bytes,
}

impl Answer {
    /// What a channel brought.
    pub(super) fn proven(answer: caracal_wire::channel::Answer) -> Self {
        Self {
            call_signature: String::new(),
            mac: None,
            is_proven: true,
            status: answer.status,
            content_type: "application/json".into(),
            retry_after_s: answer.retry_after_s,
            body: answer.body,
        }
    }
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

/// Whether a call has been repeated already. A kept connection may be closed by the STS in the moment a call is sent on
/// it; such a call may be sent again once in all, so that a call that ends the process that works on it does not go
/// round and end every replica.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    pub(super) is_used: bool,
}

/// The connection was closed before a byte of the answer came: a kept one that the STS gave up.
struct GoneStale;

impl Link {
    pub(super) fn new(site: Arc<Site>, peer: HttpPeer) -> Self {
        Self {
            site,
            peer,
            idle: Mutex::default(),
            channels: Arc::new(Channels::new()),
            breaker: Breaker::default(),
        }
    }

    /// Whom it leads to.
    pub(super) fn peer(&self) -> &HttpPeer {
        &self.peer
    }

    /// The channels of exchanges to it.
    pub(super) fn channels(&self) -> &Arc<Channels> {
        &self.channels
    }

    /// Which entry of `STS_URL` it belongs to.
    pub(super) fn site(&self) -> &Arc<Site> {
        &self.site
    }

    /// Sends the bytes that `write` makes and reads the answer, at most `body_bytes_max` of it.
    ///
    /// Sent on a kept connection that was closed without a byte of an answer, the call is sent again on a new one, unless
    /// `repeats` says that it has been already. `write` is called for each attempt, so that a nonce is never sent twice.
    pub(super) async fn call(
        &self,
        connector: &TransportConnector,
        write: impl Fn(&Site) -> Call,
        body_bytes_max: usize,
        repeats: &mut Repeats,
    ) -> Result<Answer, LinkError> {
        if !repeats.is_used
            && let Some(stream) = self.take_idle()
        {
            match Box::pin(self.exchange(stream, write(&self.site), body_bytes_max)).await {
                Ok(outcome) => return outcome,
                Err(GoneStale) => repeats.is_used = true,
            }
        }
        let stream = Box::pin(connector.new_stream(&self.peer))
            .await
            .map_err(LinkError::Connect)?;
        match Box::pin(self.exchange(stream, write(&self.site), body_bytes_max)).await {
            Ok(outcome) => outcome,
            Err(GoneStale) => Err(LinkError::Broken("the STS closed the connection".into())),
        }
    }

    async fn exchange(
        &self,
        mut stream: Stream,
        call: Call,
        body_bytes_max: usize,
    ) -> Result<Result<Answer, LinkError>, GoneStale> {
        let sent = async {
            stream.write_all(&call.bytes).await?;
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
        Ok(self.read(session, call.signature, body_bytes_max).await)
    }

    async fn read(
        &self,
        mut session: HttpSession,
        call_signature: String,
        body_bytes_max: usize,
    ) -> Result<Answer, LinkError> {
        let status = session.get_status().map_or(0, |status| status.as_u16());
        let content_type = session
            .get_header(http::header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let content_type = Cow::Owned(content_type.unwrap_or_default().to_owned());
        let retry_after_s = session
            .get_header(http::header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        let mac = session.get_header(answer_mac::HEADER).cloned();
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
            call_signature,
            mac,
            is_proven: false,
            status,
            content_type,
            retry_after_s,
            body: body.freeze(),
        })
    }

    fn take_idle(&self) -> Option<Stream> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((mut stream, since)) = idle.pop() {
            if since.elapsed() >= IDLE_FOR {
                // The newest is too old, so all are.
                idle.clear();
            } else if is_quiet(&mut stream) {
                return Some(stream);
            }
        }
        None
    }

    fn keep(&self, stream: Stream) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push((stream, Instant::now()));
        }
    }
}

/// Whether nothing has come on a connection that waits for a request: neither its end nor bytes nobody asked for. No
/// system call while that is so.
fn is_quiet(stream: &mut Stream) -> bool {
    stream.read(&mut [0]).now_or_never().is_none()
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
