//! How does the gateway ask the STS? For authority, keys and revocations, over kept connections, behind a breaker for
//! each address.

mod breaker;
mod link;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::{BufMut, Bytes, BytesMut};
use caracal_bus::HmacKey;
use caracal_chassis::Clock;
use caracal_model::ZoneId;
use caracal_token::KeySet;
use caracal_wire::gateway_signature;
use caracal_wire::header::TIMEOUT_MS;
use caracal_wire::sts::{FORM_MEDIA_TYPE, JWKS_PATH, REVOCATIONS_PATH, RevocationSnapshot, TOKEN_PATH};
use pingora_core::connectors::{ConnectorOptions, TransportConnector};
use pingora_core::upstreams::peer::HttpPeer;
use serde::Deserialize;
use url::Url;

use link::{Answer, Link, LinkError};

/// Longest answer of the token endpoint. A resource mandate and a provider token of 16 KiB each fit.
const TOKEN_BYTES_MAX: usize = 64 * 1024;
/// Longest key set (docs/contract/gateway.md, "Keys").
const KEYS_BYTES_MAX: usize = 256 * 1024;
/// Longest revocation snapshot: about half a million revocations.
const SNAPSHOT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Longest wait for a snapshot.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for a health answer; a readiness probe waits behind it.
const HEALTH_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Why the STS gave nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StsError {
    /// It has been failing and is left alone.
    #[error("the STS is left alone after repeated failures")]
    CircuitOpen,
    /// No answer in time.
    #[error("the STS did not answer in time")]
    Timeout,
    /// No connection, or it broke.
    #[error("the STS cannot be reached")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It answered something else.
    #[error("the STS answered {0} unexpectedly")]
    Status(u16),
    /// The answer is not what was asked for.
    #[error("the answer of the STS cannot be read")]
    Unreadable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JwksError {
    /// The STS knows no such zone.
    #[error("the STS knows no such zone")]
    NoSuchZone,
    /// The STS gave nothing.
    #[error(transparent)]
    Sts(#[from] StsError),
}

/// A complete answer of the token endpoint.
#[derive(Debug)]
pub(crate) struct TokenAnswer {
    /// HTTP status.
    pub(crate) status: u16,
    /// Whether it says that it is JSON.
    pub(crate) is_json: bool,
    /// `Retry-After`, when it is a number of seconds.
    pub(crate) retry_after_s: Option<u32>,
    /// The body.
    pub(crate) body: Bytes,
}

/// Where the STS is.
#[derive(Clone, Debug)]
enum Place {
    /// Behind a name or address.
    Network { host: String, port: u16, is_tls: bool },
    /// Behind a Unix socket.
    Socket(PathBuf),
}

/// The client of the STS. One per gateway.
pub(crate) struct StsClient {
    place: Place,
    authority: String,
    base_path: String,
    links: ArcSwap<Vec<Arc<Link>>>,
    turn: AtomicUsize,
    connector: TransportConnector,
    key: Option<HmacKey>,
    timeout: Duration,
    clock: Clock,
    exchanges: AtomicU64,
    circuit_opened: AtomicU64,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
#[error("STS_URL {0} cannot be used")]
pub(crate) struct StsUrlError(String);

impl StsClient {
    /// A client of the STS at `url`: `http`, `https`, or `unix:` with the path of a socket. `key` signs.
    ///
    /// # Errors
    /// [`StsUrlError`].
    pub(crate) fn new(
        url: &str,
        key: Option<HmacKey>,
        timeout: Duration,
        ca_file: Option<String>,
        clock: Clock,
    ) -> Result<Self, StsUrlError> {
        let wrong = || StsUrlError(url.to_owned());
        let parsed = Url::parse(url).map_err(|_error| wrong())?;
        let (place, authority, base_path) = if parsed.scheme() == "unix" {
            (
                Place::Socket(parsed.path().into()),
                "sts".to_owned(),
                String::new(),
            )
        } else {
            let host = parsed.host_str().ok_or_else(wrong)?;
            let port = parsed.port_or_known_default().ok_or_else(wrong)?;
            let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            let place = Place::Network {
                host: name,
                port,
                is_tls: parsed.scheme() == "https",
            };
            let authority = parsed
                .port()
                .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
            (place, authority, parsed.path().trim_end_matches('/').to_owned())
        };
        let mut options = ConnectorOptions::new(0);
        options.ca_file = ca_file;
        Ok(Self {
            place,
            authority,
            base_path,
            links: ArcSwap::default(),
            turn: AtomicUsize::new(0),
            connector: TransportConnector::new(Some(options)),
            key,
            timeout,
            clock,
            exchanges: AtomicU64::new(0),
            circuit_opened: AtomicU64::new(0),
        })
    }

    /// Looks up where the STS is now. Addresses that stay keep their connections and their breaker; when nothing is
    /// found, the ones known stay.
    pub(crate) async fn locate(&self) {
        let peers = match &self.place {
            Place::Socket(path) => path
                .to_str()
                .and_then(|path| HttpPeer::new_uds(path, false, String::new()).ok()),
            Place::Network { .. } => None,
        };
        let mut peers: Vec<HttpPeer> = peers.into_iter().collect();
        if let Place::Network { host, port, is_tls } = &self.place {
            match tokio::net::lookup_host((host.as_str(), *port)).await {
                Ok(found) => peers.extend(found.map(|address| network_peer(address, *is_tls, host))),
                Err(error) => tracing::warn!(%error, sts.host = %host, "the STS cannot be located"),
            }
        }
        if peers.is_empty() {
            return;
        }
        let known = self.links.load();
        let links = peers.into_iter().map(|mut peer| {
            peer.options.connection_timeout = Some(self.timeout);
            let kept = known.iter().find(|link| link.peer()._address == peer._address);
            kept.map_or_else(|| Arc::new(Link::new(peer)), Arc::clone)
        });
        self.links.store(Arc::new(links.collect()));
    }

    /// Asks the token endpoint. `form` is signed as it is. One call over a kept connection; none while the breaker of
    /// every address is open.
    ///
    /// # Errors
    /// [`StsError::CircuitOpen`], [`StsError::Timeout`], [`StsError::Unreachable`], [`StsError::Unreadable`].
    pub(crate) async fn exchange(&self, form: &str, request_id: &str) -> Result<TokenAnswer, StsError> {
        self.exchanges.fetch_add(1, Ordering::Relaxed);
        let path = format!("{}{TOKEN_PATH}", self.base_path);
        let write = || self.request("POST", &path, form.as_bytes(), Some(request_id), true);
        let until = tokio::time::Instant::now() + self.timeout;
        let mut last = StsError::CircuitOpen;
        for link in self.rotation() {
            let Some(pass) = link.breaker.pass() else { continue };
            let called =
                tokio::time::timeout_at(until, link.call(&self.connector, write, TOKEN_BYTES_MAX)).await;
            let answer = match called {
                Err(_elapsed) => Err(StsError::Timeout),
                Ok(Err(LinkError::TooLong)) => Ok(Err(StsError::Unreadable(Box::new(LinkError::TooLong)))),
                Ok(Err(error @ LinkError::Connect(_))) => {
                    // Nothing was sent: another address may be asked.
                    self.note_failure(pass);
                    last = StsError::Unreachable(Box::new(error));
                    continue;
                }
                Ok(Err(error)) => Err(StsError::Unreachable(Box::new(error))),
                Ok(Ok(answer)) => Ok(Ok(answer)),
            };
            return match answer {
                Err(error) => {
                    self.note_failure(pass);
                    Err(error)
                }
                Ok(Err(error)) => {
                    pass.succeeded();
                    Err(error)
                }
                Ok(Ok(answer)) => {
                    if is_outage(&answer) {
                        self.note_failure(pass);
                    } else {
                        pass.succeeded();
                    }
                    let is_json = is_json(&answer.content_type);
                    Ok(TokenAnswer {
                        status: answer.status,
                        is_json,
                        retry_after_s: answer.retry_after_s,
                        body: answer.body,
                    })
                }
            };
        }
        Err(last)
    }

    /// The keys of a zone.
    ///
    /// # Errors
    /// [`JwksError`].
    pub(crate) async fn keys(&self, zone: &ZoneId) -> Result<KeySet, JwksError> {
        // An id needs no escaping.
        let path = format!("{}{JWKS_PATH}?zone_id={zone}", self.base_path);
        let write = || self.request("GET", &path, &[], None, false);
        let answer = self.ask(write, KEYS_BYTES_MAX, self.timeout).await?;
        match answer.status {
            200 => Ok(KeySet::from_jwks_bytes(&answer.body)
                .map_err(|error| StsError::Unreadable(Box::new(error)))?),
            404 => Err(JwksError::NoSuchZone),
            status => Err(StsError::Status(status).into()),
        }
    }

    /// Everything revoked now.
    ///
    /// # Errors
    /// [`StsError`].
    pub(crate) async fn revocations(&self) -> Result<RevocationSnapshot, StsError> {
        let path = format!("{}{REVOCATIONS_PATH}", self.base_path);
        let write = || self.request("GET", &path, &[], None, true);
        let answer = self.ask(write, SNAPSHOT_BYTES_MAX, SNAPSHOT_TIMEOUT).await?;
        if answer.status != 200 {
            return Err(StsError::Status(answer.status));
        }
        serde_json::from_slice(&answer.body).map_err(|error| StsError::Unreadable(Box::new(error)))
    }

    /// Whether the STS is alive.
    pub(crate) async fn is_healthy(&self) -> bool {
        let path = format!("{}/health", self.base_path);
        let write = || self.request("GET", &path, &[], None, false);
        let answer = self.ask(write, TOKEN_BYTES_MAX, HEALTH_TIMEOUT).await;
        answer.is_ok_and(|answer| (200..300).contains(&answer.status))
    }

    /// Whether every address is left alone.
    pub(crate) fn is_circuit_open(&self) -> bool {
        let links = self.links.load();
        !links.is_empty() && links.iter().all(|link| link.breaker.is_open())
    }

    /// Exchanges begun, and times a breaker opened.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (
            self.exchanges.load(Ordering::Relaxed),
            self.circuit_opened.load(Ordering::Relaxed),
        )
    }

    async fn ask(
        &self,
        write: impl Fn() -> Bytes,
        body_bytes_max: usize,
        timeout: Duration,
    ) -> Result<Answer, StsError> {
        let until = tokio::time::Instant::now() + timeout;
        let mut last = StsError::Unreachable("the STS has no address".into());
        for link in self.rotation() {
            match tokio::time::timeout_at(until, link.call(&self.connector, &write, body_bytes_max)).await {
                Err(_elapsed) => return Err(StsError::Timeout),
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(LinkError::TooLong)) => {
                    return Err(StsError::Unreadable(Box::new(LinkError::TooLong)));
                }
                Ok(Err(error)) => last = StsError::Unreachable(Box::new(error)),
            }
        }
        Err(last)
    }

    /// Every address once, beginning with another one each time.
    fn rotation(&self) -> impl Iterator<Item = Arc<Link>> {
        let links = self.links.load_full();
        let start = self.turn.fetch_add(1, Ordering::Relaxed);
        let count = links.len();
        (0..count).filter_map(move |step| links.get(start.wrapping_add(step) % count).map(Arc::clone))
    }

    fn note_failure(&self, pass: breaker::Pass<'_>) {
        if pass.failed() {
            self.circuit_opened.fetch_add(1, Ordering::Relaxed);
            tracing::warn!("the STS failed repeatedly and is left alone for a while");
        }
    }

    /// The bytes of a request. Everything put into a header is an id, a number or hexadecimal.
    fn request(
        &self,
        method: &str,
        path: &str,
        body: &[u8],
        request_id: Option<&str>,
        signed: bool,
    ) -> Bytes {
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: caracal-gateway\r\nAccept: application/json\r\n",
            self.authority
        );
        let mut line = |name: &str, value: &str| {
            for part in [name, ": ", value, "\r\n"] {
                head.push_str(part);
            }
        };
        if let Some(request_id) = request_id {
            line("X-Request-Id", request_id);
            line(TIMEOUT_MS, &self.timeout.as_millis().to_string());
        }
        if let Some(key) = self.key.as_ref().filter(|_key| signed) {
            let (now, nonce) = (self.clock.unix_seconds(), nonce());
            let signature = gateway_signature::sign(key.expose(), now, &nonce, method, path, body);
            line(gateway_signature::TIMESTAMP, &now.to_string());
            line(gateway_signature::NONCE, &nonce);
            line(gateway_signature::SIGNATURE, &signature);
        }
        if !body.is_empty() {
            line("Content-Type", FORM_MEDIA_TYPE);
            line("Content-Length", &body.len().to_string());
        }
        let mut bytes = BytesMut::with_capacity(head.len() + 2 + body.len());
        bytes.put_slice(head.as_bytes());
        bytes.put_slice(b"\r\n");
        bytes.put_slice(body);
        bytes.freeze()
    }
}

impl std::fmt::Debug for StsClient {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("StsClient")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

fn network_peer(address: SocketAddr, is_tls: bool, host: &str) -> HttpPeer {
    HttpPeer::new(
        address,
        is_tls,
        if is_tls { host.to_owned() } else { String::new() },
    )
}

/// 64 hexadecimal digits from 32 random bytes. Without randomness an all-zero nonce, which the STS takes once at most.
fn nonce() -> String {
    let mut bytes = [0; 32];
    let _filled = aws_lc_rs::rand::fill(&mut bytes);
    hex::encode(bytes)
}

fn is_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    media_type.eq_ignore_ascii_case("application/json") || media_type.to_ascii_lowercase().ends_with("+json")
}

/// Whether the answer says that the STS, or what it stands on, is down: a 5xx that is `sts_unavailable`, or none of
/// the contract's errors at all.
fn is_outage(answer: &Answer) -> bool {
    #[derive(Deserialize)]
    struct Code {
        error: String,
    }
    if answer.status < 500 {
        return false;
    }
    let code = serde_json::from_slice::<Code>(&answer.body);
    code.map_or(true, |code| code.error == "sts_unavailable")
}
