//! Stage 7: to which address does the request go, and what does it mean when it does not arrive? One DNS lookup at
//! most; the address dialled is one that was checked.

pub(crate) mod handshake;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use caracal_egress::{EgressError, Target};
use caracal_model::ZoneId;
use caracal_wire::sts::AuthMode;
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use http::Version;
use http::header::UPGRADE;
use pingora_core::protocols::http::ServerSession as HttpSession;
use pingora_core::protocols::{ALPN, TcpKeepalive};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorSource, ErrorType, RetryType};
use pingora_http::RequestHeader;
use pingora_proxy::Session;
use tokio::time::{Instant, timeout};
use url::Url;

use super::exchange::Credential;
use crate::Gateway;
use crate::config::{Timeouts, UpstreamSettings};
use crate::connection::Trip;
use crate::context::Inbound;
use crate::denial::Denial;
use crate::upstream::{Check, ConnectionId, Failure, Pool};

/// Proof that the upstream may be dialled and may receive the credential.
#[derive(Debug)]
pub(crate) struct Reachable {
    target: Target,
    /// Upstreams that serve the same, for a public route that has several.
    others: Vec<Target>,
    /// What those are called together.
    pool: Option<Arc<str>>,
    /// What health checks know of the addresses.
    checks: Vec<Arc<Check>>,
    /// The addresses in the order in which they are tried, decided when the first one is.
    order: OnceLock<Vec<SocketAddr>>,
}

impl Reachable {
    fn new(target: Target) -> Self {
        Self {
            target,
            others: Vec::new(),
            pool: None,
            checks: Vec::new(),
            order: OnceLock::new(),
        }
    }

    /// Where to; the first of several.
    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// What the addresses are known under.
    fn name(&self) -> &str {
        self.pool.as_deref().unwrap_or(self.target.authority())
    }

    /// Decided at the first look, so that the request whose turn it is to try an address is one that comes to it.
    fn order(&self, gateway: &Gateway) -> &[SocketAddr] {
        self.order.get_or_init(|| {
            let mut addresses = self.target.addresses().to_vec();
            for address in self.others.iter().flat_map(Target::addresses) {
                if !addresses.contains(address) {
                    addresses.push(*address);
                }
            }
            let is_ill = |address| self.checks.iter().any(|check| check.is_ill(address));
            gateway
                .outliers
                .order(self.name(), &addresses, is_ill, Instant::now())
        })
    }

    /// Whether there is an address that the first `attempts` did not try.
    pub(crate) fn has_more(&self, attempts: usize) -> bool {
        let count = self.order.get().map_or(0, Vec::len);
        attempts < count.min(ATTEMPTS_MAX)
    }

    /// The address of an attempt, counted from 0: each takes the next.
    fn address(&self, attempt: usize) -> Option<SocketAddr> {
        let order = self.order.get()?;
        order.get(attempt % order.len().max(1)).copied()
    }

    /// The one of several upstreams that the last of so many attempts went to; `None` where there is only one.
    pub(crate) fn chosen(&self, attempts: usize) -> Option<&Target> {
        if self.others.is_empty() {
            return None;
        }
        let address = self.address(attempts.saturating_sub(1))?;
        Some(self.target_at(address))
    }

    fn target_at(&self, address: SocketAddr) -> &Target {
        let other = |target: &&Target| target.addresses().contains(&address);
        if self.others.is_empty() || self.target.addresses().contains(&address) {
            return &self.target;
        }
        self.others.iter().find(other).unwrap_or(&self.target)
    }

    /// Notes that the last of so many attempts was answered.
    pub(crate) fn answered(&self, gateway: &Gateway, attempts: usize) {
        let has_several = self.order.get().is_some_and(|order| order.len() > 1);
        if has_several && let Some(address) = self.address(attempts.saturating_sub(1)) {
            gateway.outliers.answered(self.name(), address);
        }
    }

    /// Notes that the last of so many attempts reached nobody, or nobody who answers.
    pub(crate) fn failed(&self, gateway: &Gateway, attempts: usize, failure: Failure) {
        let Some((order, address)) = self.order.get().zip(self.address(attempts.saturating_sub(1))) else {
            return;
        };
        let upstream = self.name();
        if gateway
            .outliers
            .failed(upstream, order, address, failure, Instant::now())
        {
            tracing::warn!(upstream, %address, "an address of the upstream fails and is left alone for a while");
        }
    }

    /// Notes that nothing was sent in the last of so many attempts, for a reason of the gateway's own.
    pub(crate) fn untried(&self, gateway: &Gateway, attempts: usize) {
        if let Some(address) = self.address(attempts.saturating_sub(1)) {
            gateway.outliers.untried(self.name(), address, Instant::now());
        }
    }
}

/// Refuses a body that is declared to be too long, before anything is spent on the request.
///
/// # Errors
/// [`Denial::BodyTooLarge`].
pub(crate) fn within_limits(request_bytes_max: u64, request: &Inbound<'_>) -> Result<(), Denial> {
    match request.content_length() {
        Some(length) if length > request_bytes_max => Err(Denial::BodyTooLarge),
        _ => Ok(()),
    }
}

/// Resolves and checks the upstream, and whether it may see the credential.
///
/// # Errors
/// [`Denial::UpstreamBlocked`], [`Denial::CredentialHost`].
pub(crate) async fn reach(gateway: &Gateway, credential: &Credential) -> Result<Reachable, Denial> {
    let target = gateway.egress.resolve(credential.url()).await;
    let target = target.map_err(|error| not_addressable(credential.url(), &error))?;
    let reachable = Reachable::new(target);
    let upstream = credential.upstream();
    let is_custody = matches!(
        upstream.auth_mode,
        AuthMode::ProviderOauth | AuthMode::ProviderApikey | AuthMode::AwsSigv4
    );
    let host = reachable.target.host();
    let hosts = &upstream.allowed_token_hosts;
    if is_custody && !hosts.is_empty() && !hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(host)) {
        return Err(Denial::CredentialHost);
    }
    Ok(reachable)
}

/// Resolves and checks the upstreams of a public route, which get no credential. One that cannot be resolved does without as
/// long as another can, and is not waited for long.
///
/// # Errors
/// [`Denial::UpstreamBlocked`].
pub(crate) async fn reach_pool(
    gateway: &Gateway,
    pool: &Pool,
    checks: &[Arc<Check>],
) -> Result<Reachable, Denial> {
    let look_up = async |url| (url, gateway.egress.resolve(url).await);
    let mut lookups: FuturesOrdered<_> = pool.urls().map(look_up).collect();
    let mut targets: Vec<Target> = Vec::with_capacity(1);
    let mut denial = Denial::UpstreamBlocked;
    loop {
        let next = lookups.next();
        let looked_up = if targets.is_empty() {
            next.await
        } else {
            timeout(LATECOMER_MAX, next).await.unwrap_or_default()
        };
        match looked_up {
            None => break,
            Some((_url, Ok(target))) => targets.push(target),
            Some((url, Err(error))) => denial = not_addressable(url, &error),
        }
    }
    let mut targets = targets.into_iter();
    let target = targets.next().ok_or(denial)?;
    let others: Vec<Target> = targets.collect();
    let is_pool = pool.urls().nth(1).is_some();
    Ok(Reachable {
        others,
        pool: is_pool.then(|| Arc::clone(pool.name())),
        checks: checks.to_vec(),
        ..Reachable::new(target)
    })
}

fn not_addressable(url: &Url, error: &EgressError) -> Denial {
    let error = error as &dyn std::error::Error;
    tracing::warn!(
        upstream.host = url.host_str(),
        error,
        "the upstream is not addressable"
    );
    Denial::UpstreamBlocked
}

/// The peer for the given attempt: each attempt takes the next checked address. Connections are shared within a zone
/// only, because some servers bind authority to a connection.
pub(crate) fn peer(
    gateway: &Gateway,
    timeouts: &Timeouts,
    request: &RequestHeader,
    reachable: &Reachable,
    zone: Option<&ZoneId>,
    attempt: usize,
) -> Option<HttpPeer> {
    reachable.order(gateway);
    let address = reachable.address(attempt)?;
    let mut peer = peer_at(gateway, timeouts, request, reachable.target_at(address), address);
    let mut group = DefaultHasher::new();
    zone.map(ZoneId::as_str).hash(&mut group);
    peer.group_key = group.finish();
    Some(peer)
}

/// The peer for a request to this address of `target`, whoever makes it.
pub(crate) fn peer_at(
    gateway: &Gateway,
    timeouts: &Timeouts,
    request: &RequestHeader,
    target: &Target,
    address: SocketAddr,
) -> HttpPeer {
    let sni = if target.is_tls() {
        target.host().to_owned()
    } else {
        String::new()
    };
    let mut peer = HttpPeer::new(address, target.is_tls(), sni);
    peer.client_cert_key = gateway
        .identity
        .as_ref()
        .and_then(|identity| identity.for_target(target));
    let options = &mut peer.options;
    options.alpn = protocols(&gateway.config.upstreams, request, target);
    options.max_h2_streams = STREAMS_MAX;
    options.h2_stream_window_size = Some(STREAM_WINDOW_BYTES);
    options.h2_connection_window_size = Some(CONNECTION_WINDOW_BYTES);
    options.connection_timeout = Some(timeouts.connect);
    options.total_connection_timeout = Some(timeouts.connect);
    // The leash of the connection tells the head from the rest; this is the backstop.
    options.read_timeout = Some(timeouts.upstream.max(timeouts.stream_idle));
    options.write_timeout = Some(timeouts.write);
    options.idle_timeout = Some(KEEP_FOR);
    options.tcp_keepalive = Some(TcpKeepalive {
        idle: PROBE_AFTER,
        interval: PROBE_AFTER,
        count: 3,
        #[cfg(target_os = "linux")]
        user_timeout: PROBE_AFTER,
    });
    // A connection on which nobody is there would be handed out on and on.
    options.h2_ping_interval = Some(gateway.config.upstreams.http2_ping);
    peer
}

/// What may be spoken on the connection for `request`. A WebSocket handshake and an HTTP/1.0 client need HTTP/1.1: neither
/// can be carried over HTTP/2 here.
fn protocols(settings: &UpstreamSettings, request: &RequestHeader, target: &Target) -> ALPN {
    let needs_http1 = request.version <= Version::HTTP_10 || request.headers.contains_key(UPGRADE);
    if needs_http1 {
        ALPN::H1
    } else if target.is_tls() && settings.http2 {
        ALPN::H2H1
    } else if settings.speaks_h2c(target) {
        ALPN::H2
    } else {
        ALPN::H1
    }
}

/// How long an upstream of several is waited for to be resolved once another one is.
const LATECOMER_MAX: Duration = Duration::from_millis(50);

/// Attempts to reach an upstream: a kept connection that was closed, then other addresses.
pub(crate) const ATTEMPTS_MAX: usize = 4;

/// What an exchange that failed before its answer says about the address, if anything: nothing when a kept connection was
/// closed in the meantime, when the upstream said that it goes away in good order, or when it was the client's doing.
pub(crate) fn its_failure(
    error: &Error,
    was_kept: bool,
    connection: Option<ConnectionId>,
) -> Option<Failure> {
    let closed_meanwhile = was_kept && error.retry == RetryType::ReusedOnly;
    if *error.esource() != ErrorSource::Upstream || closed_meanwhile || says_goodbye(error) {
        return None;
    }
    let has_ended = matches!(
        error.etype(),
        ErrorType::ConnectionClosed | ErrorType::ReadError | ErrorType::WriteError | ErrorType::H2Error
    );
    let connection = connection.filter(|_connection| has_ended && !is_of_one_stream(error));
    Some(connection.map_or(Failure::Request, Failure::Connection))
}

/// Whether an HTTP/2 upstream ends the connection in good order (`GOAWAY` with `NO_ERROR`, RFC 9113 section 6.8).
fn says_goodbye(error: &Error) -> bool {
    let cause = error.root_cause().downcast_ref::<h2::Error>();
    cause.is_some_and(|cause| {
        cause.is_go_away() && cause.is_remote() && cause.reason() == Some(h2::Reason::NO_ERROR)
    })
}

/// Whether only one request of an HTTP/2 connection failed.
fn is_of_one_stream(error: &Error) -> bool {
    let cause = error.root_cause().downcast_ref::<h2::Error>();
    cause.is_some_and(h2::Error::is_reset)
}

/// Whether a request that failed after it had been connected may be sent again on another connection: its method is
/// idempotent (RFC 9110 section 9.2.2), what was sent of its body is still at hand, and not a byte of an answer came.
/// Which errors mean that nobody is at work on it says Pingora (`error.retry`).
pub(crate) fn may_repeat(session: &Session, error: &Error) -> bool {
    let downstream: &HttpSession = session.as_ref();
    session.req_header().method.is_idempotent()
        && !downstream.retry_buffer_truncated()
        && session.response_written().is_none()
        && !heard_something(error)
}

/// Keeps one answer from changing how an address is spoken to for everybody, for ever: Pingora would use HTTP/1.1 from then on. An
/// upstream that breaks HTTP/2, or refuses it for one request, has answered: the request is not sent again.
pub(crate) fn forget_downgrade(error: &mut Error) {
    if matches!(error.etype(), ErrorType::InvalidH2 | ErrorType::H2Downgrade) {
        error.etype = ErrorType::H2Error;
        error.set_retry(false);
    }
}

/// Whether a connection ended in the middle of an answer's head: an HTTP/1.1 upstream has begun to answer then. Pingora
/// says so in words only; what it says otherwise counts as having heard something.
fn heard_something(error: &Error) -> bool {
    let ended_early = matches!(error.etype(), ErrorType::ConnectionClosed | ErrorType::ReadError);
    let context = error.context.as_ref().map_or("", |context| context.as_str());
    ended_early && context.contains("response headers") && !context.ends_with("already read: 0")
}

/// Requests at a time on one HTTP/2 connection to an upstream.
const STREAMS_MAX: usize = 64;
/// What an HTTP/2 upstream may send on one stream before the client has taken it.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
/// The same for a connection: enough for every stream, so that one client that does not read holds up no other.
const CONNECTION_WINDOW_BYTES: u32 = 64 * STREAM_WINDOW_BYTES;

/// How long an unused connection to an upstream is kept.
const KEEP_FOR: Duration = Duration::from_secs(90);
/// When a silent connection is probed, and how long what was sent may go without acknowledgement.
const PROBE_AFTER: Duration = Duration::from_secs(30);

/// What a failed exchange with the upstream means to the client.
pub(crate) fn denial_of(error: &Error, trip: Option<&Trip>) -> Denial {
    if let Some(denial) = trip.and_then(denial_of_trip) {
        return denial;
    }
    let is_timeout = matches!(
        error.etype(),
        ErrorType::ConnectTimedout
            | ErrorType::ReadTimedout
            | ErrorType::WriteTimedout
            | ErrorType::TLSHandshakeTimedout
    );
    match error.esource() {
        ErrorSource::Upstream if is_timeout => Denial::UpstreamTimeout,
        ErrorSource::Downstream => match error.etype() {
            ErrorType::InvalidHTTPHeader => Denial::Unbuildable("header"),
            // Bytes after the request: a client that pipelines.
            ErrorType::ConnectError => Denial::BadRequest,
            _ => Denial::ClientGone,
        },
        ErrorSource::Upstream | ErrorSource::Internal | ErrorSource::Unset => Denial::UpstreamUnreachable,
    }
}

/// What a connection that was not allowed to stay as it was means to the client of the request on it.
pub(crate) fn denial_of_trip(trip: &Trip) -> Option<Denial> {
    match trip {
        Trip::Revoked(anchor) => Some(Denial::Revoked(anchor.clone())),
        Trip::Expired => Some(Denial::ExpiredMeanwhile),
        Trip::UpstreamSilent => Some(Denial::UpstreamTimeout),
        Trip::Stopping => Some(Denial::Stopping),
        Trip::Idle | Trip::SlowHead => None,
    }
}
