//! Stage 7: to which address does the request go, and what does it mean when it does not arrive? One DNS lookup at
//! most; the address dialled is one that was checked.

pub(crate) mod handshake;

use std::hash::{DefaultHasher, Hash, Hasher};

use caracal_egress::Target;
use caracal_model::ZoneId;
use caracal_wire::sts::AuthMode;
use pingora_core::protocols::TcpKeepalive;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorSource, ErrorType};
use url::Url;

use super::exchange::Credential;
use crate::Gateway;
use crate::config::Timeouts;
use crate::connection::Trip;
use crate::context::Inbound;
use crate::denial::Denial;

/// Proof that the upstream may be dialled and may receive the credential.
#[derive(Debug)]
pub(crate) struct Reachable(Target);

impl Reachable {
    /// Where to.
    pub(crate) fn target(&self) -> &Target {
        &self.0
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
    let reachable = reach_url(gateway, credential.url()).await?;
    let upstream = credential.upstream();
    let is_custody = matches!(
        upstream.auth_mode,
        AuthMode::ProviderOauth | AuthMode::ProviderApikey | AuthMode::AwsSigv4
    );
    let host = reachable.target().host();
    let hosts = &upstream.allowed_token_hosts;
    if is_custody && !hosts.is_empty() && !hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(host)) {
        return Err(Denial::CredentialHost);
    }
    Ok(reachable)
}

/// Resolves and checks an upstream that gets no credential.
///
/// # Errors
/// [`Denial::UpstreamBlocked`].
pub(crate) async fn reach_url(gateway: &Gateway, url: &Url) -> Result<Reachable, Denial> {
    gateway.egress.resolve(url).await.map(Reachable).map_err(|error| {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(
            upstream.host = url.host_str(),
            error,
            "the upstream is not addressable"
        );
        Denial::UpstreamBlocked
    })
}

/// The peer for the given attempt: each attempt takes the next checked address. Connections are shared within a zone
/// only, because some servers bind authority to a connection.
pub(crate) fn peer(
    timeouts: &Timeouts,
    target: &Target,
    zone: Option<&ZoneId>,
    attempt: usize,
) -> Option<HttpPeer> {
    let addresses = target.addresses();
    let address = addresses.get(attempt % addresses.len().max(1))?;
    let sni = if target.is_tls() {
        target.host().to_owned()
    } else {
        String::new()
    };
    let mut peer = HttpPeer::new(address, target.is_tls(), sni);
    let mut group = DefaultHasher::new();
    zone.map(ZoneId::as_str).hash(&mut group);
    peer.group_key = group.finish();
    let options = &mut peer.options;
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
        user_timeout: std::time::Duration::ZERO,
    });
    Some(peer)
}

/// How long an unused connection to an upstream is kept.
const KEEP_FOR: std::time::Duration = std::time::Duration::from_secs(90);
/// When a silent connection is probed.
const PROBE_AFTER: std::time::Duration = std::time::Duration::from_secs(30);

/// What a failed exchange with the upstream means to the client.
pub(crate) fn denial_of(error: &Error, trip: Option<&Trip>) -> Denial {
    match trip {
        Some(Trip::Revoked(anchor)) => return Denial::Revoked(anchor.clone()),
        Some(Trip::Expired) => return Denial::ExpiredMeanwhile,
        Some(Trip::UpstreamSilent) => return Denial::UpstreamTimeout,
        Some(Trip::Idle | Trip::SlowHead) | None => {}
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
