//! Which keys verify a zone's mandates? Fetched from the STS once for many callers, kept until they are old or announced
//! to have changed.

mod announcements;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use caracal_chassis::Clock;
use caracal_chassis::http_client::Client;
use caracal_model::ZoneId;
use caracal_token::KeySet;
use http::{HeaderMap, Method, StatusCode};
use moka::future::Cache;

pub(crate) use announcements::Announcements;

/// Zones remembered at most.
const ZONES_MAX: u64 = 256;
/// A key set is looked at again after this long, in seconds: so long is a key believed here that was withdrawn while its
/// announcement does not come through.
const FRESH_SECONDS: i64 = 30;
/// While the STS does not answer, known keys are used up to this age, in seconds.
const AGE_SECONDS_MAX: i64 = 600;
/// An unknown key makes us look again, but not more often than this.
const REFETCH_COOLDOWN_SECONDS: i64 = 30;
/// A replica of the STS that answers within this many seconds after an announcement may not have heard of it.
const SETTLING_SECONDS: i64 = 5;

/// The key sets of the zones that call here.
pub(crate) struct KeySets {
    client: Client,
    sts_url: String,
    clock: Clock,
    cache: Cache<ZoneId, Arc<Fetched>>,
    /// When the keys of a zone were announced to have changed, in Unix seconds; kept while that matters.
    changes: moka::sync::Cache<ZoneId, i64>,
    /// When announcements were lost last, in Unix seconds: any zone's keys may have changed then.
    lost_at: AtomicI64,
}

/// A zone's keys; empty for a zone the STS does not know, so that nobody can make us ask again and again.
#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    pub(crate) keys: Arc<KeySet>,
    /// When the STS gave them, in Unix seconds.
    given_at: i64,
    /// When the STS was last asked.
    asked_at: i64,
}

/// The STS could not be asked.
#[derive(Debug, thiserror::Error)]
#[error("the key set cannot be fetched from the STS: {0}")]
pub(crate) struct KeysUnavailable(String);

impl KeySets {
    pub(crate) fn new(client: Client, sts_url: String, clock: Clock) -> Self {
        Self {
            client,
            sts_url,
            clock,
            cache: Cache::new(ZONES_MAX),
            changes: moka::sync::Cache::builder()
                .max_capacity(ZONES_MAX)
                .time_to_live(Duration::from_secs(4 * SETTLING_SECONDS.unsigned_abs()))
                .build(),
            lost_at: AtomicI64::new(i64::MIN),
        }
    }

    /// The keys of `zone` have changed: they are asked for again, at each use until every replica of the STS knows.
    fn note_change(&self, zone: &ZoneId) {
        self.changes.insert(zone.clone(), self.clock.unix_seconds());
    }

    /// Any zone's keys may have changed.
    fn note_loss(&self) {
        self.lost_at.store(self.clock.unix_seconds(), Ordering::Release);
    }

    /// Whether what was given at `given_at` takes every announced change into account.
    fn is_settled(&self, zone: &ZoneId, given_at: i64) -> bool {
        let changed_at = self.changes.get(zone).unwrap_or(i64::MIN);
        let last = changed_at.max(self.lost_at.load(Ordering::Acquire));
        given_at >= last.saturating_add(SETTLING_SECONDS)
    }

    /// The zone's keys, looked at again when they are old or `kid` is not among them.
    ///
    /// # Errors
    /// [`KeysUnavailable`] when they have to be fetched and the STS does not answer.
    pub(crate) async fn of(&self, zone: &ZoneId, kid: &str) -> Result<Arc<Fetched>, KeysUnavailable> {
        let known = self.cache.try_get_with(zone.clone(), self.fetch(zone)).await;
        let known = known.map_err(|shared: Arc<KeysUnavailable>| KeysUnavailable(shared.0.clone()))?;
        let now = self.clock.unix_seconds();
        if !self.is_settled(zone, known.given_at) {
            let again = self.again(zone, &known).await;
            return if again.given_at >= now {
                Ok(again)
            } else {
                Err(KeysUnavailable("the keys have changed".to_owned()))
            };
        }
        let suffices = known.keys.contains(kid) && now - known.given_at < FRESH_SECONDS;
        if suffices || now - known.asked_at < REFETCH_COOLDOWN_SECONDS {
            return self.checked(known);
        }
        self.checked(self.again(zone, &known).await)
    }

    fn checked(&self, fetched: Arc<Fetched>) -> Result<Arc<Fetched>, KeysUnavailable> {
        if self.clock.unix_seconds() - fetched.given_at < AGE_SECONDS_MAX {
            Ok(fetched)
        } else {
            Err(KeysUnavailable("the known keys are too old".to_owned()))
        }
    }

    /// Asks again; concurrent callers share one fetch. When that fails, what was known stays, and keeps its age.
    async fn again(&self, zone: &ZoneId, known: &Arc<Fetched>) -> Arc<Fetched> {
        let replaced = Arc::clone(known);
        let entry = self.cache.entry_by_ref(zone).or_insert_with_if(
            async {
                self.fetch(zone).await.unwrap_or_else(|error| {
                    tracing::warn!(zone.id = zone.as_str(), %error, "the known keys are kept");
                    Arc::new(Fetched {
                        asked_at: self.clock.unix_seconds(),
                        ..Fetched::clone(known)
                    })
                })
            },
            move |present| Arc::ptr_eq(present, &replaced),
        );
        entry.await.into_value()
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
        let now = self.clock.unix_seconds();
        Ok(Arc::new(Fetched {
            keys: Arc::new(keys),
            given_at: now,
            asked_at: now,
        }))
    }
}
