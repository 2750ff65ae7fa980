//! How is an identity or credential provider called? Over TLS, at a checked address, with limits on everything.
//!
//! Kept connections were opened to checked addresses by the same rules, so reusing one skips only the lookup.

mod connect;
mod trust;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, HeaderName, Method, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use url::Url;

use crate::{EgressError, Guard, Resolve};
use connect::{Connector, Refused};

pub use trust::TrustError;

/// Connections kept per host while nothing uses them: token endpoints are called now and then, not constantly.
const IDLE_CONNECTIONS: usize = 4;
/// How long they are kept; shorter than what servers usually allow.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long checked addresses of a name are reused.
const CACHE_ADDRESSES_FOR: Duration = Duration::from_secs(5);

/// What a client may reach, and whom it believes.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Hosts that may have private, unique-local or shared addresses; exact names. All others must be public.
    pub private_hosts: Vec<String>,
    /// Whether loopback addresses may be dialled. For development only.
    pub allow_loopback: bool,
    /// Certificate authorities in PEM, trusted besides the machine's.
    pub extra_ca_file: Option<PathBuf>,
}

/// Calls providers over HTTPS. Redirects are not followed. Cheap to clone; clones share the connections.
#[derive(Clone, Debug)]
pub struct Client {
    inner: legacy::Client<Connector, Full<Bytes>>,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    method: Method,
    url: &'a Url,
    hosts: Option<&'a [String]>,
    headers: HeaderMap,
    body: Secrecy<Bytes>,
    timeout: Duration,
    response_bytes_max: usize,
}

impl<'a> Request<'a> {
    /// A request with this method and body.
    pub fn new(method: Method, url: &'a Url, body: impl Into<Bytes>) -> Self {
        Self {
            method,
            url,
            hosts: None,
            headers: HeaderMap::new(),
            body: Secrecy(body.into()),
            timeout: Duration::from_secs(5),
            response_bytes_max: 64 << 10,
        }
    }

    /// A GET.
    pub fn get(url: &'a Url) -> Self {
        Self::new(Method::GET, url, Bytes::new())
    }

    /// A POST of a form (`application/x-www-form-urlencoded`).
    pub fn post_form(url: &'a Url, form: impl Into<Bytes>) -> Self {
        let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
        Self::new(Method::POST, url, form).header(CONTENT_TYPE, form_type)
    }

    /// A POST of a JSON document.
    pub fn post_json(url: &'a Url, document: impl Into<Bytes>) -> Self {
        let json_type = HeaderValue::from_static("application/json");
        Self::new(Method::POST, url, document).header(CONTENT_TYPE, json_type)
    }

    /// Sets a header. Mark a value that holds a secret with [`HeaderValue::set_sensitive`].
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    /// Goes only to one of these hosts (exact names, compared without case); to none when there are none.
    #[must_use]
    pub fn only_to(mut self, hosts: &'a [String]) -> Self {
        self.hosts = Some(hosts);
        self
    }

    /// The time limit from the call to the last byte of the answer. Default 5 s.
    #[must_use]
    pub fn within(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Bytes of the answer's body at most. Default 64 KiB.
    #[must_use]
    pub fn at_most(mut self, response_bytes: usize) -> Self {
        self.response_bytes_max = response_bytes;
        self
    }
}

/// Bytes that are not printed.
#[derive(Clone)]
struct Secrecy<T>(T);

impl<T> std::fmt::Debug for Secrecy<T> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("[redacted]")
    }
}

/// A complete answer. `Debug` leaves out the body, which may be a credential.
#[derive(Clone)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl std::fmt::Debug for Response {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Response")
            .field("status", &self.status)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

/// Why there is no answer. No text of it contains anything of the request but its host rules.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The rules do not allow to call this URL; nothing was sent.
    #[error("the URL may not be called")]
    Refused(#[source] EgressError),
    /// No TLS connection to a trusted server of that name; nothing was sent.
    #[error("no connection")]
    Connect(#[source] Box<dyn std::error::Error + Send + Sync>),
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
        matches!(self, Self::Refused(_) | Self::Connect(_))
    }
}

impl Client {
    /// A client without open connections.
    ///
    /// # Errors
    /// [`TrustError`] when a file of authorities was named and cannot be used: trusting less than was asked for would
    /// show much later.
    pub fn new(resolver: Arc<dyn Resolve>, settings: &Settings) -> Result<Self, TrustError> {
        let tls = trust::client_config(settings.extra_ca_file.as_deref())?;
        let guard = Guard::of_providers(
            resolver,
            &settings.private_hosts,
            settings.allow_loopback,
            CACHE_ADDRESSES_FOR,
        );
        let inner = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build(Connector::new(guard, tls));
        Ok(Self { inner })
    }

    /// Sends one request and reads the whole answer.
    ///
    /// # Errors
    /// [`ClientError`]. An answer of any status is not an error.
    pub async fn send(&self, request: Request<'_>) -> Result<Response, ClientError> {
        let timeout = request.timeout;
        tokio::time::timeout(timeout, self.exchange(request))
            .await
            .map_err(|_elapsed| ClientError::Timeout(timeout))?
    }

    async fn exchange(&self, request: Request<'_>) -> Result<Response, ClientError> {
        check_host(request.url, request.hosts).map_err(ClientError::Refused)?;
        // The fragment is not part of a request, and an `http::Uri` may not have one.
        let address = request.url.as_str().split('#').next().unwrap_or_default();
        let mut message = http::Request::new(Full::new(request.body.0));
        *message.uri_mut() = address
            .parse()
            .map_err(|_malformed| ClientError::Refused(EgressError::Url))?;
        *message.method_mut() = request.method;
        *message.headers_mut() = request.headers;
        let answer = self.inner.request(message).await.map_err(failed)?;
        let (head, body) = answer.into_parts();
        Ok(Response {
            status: head.status,
            headers: head.headers,
            body: read_all(body, request.response_bytes_max).await?,
        })
    }
}

/// What does not depend on an address is judged here, because a kept connection asks nobody.
fn check_host(url: &Url, hosts: Option<&[String]>) -> Result<(), EgressError> {
    if url.scheme() != "https" || !url.username().is_empty() || url.password().is_some() {
        return Err(EgressError::Url);
    }
    let host = url.host_str().ok_or(EgressError::Url)?;
    let Some(hosts) = hosts else { return Ok(()) };
    let is_listed = hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(host));
    is_listed.then_some(()).ok_or(EgressError::Host)
}

fn failed(error: legacy::Error) -> ClientError {
    if !error.is_connect() {
        return ClientError::Broken(error.into());
    }
    match Refused::take(&error) {
        Some(refused) => ClientError::Refused(refused),
        None => ClientError::Connect(error.into()),
    }
}

async fn read_all(body: Incoming, limit: usize) -> Result<Bytes, ClientError> {
    let mut body = Limited::new(body, limit);
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                ClientError::TooLarge(limit)
            } else {
                ClientError::Broken(error)
            }
        })?;
        if let Ok(data) = frame.into_data() {
            whole.extend_from_slice(&data);
        }
    }
    Ok(whole.freeze())
}

#[cfg(test)]
mod tests;
