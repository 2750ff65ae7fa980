//! How does the gateway ask the STS? For authority, keys and revocations, over kept connections, behind a breaker for
//! each address.

mod breaker;
mod channel;
mod documents;
mod link;
mod operations;
mod site;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::{BufMut, Bytes, BytesMut};
use caracal_bus::HmacKey;
use caracal_chassis::Clock;
use caracal_model::ZoneId;
use caracal_token::KeySet;
use caracal_wire::answer_mac::{self, AnswerMacKey};
use caracal_wire::channel::{CHANNEL_PATH, ChannelKey, PROTOCOL};
use caracal_wire::gateway_signature;
use caracal_wire::header::TIMEOUT_MS;
use caracal_wire::sts::{
    FORM_MEDIA_TYPE, JWKS_PATH, REVOCATIONS_AFTER, REVOCATIONS_PATH, RevocationSnapshot, TOKEN_PATH,
};
use futures_util::future::join_all;
use pingora_core::connectors::{ConnectorOptions, TransportConnector};
use serde::Deserialize;
use tokio::time::Instant;

use channel::{Ended, Opener};
use link::{Answer, Call, Link, LinkError, Repeats};
use site::Site;

/// Longest answer of the token endpoint. A resource mandate and a provider token of 16 KiB each fit.
const TOKEN_BYTES_MAX: usize = 64 * 1024;
/// Longest key set (docs/contract/gateway.md, "Keys").
const KEYS_BYTES_MAX: usize = 256 * 1024;
/// Longest part of the revocations.
const SNAPSHOT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Longest wait for a part of the revocations, or for a document.
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
    /// Whether its MAC proves that it is the STS's answer to this call.
    pub(crate) is_sealed: bool,
    /// Whether it came on a channel.
    pub(crate) is_by_channel: bool,
}

/// The client of the STS. One per gateway.
pub(crate) struct StsClient {
    sites: Vec<Arc<Site>>,
    links: ArcSwap<Vec<Arc<Link>>>,
    /// At which address the next exchange begins.
    turn: AtomicUsize,
    /// The same of questions, which go to any address.
    turn_of_questions: AtomicUsize,
    connector: Arc<TransportConnector>,
    key: Option<HmacKey>,
    answer_mac: Option<AnswerMacKey>,
    channel: Option<ChannelKey>,
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
    /// A client of the STS whose replicas are at `urls`: `http`, `https`, or `unix:` with the path of a socket. `key`
    /// signs.
    ///
    /// # Errors
    /// [`StsUrlError`].
    pub(crate) fn new(
        urls: &[String],
        key: Option<HmacKey>,
        timeout: Duration,
        ca_file: Option<String>,
        clock: Clock,
    ) -> Result<Self, StsUrlError> {
        let site = |url: &String| {
            Site::parse(url)
                .map(Arc::new)
                .ok_or_else(|| StsUrlError(url.clone()))
        };
        let mut options = ConnectorOptions::new(0);
        options.ca_file = ca_file;
        Ok(Self {
            sites: urls.iter().map(site).collect::<Result<_, _>>()?,
            links: ArcSwap::default(),
            turn: AtomicUsize::new(0),
            turn_of_questions: AtomicUsize::new(0),
            connector: Arc::new(TransportConnector::new(Some(options))),
            key,
            answer_mac: None,
            channel: None,
            timeout,
            clock,
            exchanges: AtomicU64::new(0),
            circuit_opened: AtomicU64::new(0),
        })
    }

    /// Asks for answers with a MAC under `key`.
    pub(crate) fn with_answer_mac(mut self, key: Option<AnswerMacKey>) -> Self {
        self.answer_mac = key;
        self
    }

    /// Opens channels under `key`, so that exchanges need not go by HTTP.
    pub(crate) fn with_channels(mut self, key: Option<ChannelKey>) -> Self {
        self.channel = key.filter(|_key| self.key.is_some());
        self
    }

    /// Looks up where the STS is now. Addresses that stay keep their connections and their breaker; when nothing is
    /// found for an entry of `STS_URL`, the ones known stay.
    pub(crate) async fn locate(&self) {
        let known = self.links.load_full();
        let found = join_all(self.sites.iter().map(|site| site.peers(self.timeout))).await;
        let mut links = Vec::new();
        for (site, peers) in self.sites.iter().zip(found) {
            let of_site = || known.iter().filter(|link| Arc::ptr_eq(link.site(), site));
            if peers.is_empty() {
                links.extend(of_site().map(Arc::clone));
            }
            links.extend(peers.into_iter().map(|peer| {
                let kept = of_site().find(|link| link.peer()._address == peer._address);
                kept.map_or_else(|| Arc::new(Link::new(Arc::clone(site), peer)), Arc::clone)
            }));
        }
        self.links.store(Arc::new(links));
    }

    /// Asks the token endpoint. `form` is signed as it is. One call over a kept connection; none while the breaker of
    /// every address is open. An address that cannot be connected to leaves the call to the next one; one that was sent is
    /// not repeated, but for [`Link::call`]'s exception.
    ///
    /// # Errors
    /// [`StsError::CircuitOpen`], [`StsError::Timeout`], [`StsError::Unreachable`], [`StsError::Unreadable`].
    pub(crate) async fn exchange(&self, form: &str, request_id: &str) -> Result<TokenAnswer, StsError> {
        self.exchanges.fetch_add(1, Ordering::Relaxed);
        let until = Instant::now() + self.timeout;
        let write = |site: &Site| {
            let left = until.saturating_duration_since(Instant::now());
            self.request(
                site,
                "POST",
                TOKEN_PATH,
                form.as_bytes(),
                Some((request_id, left)),
                true,
            )
        };
        let mut last = StsError::CircuitOpen;
        let mut repeats = Repeats::default();
        for link in self.rotation(&self.turn) {
            let Some(pass) = link.breaker.pass() else { continue };
            let call = async {
                if let Some(answer) = self
                    .by_channel(&link, form, request_id, until, &mut repeats)
                    .await
                {
                    return Ok(answer);
                }
                let call = link.call(&self.connector, write, TOKEN_BYTES_MAX, &mut repeats);
                // Rare, and large.
                Box::pin(call).await
            };
            let called = tokio::time::timeout_at(until, call).await;
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
                        is_sealed: self.is_sealed(&answer),
                        is_by_channel: answer.is_proven,
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

    /// The answer of an open channel. When a channel ends with the call unanswered, the call may be repeated by HTTP, if it
    /// has not been already.
    async fn by_channel(
        &self,
        link: &Link,
        form: &str,
        request_id: &str,
        until: Instant,
        repeats: &mut Repeats,
    ) -> Option<Answer> {
        let key = self.channel.as_ref().filter(|_key| !repeats.is_used)?;
        let channel = link.channels().get(|| self.opener(link, key))?;
        let left = until.saturating_duration_since(Instant::now());
        match channel
            .call(form, request_id, self.clock.unix_seconds(), left)
            .await
        {
            Ok(answer) => Some(Answer::proven(answer)),
            Err(Ended::Untold) => None,
            Err(Ended::Unknown) => {
                repeats.is_used = true;
                None
            }
        }
    }

    fn opener(&self, link: &Link, key: &ChannelKey) -> Opener {
        Opener {
            connector: Arc::clone(&self.connector),
            peer: link.peer().clone(),
            request: self.request(link.site(), "GET", CHANNEL_PATH, &[], None, true),
            key: key.clone(),
            timeout: self.timeout,
        }
    }

    fn is_sealed(&self, answer: &Answer) -> bool {
        if answer.is_proven {
            return answer.status == 200;
        }
        let Some((key, mac)) = self.answer_mac.as_ref().zip(answer.mac.as_ref()) else {
            return false;
        };
        answer.status == 200 && key.is_sealed(&answer.call_signature, &answer.body, mac.as_bytes())
    }

    /// The keys of a zone.
    ///
    /// # Errors
    /// [`JwksError`].
    pub(crate) async fn keys(&self, zone: &ZoneId) -> Result<KeySet, JwksError> {
        // An id needs no escaping.
        let endpoint = format!("{JWKS_PATH}?zone_id={zone}");
        let write = |site: &Site| self.request(site, "GET", &endpoint, &[], None, false);
        let answer = self.ask(write, KEYS_BYTES_MAX, self.timeout).await?;
        match answer.status {
            200 => Ok(KeySet::from_jwks_bytes(&answer.body)
                .map_err(|error| StsError::Unreadable(Box::new(error)))?),
            404 => Err(JwksError::NoSuchZone),
            status => Err(StsError::Status(status).into()),
        }
    }

    /// A part of what is revoked now: the first after 0, another one after the `next` of the one before.
    ///
    /// # Errors
    /// [`StsError`].
    pub(crate) async fn revocations(&self, after: i64) -> Result<RevocationSnapshot, StsError> {
        let endpoint = format!("{REVOCATIONS_PATH}?{REVOCATIONS_AFTER}={after}");
        let write = |site: &Site| self.request(site, "GET", &endpoint, &[], None, true);
        let answer = self.ask(write, SNAPSHOT_BYTES_MAX, SNAPSHOT_TIMEOUT).await?;
        if answer.status != 200 {
            return Err(StsError::Status(answer.status));
        }
        serde_json::from_slice(&answer.body).map_err(|error| StsError::Unreadable(Box::new(error)))
    }

    /// Whether the STS is alive: one replica of it is enough.
    pub(crate) async fn is_healthy(&self) -> bool {
        let write = |site: &Site| self.request(site, "GET", "/health", &[], None, false);
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

    /// Reads something that every replica has, from the first that gives it: addresses that are left alone come last, and
    /// an address that is silent or answers 5xx leaves time for the others.
    async fn ask(
        &self,
        write: impl Fn(&Site) -> Call,
        body_bytes_max: usize,
        timeout: Duration,
    ) -> Result<Answer, StsError> {
        let mut links: Vec<_> = self.rotation(&self.turn_of_questions).collect();
        links.sort_by_key(|link| link.breaker.is_open());
        let until = Instant::now() + timeout;
        let mut last = Err(StsError::Unreachable("the STS has no address".into()));
        for (link, waiting) in links.iter().zip((1..=links.len()).rev()) {
            let share =
                until.saturating_duration_since(Instant::now()) / u32::try_from(waiting).unwrap_or(u32::MAX);
            let mut repeats = Repeats::default();
            let call = link.call(&self.connector, &write, body_bytes_max, &mut repeats);
            last = match tokio::time::timeout(share, call).await {
                Ok(Ok(answer)) if answer.status < 500 => return Ok(answer),
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(LinkError::TooLong)) => {
                    return Err(StsError::Unreadable(Box::new(LinkError::TooLong)));
                }
                Ok(Err(error)) => Err(StsError::Unreachable(Box::new(error))),
                Err(_elapsed) => Err(StsError::Timeout),
            };
        }
        last
    }

    /// Every address once, beginning with another one each time.
    fn rotation(&self, turn: &AtomicUsize) -> impl Iterator<Item = Arc<Link>> + use<> {
        let links = self.links.load_full();
        let start = turn.fetch_add(1, Ordering::Relaxed);
        let count = links.len();
        (0..count).filter_map(move |step| links.get(start.wrapping_add(step) % count).map(Arc::clone))
    }

    fn note_failure(&self, pass: breaker::Pass<'_>) {
        if pass.failed() {
            self.circuit_opened.fetch_add(1, Ordering::Relaxed);
            tracing::warn!("the STS failed repeatedly and is left alone for a while");
        }
    }

    /// The bytes of a request; of one on behalf of another, by the name and the time left of that. Everything put into a header is an id, a number or hexadecimal.
    fn request(
        &self,
        site: &Site,
        method: &str,
        endpoint: &str,
        body: &[u8],
        behalf: Option<(&str, Duration)>,
        signed: bool,
    ) -> Call {
        let path = site.path(endpoint);
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: caracal-gateway\r\nAccept: application/json\r\n",
            site.authority()
        );
        let mut line = |name: &str, value: &str| {
            for part in [name, ": ", value, "\r\n"] {
                head.push_str(part);
            }
        };
        if let Some((request_id, left)) = behalf {
            line("X-Request-Id", request_id);
            line(TIMEOUT_MS, &left.as_millis().to_string());
        }
        let is_upgrade = endpoint == CHANNEL_PATH;
        if is_upgrade {
            line("Connection", "Upgrade");
            line("Upgrade", PROTOCOL);
        }
        let mut signature = String::new();
        if let Some(key) = self.key.as_ref().filter(|_key| signed) {
            let (now, nonce) = (self.clock.unix_seconds(), nonce());
            signature = gateway_signature::sign(key.expose(), now, &nonce, method, &path, body);
            line(gateway_signature::TIMESTAMP, &now.to_string());
            line(gateway_signature::NONCE, &nonce);
            line(gateway_signature::SIGNATURE, &signature);
            if let Some(macs) = self
                .answer_mac
                .as_ref()
                .filter(|_macs| behalf.is_some() || is_upgrade)
            {
                line(answer_mac::HEADER, &macs.question(&signature));
            }
        }
        if !body.is_empty() {
            line("Content-Type", FORM_MEDIA_TYPE);
            line("Content-Length", &body.len().to_string());
        }
        let mut bytes = BytesMut::with_capacity(head.len() + 2 + body.len());
        bytes.put_slice(head.as_bytes());
        bytes.put_slice(b"\r\n");
        bytes.put_slice(body);
        Call {
            bytes: bytes.freeze(),
            signature,
        }
    }
}

impl std::fmt::Debug for StsClient {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("StsClient")
            .field("sites", &self.sites)
            .finish_non_exhaustive()
    }
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
