//! How does a service call another one? With kept connections, a time limit and a limit on what it will read.

mod connect;
#[cfg(test)]
mod tests;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use connect::Connector;

/// How much of everything one client may use.
#[derive(Clone, Debug)]
pub struct ClientLimits {
    /// From the call to the last byte of the answer. Default 5 s.
    pub timeout: Duration,
    /// To open a connection. Default 1 s.
    pub connect_timeout: Duration,
    /// Bytes of the answer's body. Default 1 MiB.
    pub response_bytes: usize,
    /// Connections kept open per host while nothing uses them. Default 64.
    pub idle_connections: usize,
    /// How long they are kept. Default 30 s: shorter than the servers' 60 s, so that the server is not the one who
    /// closes.
    pub idle_timeout: Duration,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(1),
            response_bytes: 1 << 20,
            idle_connections: 64,
            idle_timeout: Duration::from_secs(30),
        }
    }
}

/// Calls `http://` addresses and `unix:/path/of.sock` ones. Redirects are not followed: an answer is what the called
/// service said. Cheap to clone; clones share the connections.
#[derive(Clone, Debug)]
pub struct Client {
    inner: legacy::Client<Connector, Full<Bytes>>,
    limits: ClientLimits,
}

/// A complete answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL or a header of the call is malformed: a mistake on this side.
    #[error("the request is malformed")]
    Request(#[source] http::Error),
    /// No connection: nothing was sent, another try is safe.
    #[error("no connection")]
    Connect(#[source] legacy::Error),
    /// No complete answer in time. Whether the call had an effect is not known.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The connection broke, or the answer is not HTTP. Whether the call had an effect is not known.
    #[error("the connection broke")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The answer is larger than allowed.
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
}

impl ClientError {
    /// Whether nothing was sent, so that the call may be repeated whatever it does.
    pub fn is_unsent(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Request(_))
    }
}

impl Client {
    /// A client without open connections.
    pub fn new(limits: ClientLimits) -> Self {
        let inner = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(limits.idle_timeout)
            .pool_max_idle_per_host(limits.idle_connections)
            .build(Connector::new(limits.connect_timeout));
        Self { inner, limits }
    }

    /// Sends one request and reads the whole answer. Costs one round trip on a kept connection.
    ///
    /// `url` is `http://host:port/path?query`; for a Unix socket see [`unix_url`].
    ///
    /// # Errors
    /// See [`ClientError`]. An answer of any status is not an error.
    pub async fn request(
        &self,
        method: Method,
        url: &str,
        headers: HeaderMap,
        body: impl Into<Bytes>,
    ) -> Result<Response, ClientError> {
        self.request_within(self.limits.timeout, method, url, headers, body)
            .await
    }

    /// The same with a time limit of its own.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn request_within(
        &self,
        timeout: Duration,
        method: Method,
        url: &str,
        headers: HeaderMap,
        body: impl Into<Bytes>,
    ) -> Result<Response, ClientError> {
        let uri = Uri::try_from(url).map_err(|error| ClientError::Request(error.into()))?;
        let mut request = Request::new(Full::new(body.into()));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        tokio::time::timeout(timeout, self.exchange(request))
            .await
            .map_err(|_elapsed| ClientError::Timeout(timeout))?
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Response, ClientError> {
        let answer = self.inner.request(request).await.map_err(|error| {
            if error.is_connect() {
                ClientError::Connect(error)
            } else {
                ClientError::Broken(error.into())
            }
        })?;
        let (head, body) = answer.into_parts();
        let body = read_all(body, self.limits.response_bytes).await?;
        Ok(Response {
            status: head.status,
            headers: head.headers,
            body,
        })
    }
}

/// The URL of `path_and_query` at the service behind the Unix socket `socket`. The authority is the socket's path in
/// hexadecimal, because a URL has no better place for it.
pub fn unix_url(socket: &str, path_and_query: &str) -> String {
    format!("unix://{}{path_and_query}", hex::encode(socket))
}

async fn read_all(mut body: Incoming, limit: usize) -> Result<Bytes, ClientError> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ClientError::Broken(error.into()))?;
        if let Ok(data) = frame.into_data() {
            if whole.len() + data.len() > limit {
                return Err(ClientError::TooLarge(limit));
            }
            whole.extend_from_slice(&data);
        }
    }
    Ok(whole.freeze())
}
