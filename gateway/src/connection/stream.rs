//! One HTTP/2 stream of a client, as Pingora sees it: what [`super::ClientConnection`] is for HTTP/1.1.
//!
//! A connection carries many streams, so what ends a response cannot be polled with the connection. Pingora's own
//! HTTP/2 session does the work; wherever it would wait for the client, the leash of the stream is polled along with it.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderMap;
use http::header::{COOKIE, HOST, HeaderValue};
use pingora_core::protocols::Digest;
use pingora_core::protocols::http::HttpTask;
use pingora_core::protocols::http::custom::CustomMessageWrite;
use pingora_core::protocols::http::custom::server::Session;
use pingora_core::protocols::http::v2::server::HttpSession;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::time::Sleep;

use super::left::{Client, Lent};
use super::{Downstream, Leash, Patience};
use crate::header::clean_trailers;

/// Messages beside a body, which HTTP/2 does not have.
type Messages = Box<dyn futures_util::Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>;

/// One stream.
pub(crate) struct ClientStream {
    inner: Lent<HttpSession>,
    leash: Leash,
    sleep: Pin<Box<Sleep>>,
    read_timeout: Option<Duration>,
}

impl ClientStream {
    /// Takes over an accepted stream. Its head carries from here on what [`Downstream`] tells, and a `Host` where the
    /// client sent `:authority` (RFC 9113 section 8.3.1), so that nothing after this has to know the version.
    pub(crate) fn new(mut inner: HttpSession, downstream: Downstream, patience: Patience) -> Self {
        let leash = downstream.leash.clone();
        let head = inner.req_header_mut();
        if !head.headers.contains_key(HOST)
            && let Some(authority) = head
                .uri
                .authority()
                .map(|authority| authority.as_str().to_owned())
        {
            // An authority that was parsed is a valid value.
            let _inserted = head.insert_header(HOST, authority);
        }
        join_cookies(head);
        head.extensions_mut().insert(downstream);
        Self {
            inner: Lent::new(inner),
            leash,
            sleep: Box::pin(tokio::time::sleep(patience.idle)),
            read_timeout: None,
        }
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        let (leash, inner) = (&self.leash, &mut self.inner);
        leash.leave_client(|| inner.take().map(Box::new).map(Client::Stream));
    }
}

/// Makes one `Cookie` of the pieces that an HTTP/2 client may send (RFC 9113 section 8.2.3): others read the first one only.
fn join_cookies(head: &mut RequestHeader) {
    let pieces: Vec<_> = head
        .headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if pieces.len() < 2 {
        return;
    }
    if let Ok(joined) = HeaderValue::from_bytes(&pieces.join(&b"; "[..])) {
        // Pieces of values, joined by what may stand in one, are a value.
        let _inserted = head.insert_header(COOKIE, joined);
    }
}

/// Waits for `waiting` as long as `leash` allows.
async fn on_leash<T>(
    leash: &Leash,
    sleep: &mut Pin<Box<Sleep>>,
    kind: ErrorType,
    waiting: impl Future<Output = Result<T>>,
) -> Result<T> {
    let mut waiting = pin!(waiting);
    poll_fn(|context| {
        if let Poll::Ready(outcome) = waiting.as_mut().poll(context) {
            return Poll::Ready(outcome);
        }
        let trip = leash.poll_trip(sleep, context);
        trip.map(|trip| Error::e_because(kind.clone(), "the stream may not stay open", trip))
    })
    .await
}

#[async_trait]
impl Session for ClientStream {
    fn req_header(&self) -> &RequestHeader {
        self.inner.req_header()
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        self.inner.req_header_mut()
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        let reading = self.inner.read_body_bytes();
        let reading = on_leash(&self.leash, &mut self.sleep, ErrorType::ReadError, reading);
        let Some(limit) = self.read_timeout else {
            return reading.await;
        };
        let read = tokio::time::timeout(limit, reading).await;
        read.unwrap_or_else(|_elapsed| Error::e_explain(ErrorType::ReadTimedout, "the next piece of a body"))
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        self.inner.drain_request_body().await
    }

    async fn write_response_header(&mut self, head: Box<ResponseHeader>, end: bool) -> Result<()> {
        self.inner.write_response_header(head, end)
    }

    async fn write_response_header_ref(&mut self, head: &ResponseHeader, end: bool) -> Result<()> {
        self.inner.write_response_header_ref(head, end)
    }

    async fn write_body(&mut self, data: Bytes, end: bool) -> Result<()> {
        let writing = self.inner.write_body(data, end);
        on_leash(&self.leash, &mut self.sleep, ErrorType::WriteError, writing).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        self.inner.write_trailers(trailers)
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let mut has_ended = false;
        for task in tasks {
            has_ended |= self.write_task(task).await.map_err(Error::into_down)?;
        }
        if has_ended {
            self.inner.finish().map_err(Error::into_down)?;
        }
        Ok(has_ended)
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.read_timeout = timeout;
    }

    fn get_read_timeout(&self) -> Option<Duration> {
        self.read_timeout
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.inner.set_write_timeout(timeout);
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        self.inner.get_write_timeout()
    }

    fn set_total_drain_timeout(&mut self, timeout: Option<Duration>) {
        self.inner.set_total_drain_timeout(timeout);
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.inner.get_total_drain_timeout()
    }

    fn request_summary(&self) -> String {
        self.inner.request_summary()
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.inner.response_written()
    }

    /// Resets the stream, so that what was sent cannot pass for a whole answer.
    async fn shutdown(&mut self, _code: u32, _reason: &str) {
        self.inner.shutdown_with_reason(h2::Reason::CANCEL);
    }

    fn is_body_done(&mut self) -> bool {
        self.inner.is_body_done()
    }

    async fn finish(&mut self) -> Result<()> {
        self.inner.finish()
    }

    fn is_body_empty(&mut self) -> bool {
        self.inner.is_body_empty()
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        if !no_body_expected && !self.inner.is_body_done() {
            return self.read_body_bytes().await;
        }
        let idling = self.inner.read_body_or_idle(true);
        on_leash(&self.leash, &mut self.sleep, ErrorType::ReadError, idling).await
    }

    fn body_bytes_sent(&self) -> usize {
        self.inner.body_bytes_sent()
    }

    fn body_bytes_read(&self) -> usize {
        self.inner.body_bytes_read()
    }

    fn digest(&self) -> Option<&Digest> {
        self.inner.digest()
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        self.inner.digest_mut()
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.inner.client_addr()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.inner.server_addr()
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        self.inner.pseudo_raw_h1_request_header()
    }

    fn enable_retry_buffering(&mut self) {
        self.inner.enable_retry_buffering();
    }

    fn retry_buffer_truncated(&self) -> bool {
        self.inner.retry_buffer_truncated()
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        self.inner.get_retry_buffer()
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(&mut self) -> Option<Messages> {
        None
    }

    fn restore_custom_message_reader(&mut self, _reader: Messages) -> Result<()> {
        no_messages()
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _writer: Box<dyn CustomMessageWrite>) -> Result<()> {
        no_messages()
    }
}

impl ClientStream {
    /// Writes one piece of an answer; whether it was the last.
    async fn write_task(&mut self, task: HttpTask) -> Result<bool> {
        match task {
            HttpTask::Header(head, end) => {
                self.inner.write_response_header(head, end)?;
                Ok(end)
            }
            HttpTask::Body(Some(data), end) if !data.is_empty() => {
                self.write_body(data, end).await?;
                Ok(end)
            }
            HttpTask::Body(_, end) => Ok(end),
            HttpTask::Trailer(trailers) => {
                if let Some(mut trailers) = trailers {
                    clean_trailers(&mut trailers);
                    self.inner.write_trailers(*trailers)?;
                }
                Ok(true)
            }
            HttpTask::Done => Ok(true),
            HttpTask::UpgradedBody(..) => {
                Error::e_explain(ErrorType::InternalError, "an upgraded body on an HTTP/2 stream")
            }
            HttpTask::Failed(error) => Err(error),
        }
    }
}

fn no_messages<T>() -> Result<T> {
    Error::e_explain(
        ErrorType::InternalError,
        "a stream has no messages beside its body",
    )
}
