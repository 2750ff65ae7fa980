//! What do the replicas of the token service decide by? Asked of each of them, when somebody wants to know.
//!
//! Nothing here is needed to change or to activate a policy: replicas learn of activations by the event streams. This only
//! tells a person how far the news has come.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use caracal_bus::HmacKey;
use caracal_chassis::Clock;
use caracal_chassis::http_client::{Client, ClientLimits};
use caracal_model::ZoneId;
use caracal_wire::gateway_signature::{self, NONCE, SIGNATURE, TIMESTAMP};
use caracal_wire::policy::{PolicyStatus, STATUS_PATH};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use url::{Host, Url};

/// How long one replica may take to answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How many replicas are asked at most.
const REPLICAS_MAX: usize = 64;
const ANSWER_BYTES_MAX: usize = 16 << 10;

/// The replicas of the token service.
#[derive(Debug)]
pub(crate) struct TokenService {
    client: Client,
    urls: Vec<Url>,
    key: Option<HmacKey>,
    clock: Clock,
}

/// One replica and what it said.
#[derive(Debug)]
pub(crate) struct Replica {
    /// Where it was asked.
    pub(crate) address: String,
    pub(crate) answer: Result<PolicyStatus, NoAnswer>,
}

/// Why nothing is known about a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoAnswer {
    /// It did not answer, or its name is not known.
    #[error("the replica did not answer")]
    Unreachable,
    /// It answered something else.
    #[error("the replica gave no status")]
    Failed,
}

impl TokenService {
    /// `urls` are `http://host:port`; a host that has several addresses stands for a replica at each. `key` signs what is
    /// asked.
    pub(crate) fn new(urls: Vec<Url>, key: Option<HmacKey>, clock: Clock) -> Self {
        let limits = ClientLimits {
            timeout: TIMEOUT,
            response_bytes: ANSWER_BYTES_MAX,
            ..ClientLimits::default()
        };
        Self {
            client: Client::new(limits),
            urls,
            key,
            clock,
        }
    }

    /// What every replica says about `zone`, all asked at once; `None` when there is nobody to ask.
    pub(crate) async fn policy_status(&self, zone: &ZoneId) -> Option<Vec<Replica>> {
        let key = self.key.as_ref()?;
        if self.urls.is_empty() {
            return None;
        }
        let mut places = BTreeSet::new();
        for url in &self.urls {
            places.extend(addresses(url).await);
        }
        let mut asked = tokio::task::JoinSet::new();
        for place in places.into_iter().take(REPLICAS_MAX) {
            let request = Question {
                client: self.client.clone(),
                path: format!("{STATUS_PATH}{zone}"),
                headers: signed(key, self.clock.unix_seconds(), &format!("{STATUS_PATH}{zone}")),
            };
            asked.spawn(request.ask(place));
        }
        let mut replicas = asked.join_all().await;
        replicas.sort_by(|one, other| one.address.cmp(&other.address));
        Some(replicas)
    }
}

struct Question {
    client: Client,
    path: String,
    headers: Option<HeaderMap>,
}

impl Question {
    async fn ask(self, place: Result<String, String>) -> Replica {
        match place {
            Err(host) => Replica {
                address: host,
                answer: Err(NoAnswer::Unreachable),
            },
            Ok(address) => {
                let answer = self.answer_of(&address).await;
                Replica { address, answer }
            }
        }
    }

    async fn answer_of(self, address: &str) -> Result<PolicyStatus, NoAnswer> {
        let headers = self.headers.ok_or(NoAnswer::Failed)?;
        let url = format!("http://{address}{}", self.path);
        let answer = self.client.request(Method::GET, &url, headers, Vec::new()).await;
        let answer = answer.map_err(|error| {
            tracing::info!(
                replica = address,
                error = &error as &dyn std::error::Error,
                "a token service does not answer"
            );
            NoAnswer::Unreachable
        })?;
        if answer.status != StatusCode::OK {
            tracing::warn!(
                replica = address,
                status = answer.status.as_u16(),
                "a token service gave no policy status"
            );
            return Err(NoAnswer::Failed);
        }
        serde_json::from_slice(&answer.body).or(Err(NoAnswer::Failed))
    }
}

/// Every address behind the host of `url`; the host itself when it has none.
async fn addresses(url: &Url) -> Vec<Result<String, String>> {
    let port = url.port_or_known_default().unwrap_or(80);
    let Some(Host::Domain(host)) = url.host() else {
        let host = url.host_str().unwrap_or_default();
        return vec![Ok(format!("{host}:{port}"))];
    };
    let found = tokio::time::timeout(TIMEOUT, tokio::net::lookup_host((host, port))).await;
    let found: Vec<SocketAddr> = match found {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(_)) | Err(_) => Vec::new(),
    };
    if found.is_empty() {
        return vec![Err(format!("{host}:{port}"))];
    }
    found.into_iter().map(|address| Ok(address.to_string())).collect()
}

/// The three headers of a signature over a GET of `path`; `None` when the system gives no randomness.
fn signed(key: &HmacKey, now: i64, path: &str) -> Option<HeaderMap> {
    let mut random = [0; 32];
    aws_lc_rs::rand::fill(&mut random).ok()?;
    let nonce = hex::encode(random);
    let signature = gateway_signature::sign(key.expose(), now, &nonce, "GET", path, b"");
    let mut headers = HeaderMap::new();
    for (name, value) in [
        (TIMESTAMP, now.to_string()),
        (NONCE, nonce),
        (SIGNATURE, signature),
    ] {
        headers.insert(name, HeaderValue::from_str(&value).ok()?);
    }
    Some(headers)
}
