//! The models of the zones in use, each replaced when its zone's version moves.
//!
//! A model is loaded when its zone is first asked for, once for all who wait. While a newer one is being loaded the old
//! one serves; when that takes longer than allowed, the zone is refused. Zones that do not exist are remembered briefly.

mod reload;

use std::collections::HashSet;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use caracal_chassis::Clock;
use caracal_model::ZoneId;
use caracal_storage::{Database, StorageError, zone_model};
use caracal_token::envelope::Keyring;
use tokio::sync::{Mutex, Notify, OnceCell, Semaphore};

use super::loading::Loading;
use super::model::ZoneModel;

/// How many zones are kept in memory; the least used is loaded again when it is asked for.
const ZONES_MAX: u64 = 20_000;
/// How long and how many zones are remembered not to exist.
const UNKNOWN_TTL: Duration = Duration::from_secs(2);
const UNKNOWN_MAX: u64 = 20_000;
/// A zone is asked for its version before a refusal at most this often.
const CATCH_UP_PAUSE_US: i64 = 100_000;
/// How long a refusal waits for that: a database that does not answer must not hold up refusals.
const CATCH_UP_WAIT: Duration = Duration::from_millis(500);
/// How many zones are loaded for the first time at once: anybody can name zones, and the other connections are for
/// those that exist.
const FIRST_LOADS_AT_ONCE: usize = 8;

/// Why there is no model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ZoneError {
    #[error("the zone does not exist")]
    Unknown,
    #[error("the configuration of the zone cannot be read now")]
    Unavailable,
}

/// Why a load failed.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error("the configuration cannot be read")]
    Storage(#[from] StorageError),
    #[error("the model cannot be built")]
    Build(#[from] tokio::task::JoinError),
}

/// One zone in memory, or about to be.
#[derive(Debug, Default)]
struct Slot {
    /// Empty until the first load has succeeded; whoever comes first loads, the others wait.
    model: OnceCell<ArcSwap<ZoneModel>>,
    /// Since when a newer configuration is known to exist, in Unix microseconds; 0 when none is.
    outdated_since_us: AtomicI64,
    /// When the version was last asked for, in Unix microseconds.
    checked_us: Mutex<i64>,
}

impl Slot {
    fn model(&self) -> Option<Arc<ZoneModel>> {
        self.model.get().map(ArcSwap::load_full)
    }
}

/// All zones in memory.
#[derive(Debug)]
pub(crate) struct ZoneCache {
    database: Database,
    keyring: Arc<Keyring>,
    clock: Clock,
    /// How long an outdated model may serve, in microseconds.
    outdated_max_us: i64,
    zones: moka::sync::Cache<ZoneId, Arc<Slot>>,
    unknown: moka::sync::Cache<ZoneId, ()>,
    /// Announcements so far: a first load that overlaps one is done again.
    announcements: AtomicU64,
    first_loads: Semaphore,
    outdated: std::sync::Mutex<HashSet<ZoneId>>,
    wake: Notify,
    reloads: AtomicU64,
    /// Of first loads and reloads alike.
    loading: Loading,
}

impl ZoneCache {
    /// `outdated_max` is how long a model may serve after a newer configuration was announced.
    pub(crate) fn new(
        database: Database,
        keyring: Arc<Keyring>,
        clock: Clock,
        outdated_max: Duration,
        loading: Loading,
    ) -> Self {
        Self {
            database,
            keyring,
            clock,
            outdated_max_us: i64::try_from(outdated_max.as_micros()).unwrap_or(i64::MAX),
            zones: moka::sync::Cache::builder().max_capacity(ZONES_MAX).build(),
            unknown: moka::sync::Cache::builder()
                .max_capacity(UNKNOWN_MAX)
                .time_to_live(UNKNOWN_TTL)
                .build(),
            announcements: AtomicU64::new(0),
            first_loads: Semaphore::new(FIRST_LOADS_AT_ONCE),
            outdated: std::sync::Mutex::default(),
            wake: Notify::new(),
            reloads: AtomicU64::new(0),
            loading,
        }
    }

    /// The model of `zone`. Cost when known: one map read and one atomic load.
    ///
    /// # Errors
    /// [`ZoneError`].
    pub(crate) async fn model(&self, zone: &ZoneId) -> Result<Arc<ZoneModel>, ZoneError> {
        let slot = match self.zones.get(zone) {
            Some(slot) if slot.model.initialized() => slot,
            _ => Box::pin(self.first_load(zone)).await?,
        };
        let since = slot.outdated_since_us.load(Ordering::Relaxed);
        if since != 0 && self.clock.unix_micros().saturating_sub(since) > self.outdated_max_us {
            return Err(ZoneError::Unavailable);
        }
        slot.model().ok_or(ZoneError::Unavailable)
    }

    /// The model of `zone` if it is in memory, whatever its age: for evidence about a refusal.
    pub(crate) fn known(&self, zone: &ZoneId) -> Option<Arc<ZoneModel>> {
        self.zones.get(zone)?.model()
    }

    /// The version served now, if the zone is in memory.
    pub(crate) fn served_version(&self, zone: &ZoneId) -> Option<i64> {
        Some(self.zones.get(zone)?.model()?.version)
    }

    /// Before a refusal that was decided on version `seen`: has `zone` moved on, although no announcement had arrived
    /// here? If so, waits for the newer model. `false` when nothing newer existed at the time of the call. Callers of the same
    /// moment share one statement; there is at most one for a zone in a tenth of a second, and who comes sooner waits for it.
    pub(crate) async fn catch_up(&self, zone: &ZoneId, seen: Option<i64>) -> bool {
        tokio::time::timeout(CATCH_UP_WAIT, self.has_caught_up(zone, seen))
            .await
            .unwrap_or(false)
    }

    async fn has_caught_up(&self, zone: &ZoneId, seen: Option<i64>) -> bool {
        let Some(slot) = self.zones.get(zone) else {
            return false;
        };
        let arrived_us = self.clock.unix_micros();
        let mut checked_us = slot.checked_us.lock().await;
        let Some(served) = slot.model() else { return false };
        if seen.is_some_and(|seen| seen != served.version) {
            return true;
        }
        if *checked_us > arrived_us {
            // Somebody asked while we waited for our turn.
            return false;
        }
        let passed_us = self.clock.unix_micros().saturating_sub(*checked_us);
        let left_us = CATCH_UP_PAUSE_US
            .saturating_sub(passed_us)
            .clamp(0, CATCH_UP_PAUSE_US);
        tokio::time::sleep(Duration::from_micros(left_us.unsigned_abs())).await;
        *checked_us = self.clock.unix_micros();
        match self.versions(std::slice::from_ref(zone)).await {
            Ok(versions) if versions.iter().any(|(_, version)| *version == served.version) => false,
            Ok(_) => self.reload(zone).await.is_ok(),
            Err(_) => false,
        }
    }

    /// Takes note that the configuration of `zone` has changed. `version` is what it has become, if the announcement
    /// said so.
    pub(crate) fn note_change(&self, zone: &ZoneId, version: Option<i64>) {
        self.announcements.fetch_add(1, Ordering::AcqRel);
        self.unknown.invalidate(zone);
        let Some(slot) = self.zones.get(zone) else { return };
        let Some(served) = slot.model() else { return };
        if version.is_none_or(|version| version > served.version) {
            self.mark_outdated(zone, &slot);
        }
    }

    /// Takes note that announcements may have been missed: every zone in memory is loaded again.
    pub(crate) fn note_loss(&self) {
        self.announcements.fetch_add(1, Ordering::AcqRel);
        self.unknown.invalidate_all();
        for (zone, slot) in &self.zones {
            self.mark_outdated(&zone, &slot);
        }
    }

    /// Loads `zone` again now, whatever its version.
    ///
    /// # Errors
    /// [`ZoneError`].
    pub(crate) async fn reload(&self, zone: &ZoneId) -> Result<Arc<ZoneModel>, ZoneError> {
        let previous = self.known(zone);
        let asked_us = self.clock.unix_micros();
        self.reloads.fetch_add(1, Ordering::Relaxed);
        match self.load(zone, previous).await {
            Ok(Some(model)) => {
                let model = Arc::new(model);
                self.install(zone, &model, asked_us);
                Ok(model)
            }
            Ok(None) => {
                self.zones.invalidate(zone);
                Err(ZoneError::Unknown)
            }
            Err(error) => {
                tracing::warn!(zone.id = %zone, error = &error as &dyn std::error::Error, "a zone cannot be read");
                Err(ZoneError::Unavailable)
            }
        }
    }

    /// Zones in memory, for metrics.
    pub(crate) fn len(&self) -> u64 {
        self.zones.run_pending_tasks();
        self.zones.entry_count()
    }

    /// Models loaded to replace another, for metrics.
    pub(crate) fn reloads(&self) -> u64 {
        self.reloads.load(Ordering::Relaxed)
    }

    /// Age of the policy that was compiled first, for metrics. Walks all zones in memory.
    pub(crate) fn oldest_policy(&self) -> Duration {
        let now = self.clock.unix_seconds();
        self.zones
            .iter()
            .filter_map(|(_, slot)| Some(slot.model()?.policy.age(now)))
            .max()
            .unwrap_or_default()
    }

    async fn first_load(&self, zone: &ZoneId) -> Result<Arc<Slot>, ZoneError> {
        if self.unknown.contains_key(zone) {
            return Err(ZoneError::Unknown);
        }
        let slot = self.zones.get_with_by_ref(zone, Arc::default);
        let before = self.announcements.load(Ordering::Acquire);
        let loaded = slot
            .model
            .get_or_try_init(|| self.load_first_model(zone))
            .await
            .map(|_| ());
        let is_undisturbed = self.announcements.load(Ordering::Acquire) == before;
        match loaded {
            Ok(()) if is_undisturbed => {}
            Ok(()) => self.mark_outdated(zone, &slot),
            Err(error) => {
                self.zones.invalidate(zone);
                if error == ZoneError::Unknown && is_undisturbed {
                    self.unknown.insert(zone.clone(), ());
                }
                return Err(error);
            }
        }
        Ok(slot)
    }

    async fn load_first_model(&self, zone: &ZoneId) -> Result<ArcSwap<ZoneModel>, ZoneError> {
        let _place = self.first_loads.acquire().await.or(Err(ZoneError::Unavailable))?;
        match self.load(zone, None).await {
            Ok(Some(model)) => Ok(ArcSwap::from_pointee(model)),
            Ok(None) => Err(ZoneError::Unknown),
            Err(error) => {
                tracing::warn!(zone.id = %zone, error = &error as &dyn std::error::Error, "a zone cannot be read");
                Err(ZoneError::Unavailable)
            }
        }
    }

    /// Compiling policies and opening keys takes milliseconds of CPU, so it is kept off the threads that serve.
    async fn load(
        &self,
        zone: &ZoneId,
        previous: Option<Arc<ZoneModel>>,
    ) -> Result<Option<ZoneModel>, LoadError> {
        let _timer = self.loading.seconds.start_timer();
        let mut tx = self.database.read().await?;
        let Some(rows) = zone_model::load(&mut tx, zone).await? else {
            return Ok(None);
        };
        drop(tx);
        let now = self.clock.unix_seconds();
        let (zone, keyring, loading) = (zone.clone(), Arc::clone(&self.keyring), self.loading.clone());
        let build = move || ZoneModel::build(&zone, rows, &keyring, previous.as_deref(), now, &loading);
        Ok(Some(tokio::task::spawn_blocking(build).await?))
    }

    /// Versions only rise, so of two loads that overlap the newer one stays. The mark is taken away only if it was
    /// there before the load began: an announcement during the load may be about something the load did not see.
    fn install(&self, zone: &ZoneId, model: &Arc<ZoneModel>, asked_us: i64) {
        let Some(slot) = self.zones.get(zone) else { return };
        let Some(served) = slot.model.get() else { return };
        served.rcu(|current| {
            Arc::clone(if current.version > model.version {
                current
            } else {
                model
            })
        });
        let since = slot.outdated_since_us.load(Ordering::Acquire);
        if since != 0 && since <= asked_us {
            let _marked_again =
                slot.outdated_since_us
                    .compare_exchange(since, 0, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    fn mark_outdated(&self, zone: &ZoneId, slot: &Slot) {
        let now = self.clock.unix_micros();
        let _marked_before =
            slot.outdated_since_us
                .compare_exchange(0, now, Ordering::AcqRel, Ordering::Relaxed);
        self.outdated_zones().insert(zone.clone());
        self.wake.notify_one();
    }

    async fn versions(&self, zones: &[ZoneId]) -> Result<Vec<(ZoneId, i64)>, StorageError> {
        let mut tx = self.database.read().await?;
        zone_model::versions(&mut tx, zones).await
    }

    fn outdated_zones(&self) -> std::sync::MutexGuard<'_, HashSet<ZoneId>> {
        self.outdated.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
