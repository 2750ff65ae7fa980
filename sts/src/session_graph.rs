//! What does this replica know about a governed session and the delegation it acts under?
//!
//! A bounded cache over `storage::session_graph`. What it answers was read after every announcement this replica has
//! processed that concerns it ([`marks`]); how far behind the announcements may be is bounded by the freshness of the
//! streams. Cost when known: a few map reads; else one SQL statement, shared by all who wait for it.

mod epochs;
mod marks;
mod view;

use std::sync::Arc;
use std::time::Duration;

use caracal_model::ZoneId;
use caracal_storage::session_graph::{self as rows, GraphKey};
use caracal_storage::{Database, StorageError};
use prometheus::{Histogram, IntCounter};

use self::epochs::Epochs;
use self::marks::Marks;
pub(crate) use self::marks::Subject;
pub(crate) use self::view::{EdgeDetails, KnownSession, View};

/// Where a view came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Read by or for this request.
    Database,
    /// Remembered.
    Memory,
}

/// The cache.
#[derive(Debug)]
pub(crate) struct SessionGraph {
    database: Database,
    views: moka::future::Cache<GraphKey, Arc<View>>,
    marks: Marks,
    epochs: Epochs,
    timing: Timing,
}

/// Where the statements are measured.
#[derive(Debug, Clone)]
pub(crate) struct Timing {
    pub(crate) seconds: Histogram,
    pub(crate) errors: IntCounter,
}

/// How many announcements are told apart; a view older than that many is read again.
const MARKS_MAX: usize = 65_536;

impl SessionGraph {
    /// Remembers at most `views_max` views, about 2 KiB each.
    pub(crate) fn new(database: Database, views_max: u64, timing: Timing) -> Self {
        let views = moka::future::Cache::builder()
            .max_capacity(views_max)
            .time_to_idle(Duration::from_mins(15))
            .build();
        Self {
            database,
            views,
            marks: Marks::new(MARKS_MAX),
            epochs: Epochs::default(),
            timing,
        }
    }

    /// What is known of `key`.
    ///
    /// # Errors
    /// [`StorageError`], shared with the others that waited for the same statement.
    pub(crate) async fn view(&self, key: &GraphKey) -> Result<(Arc<View>, Origin), Arc<StorageError>> {
        if let Some(view) = self.views.get(key).await {
            if self.marks.is_current(view.read_at, &view.subjects) {
                return Ok((view, Origin::Memory));
            }
            self.views.invalidate(key).await;
        }
        Box::pin(self.read(key)).await
    }

    /// Reads `key` again, whatever is remembered: before a refusal, because the change that would lift it (a new
    /// session, a heartbeat, a resumption) may not have been announced here yet.
    ///
    /// # Errors
    /// As [`SessionGraph::view`].
    pub(crate) async fn reread(&self, key: &GraphKey) -> Result<Arc<View>, Arc<StorageError>> {
        self.views.invalidate(key).await;
        Ok(self.read(key).await?.0)
    }

    /// The zone's graph epoch: the newest of what was read and what was announced.
    pub(crate) fn epoch(&self, zone: &ZoneId, view: &View) -> u64 {
        view.epoch.max(self.epochs.announced(zone))
    }

    /// Takes note that `subject` has changed; everything that was read about it before is old from now on.
    pub(crate) fn note_change(&self, subject: Subject) {
        self.marks.note(subject);
    }

    /// Takes note that the epoch of `zone` has reached `epoch`.
    pub(crate) fn note_epoch(&self, zone: &ZoneId, epoch: u64) {
        self.epochs.announce(zone, epoch);
    }

    /// Forgets everything, after announcements may have been missed.
    pub(crate) fn forget_all(&self) {
        self.marks.forget_all();
        self.views.invalidate_all();
    }

    /// Views held, for metrics; changes of the last moments may not be counted yet.
    pub(crate) fn len(&self) -> u64 {
        self.views.entry_count()
    }

    /// Shares one statement among all who ask at the same time. A statement that somebody else sent before the last
    /// announcement does not answer a request that came after it, so that one reads for itself.
    async fn read(&self, key: &GraphKey) -> Result<(Arc<View>, Origin), Arc<StorageError>> {
        let shared = self.views.try_get_with_by_ref(key, self.load(key)).await?;
        if self.marks.is_current(shared.read_at, &shared.subjects) {
            return Ok((shared, Origin::Database));
        }
        let own = self.load(key).await.map_err(Arc::new)?;
        self.views.insert(key.clone(), Arc::clone(&own)).await;
        Ok((own, Origin::Database))
    }

    async fn load(&self, key: &GraphKey) -> Result<Arc<View>, StorageError> {
        let timer = self.timing.seconds.start_timer();
        let loaded = self.load_now(key).await;
        timer.observe_duration();
        if loaded.is_err() {
            self.timing.errors.inc();
        }
        loaded
    }

    async fn load_now(&self, key: &GraphKey) -> Result<Arc<View>, StorageError> {
        let read_at = self.marks.position();
        let mut tx = self.database.read().await?;
        let rows = rows::load(&mut tx, key).await?;
        Ok(Arc::new(View::new(key, rows, read_at)))
    }
}
