//! Which keys verify a zone's mandates? Fetched from the STS once for many callers, kept for minutes.

use std::sync::Arc;
use std::time::Duration;

use caracal_chassis::Clock;
use caracal_chassis::http_client::Client;
use caracal_model::ZoneId;
use caracal_token::KeySet;
use http::{HeaderMap, Method, StatusCode};
use moka::future::Cache;

/// Zones remembered at most.
const ZONES_MAX: u64 = 256;
/// A fetched key set is used this long.
const FRESH: Duration = Duration::from_secs(300);
/// An unknown key makes us look again, but not more often than this.
const REFETCH_COOLDOWN_SECONDS: i64 = 30;

/// The key sets of the zones that call here.
pub(crate) struct KeySets {
    client: Client,
    sts_url: String,
    clock: Clock,
    cache: Cache<ZoneId, Arc<Fetched>>,
}

/// A zone's keys; empty for a zone the STS does not know, so that nobody can make us ask again and again.
pub(crate) struct Fetched {
    pub(crate) keys: KeySet,
    at: i64,
}

/// The STS could not be asked.
#[derive(Debug, thiserror::Error)]
#[error("the key set cannot be fetched from the STS: {0}")]
pub(crate) struct KeysUnavailable(String);

impl KeySets {
    pub(crate) fn new(client: Client, sts_url: String, clock: Clock) -> Self {
        let cache = Cache::builder()
            .max_capacity(ZONES_MAX)
            .time_to_live(FRESH)
            .build();
        Self {
            client,
            sts_url,
            clock,
            cache,
        }
    }

    /// The zone's keys, looked at again when `kid` is not among them.
    ///
    /// # Errors
    /// [`KeysUnavailable`] when they have to be fetched and the STS does not answer.
    pub(crate) async fn of(&self, zone: &ZoneId, kid: &str) -> Result<Arc<Fetched>, KeysUnavailable> {
        let known = self.cached(zone).await?;
        if known.keys.contains(kid) || self.clock.unix_seconds() - known.at < REFETCH_COOLDOWN_SECONDS {
            return Ok(known);
        }
        self.cache.invalidate(zone).await;
        self.cached(zone).await
    }

    /// Concurrent callers share one fetch.
    async fn cached(&self, zone: &ZoneId) -> Result<Arc<Fetched>, KeysUnavailable> {
        let fetched = self.cache.try_get_with(zone.clone(), self.fetch(zone)).await;
        fetched.map_err(|shared: Arc<KeysUnavailable>| KeysUnavailable(shared.0.clone()))
    }

    async fn fetch(&self, zone: &ZoneId) -> Result<Arc<Fetched>, KeysUnavailable> {
        let url = format!("{}/.well-known/jwks.json?zone_id={zone}", self.sts_url);
        let answer = self
            .client
            .request(Method::GET, &url, HeaderMap::new(), Vec::new())
            .await;
        let answer = answer.map_err(|error| KeysUnavailable(error.to_string()))?;
        let keys = match answer.status {
            StatusCode::OK => {
                KeySet::from_jwks_bytes(&answer.body).map_err(|error| KeysUnavailable(error.to_string()))?
            }
            StatusCode::NOT_FOUND => KeySet::empty(),
            status => return Err(KeysUnavailable(format!("it answered {status}"))),
        };
        Ok(Arc::new(Fetched {
            keys,
            at: self.clock.unix_seconds(),
        }))
    }
}
