//! What does one request carry from hook to hook? A verdict that decides, and observations that only tell.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use caracal_chassis::server::RequestId;
use caracal_model::{Anchors, ApplicationId, ZoneId};
use http::{HeaderMap, HeaderValue};
use pingora_error::{Error, ErrorType, Result};
use pingora_http::RequestHeader;
use tokio::time::Instant;
use url::Url;

use crate::admit::{Admission, Passage};
use crate::chance::Chance;
use crate::config::{Config, Timeouts};
use crate::connection::{Leash, Origin};
use crate::denial::Denial;
use crate::snapshot::routes::{self, Limits, Line};
use crate::source::Place;
use crate::stage::forward::Reachable;
use crate::upstream::ConnectionId;

/// The per-request state of the proxy.
#[derive(Debug)]
pub(crate) struct Context {
    /// What was decided. The only part later hooks act on.
    pub(crate) verdict: Verdict,
    /// Which route it takes.
    pub(crate) way: Way,
    /// Why a request that was let through was stopped on its way, if so.
    pub(crate) stopped: Option<Denial>,
    /// What was seen. Only told to logs, metrics and the ledger.
    pub(crate) seen: Observation,
    /// Its place among the requests of its source, until it has ended.
    pub(crate) place: Option<Place>,
    /// How far its answer went.
    pub(crate) answer: Answer,
    /// Where this goes if the request is given up before its end is recorded.
    pub(crate) leash: Option<Leash>,
}

impl Drop for Context {
    fn drop(&mut self) {
        if let Some(leash) = self.leash.take() {
            leash.leave_request(|| std::mem::replace(self, Self::new()));
        }
    }
}

/// What the client has of an upstream's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Not its head.
    NotBegun,
    /// The head, and more that ends as its framing says: a trailer may follow.
    OpenEnded,
    /// The head, and nothing may follow its body.
    Framed,
}

/// The route of the request, and its place on it until it ends.
#[derive(Debug, Default)]
pub(crate) struct Way {
    line: Option<Arc<Line>>,
    _place: Option<routes::Place>,
}

impl Way {
    /// Takes `line`, with a place on it for as long as the request lasts.
    ///
    /// # Errors
    /// Those of [`crate::snapshot::routes::Gate::enter`].
    pub(crate) fn enter(line: &Arc<Line>, source: IpAddr, speaks_for_many: bool) -> Result<Self, Denial> {
        let place = line.gate().enter(source, speaks_for_many)?;
        Ok(Self {
            line: Some(Arc::clone(line)),
            _place: Some(place),
        })
    }

    /// The route, unless the request takes none.
    pub(crate) fn line(&self) -> Option<&Line> {
        self.line.as_deref()
    }

    fn limits(&self) -> Option<&Limits> {
        self.line().map(|line| &line.rule().limits)
    }

    /// How long a body may be.
    pub(crate) fn request_bytes_max(&self, config: &Config) -> u64 {
        let own = self.limits().and_then(|limits| limits.body_bytes_max);
        own.unwrap_or(config.request_bytes_max)
    }

    /// How long the gateway waits on this route.
    pub(crate) fn timeouts(&self, config: &Config) -> Timeouts {
        let mut timeouts = config.timeouts;
        let Some(limits) = self.limits() else {
            return timeouts;
        };
        if let Some(timeout) = limits.timeout {
            timeouts.upstream = timeout;
            // The client is listened to while its upstream thinks, and may be silent as long.
            timeouts.read = timeouts.read.max(timeout + READ_SLACK);
        }
        if let Some(idle) = limits.idle_timeout {
            timeouts.stream_idle = idle;
        }
        timeouts
    }
}

/// How much longer than the upstream's answer a client may be silent.
const READ_SLACK: Duration = Duration::from_secs(5);

/// What became of the request.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Not decided yet.
    Pending,
    /// The gateway answered by itself (health).
    Served,
    /// All stages proved that it may go on.
    Admitted(Box<Admission>),
    /// A route marked as public let it pass.
    Public(Box<Passage>),
    /// It was refused.
    Denied(Denial),
}

impl Verdict {
    /// Where the request goes, if it goes anywhere.
    pub(crate) fn reachable(&self) -> Option<&Reachable> {
        match self {
            Self::Admitted(admission) => Some(admission.reachable()),
            Self::Public(passage) => Some(passage.reachable()),
            Self::Pending | Self::Served | Self::Denied(_) => None,
        }
    }
}

/// Facts about the request, for telling only.
#[derive(Debug)]
pub(crate) struct Observation {
    /// Name of the request in every log, event and answer.
    pub(crate) request_id: RequestId,
    /// What its names are made from; absent where there is no randomness.
    pub(crate) chance: Option<Chance>,
    /// When its head was complete.
    pub(crate) started: Instant,
    /// Whom it came from: the client behind a trusted proxy, else the peer.
    pub(crate) source: IpAddr,
    /// HTTP method.
    pub(crate) method: Box<str>,
    /// The resource meant.
    pub(crate) resource: Option<Box<str>>,
    /// Who asks, once proven.
    pub(crate) caller: Option<SeenCaller>,
    /// First 16 hexadecimal digits of the SHA-256 of the bearer.
    pub(crate) subject_fingerprint: Option<Box<str>>,
    /// Trace id, 32 hexadecimal digits.
    pub(crate) trace_id: Option<Box<str>>,
    /// The `traceparent` that goes upstream.
    pub(crate) traceparent: Option<HeaderValue>,
    /// When the request went to the upstream.
    pub(crate) forwarded: Option<Instant>,
    /// When the head of the upstream's answer was there.
    pub(crate) answered: Option<Instant>,
    /// Whether anything of an answer came, an interim one included.
    pub(crate) heard_upstream: bool,
    /// Status of the upstream's answer.
    pub(crate) upstream_status: Option<u16>,
    /// Body bytes received from the client.
    pub(crate) request_bytes: u64,
    /// Body bytes sent on to the client.
    pub(crate) response_bytes: u64,
    /// How often this request tried to reach its upstream.
    pub(crate) attempts: usize,
    /// The connection to the upstream that it goes over.
    pub(crate) connection: Option<ConnectionId>,
}

/// The proven caller.
#[derive(Clone, Debug)]
pub(crate) struct SeenCaller {
    /// Its zone.
    pub(crate) zone: ZoneId,
    /// Its application.
    pub(crate) client: ApplicationId,
    /// `application` or `user`.
    pub(crate) subject_kind: &'static str,
    /// Name of the mandate.
    pub(crate) jti: Box<str>,
    /// What the mandate stands on.
    pub(crate) anchors: Anchors,
}

impl Context {
    /// Nothing decided, nothing seen.
    pub(crate) fn new() -> Self {
        let chance = Chance::draw();
        let request = chance.as_ref().map(Chance::request);
        Self {
            verdict: Verdict::Pending,
            way: Way::default(),
            stopped: None,
            place: None,
            answer: Answer::NotBegun,
            leash: None,
            seen: Observation {
                // Without randomness the name is not unique, which costs a log line its clarity and nothing else.
                request_id: RequestId::from_random(&request.unwrap_or_default()),
                chance,
                started: Instant::now(),
                source: IpAddr::from([0, 0, 0, 0]),
                method: Box::default(),
                resource: None,
                caller: None,
                subject_fingerprint: None,
                trace_id: None,
                traceparent: None,
                forwarded: None,
                answered: None,
                heard_upstream: false,
                upstream_status: None,
                request_bytes: 0,
                response_bytes: 0,
                attempts: 0,
                connection: None,
            },
        }
    }

    /// Stops a request that was let through, for `denial`.
    ///
    /// # Errors
    /// Always: the error that makes Pingora end the exchange.
    pub(crate) fn stop<T>(&mut self, denial: Denial) -> Result<T> {
        self.stopped = Some(denial);
        Error::e_explain(ErrorType::Custom("stopped"), "the request may not go on")
    }
}

/// A request as it arrived: untrusted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inbound<'a> {
    head: &'a RequestHeader,
    origin: &'a Origin,
}

impl<'a> Inbound<'a> {
    /// The request with this head, from there.
    pub(crate) fn new(head: &'a RequestHeader, origin: &'a Origin) -> Self {
        Self { head, origin }
    }

    /// Its head.
    pub(crate) fn head(&self) -> &'a RequestHeader {
        self.head
    }

    /// Its headers.
    pub(crate) fn headers(&self) -> &'a HeaderMap {
        &self.head.headers
    }

    /// The other end of the connection.
    pub(crate) fn peer(&self) -> SocketAddr {
        self.origin.peer
    }

    /// Whether it came in clear where it is to be sent to TLS.
    pub(crate) fn belongs_to_tls(&self) -> bool {
        self.origin.belongs_to_tls
    }

    /// Whether it came through TLS terminated here.
    pub(crate) fn is_tls(&self) -> bool {
        self.origin.is_tls
    }

    /// The certificate shown in the handshake that this gateway made (DER): the client holds its key.
    pub(crate) fn client_certificate(&self) -> Option<&'a [u8]> {
        self.origin.certificate.as_deref()
    }

    /// The path as sent, percent-encoding and all; `None` for a target that is not a path, or not text.
    pub(crate) fn raw_path(&self) -> Option<&'a str> {
        let path = self.head.uri.path();
        (self.head.raw_path_is_utf8() && path.starts_with('/')).then_some(path)
    }

    /// The query as sent, without `?`.
    pub(crate) fn raw_query(&self) -> Option<&'a str> {
        self.head.uri.query()
    }

    /// The host the client asked for, in lower case and without a port. Pingora has already refused requests whose
    /// target and `Host` disagree.
    pub(crate) fn host(&self) -> Option<String> {
        let host = self.headers().get(http::header::HOST)?.to_str().ok()?;
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        Some(name.trim_end_matches('.').to_ascii_lowercase())
    }

    /// Its address in TLS: at the public URL of its host when there is one, else at the usual port. `None` when it does not
    /// name a host, or names a target that is no path.
    pub(crate) fn in_tls(&self, public_urls: &[String]) -> Option<String> {
        let host = self.host()?;
        // What is no host must not send anybody anywhere else.
        let parsed = Url::parse(&format!("https://{host}/")).ok()?;
        if parsed.host_str() != Some(host.as_str()) || parsed.path() != "/" || parsed.port().is_some() {
            return None;
        }
        let is_here = |url: &Url| url.scheme() == "https" && url.host_str() == Some(host.as_str());
        let public = public_urls
            .iter()
            .filter_map(|url| Url::parse(url).ok())
            .find(is_here);
        let port = public.and_then(|url| url.port()).map(|port| format!(":{port}"));
        let query = self.raw_query().map(|query| format!("?{query}"));
        let path = self.raw_path()?;
        let (port, query) = (port.unwrap_or_default(), query.unwrap_or_default());
        Some(format!("https://{host}{port}{path}{query}"))
    }

    /// The declared length of the body, when there is one.
    pub(crate) fn content_length(&self) -> Option<u64> {
        self.headers()
            .get(http::header::CONTENT_LENGTH)?
            .to_str()
            .ok()?
            .trim()
            .parse()
            .ok()
    }
}
