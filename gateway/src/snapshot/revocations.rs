//! Which mandates are revoked, and how do we know? A snapshot from the STS, then every message after it. The same reader
//! hears that the keys of a zone have changed.
//!
//! The cursor captures the ends of the stream before the snapshot is asked for, so nothing falls between the two.
//! Until the snapshot is in and a watermark proves it complete, nothing counts as fresh and every request is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use caracal_bus::cursor::{Cursor, CursorEvent, Reload};
use caracal_bus::revocation::Revocations;
use caracal_bus::{Bus, BusError, StreamKeys};
use caracal_chassis::Clock;
use caracal_chassis::shutdown::Shutdown;
use caracal_model::Anchor;
use caracal_wire::event::KeysInvalidate;
use caracal_wire::stream::{KEYS_INVALIDATE, SESSIONS_REVOKE};
use tokio::sync::mpsc;

use crate::snapshot::keys::ZoneKeys;
use crate::sts_client::{StsClient, StsError};

/// How long a revocation is remembered: the longest life of a mandate, with a day to spare.
const REMEMBER_S: i64 = 24 * 3_600;
/// The STS answers the snapshot from its own memory, which may be older than our capture by its freshness bound.
const SNAPSHOT_AGE_MAX: Duration = Duration::from_mins(2);
/// Pause between attempts to load the first snapshot.
const RETRY: Duration = Duration::from_millis(500);
/// How often expired revocations are forgotten.
const PRUNE_EVERY: Duration = Duration::from_mins(5);

/// What this replica knows of revocations.
#[derive(Debug)]
pub(crate) struct RevocationState {
    set: Revocations,
    bound: Duration,
    clock: Clock,
    sts: Arc<StsClient>,
    zone_keys: Arc<ZoneKeys>,
    messages: AtomicU64,
    reloads: AtomicU64,
    reload_errors: AtomicU64,
}

/// Why a snapshot could not be loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    /// The STS did not give one.
    #[error("the STS gave no revocation snapshot")]
    Sts(#[source] StsError),
    /// The bus did not say where its streams end.
    #[error("the event bus did not answer")]
    Bus(#[source] BusError),
    /// A part of it names an earlier one as the next.
    #[error("the parts of the revocation snapshot have no end")]
    Endless,
    /// An anchor of the snapshot is none.
    #[error("the revocation snapshot names something that is no id")]
    Anchor(#[source] caracal_model::IdError),
}

impl RevocationState {
    /// Knows nothing yet, so nothing is fresh. Knowledge older than `bound` counts as stale.
    pub(crate) fn new(sts: Arc<StsClient>, zone_keys: Arc<ZoneKeys>, bound: Duration, clock: Clock) -> Self {
        Self {
            set: Revocations::new(),
            bound,
            clock,
            sts,
            zone_keys,
            messages: AtomicU64::new(0),
            reloads: AtomicU64::new(0),
            reload_errors: AtomicU64::new(0),
        }
    }

    /// The revoked anchors.
    pub(crate) fn set(&self) -> &Revocations {
        &self.set
    }

    /// Whether everything committed up to `bound` ago is known. One atomic load.
    pub(crate) fn is_fresh(&self, now: SystemTime) -> bool {
        self.set.freshness().is_fresh(now, self.bound)
    }

    /// How old the knowledge is; `None` when nothing is proved.
    pub(crate) fn age(&self, now: SystemTime) -> Option<Duration> {
        self.set.freshness().age(now)
    }

    /// Messages applied, snapshots loaded, snapshots failed.
    pub(crate) fn counts(&self) -> (u64, u64, u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (
            read(&self.messages),
            read(&self.reloads),
            read(&self.reload_errors),
        )
    }

    /// Loads the live revocations from the STS and adds them. Returns how many are known afterwards.
    ///
    /// # Errors
    /// [`SnapshotError`]; what was known stays known.
    pub(crate) async fn load(&self) -> Result<usize, SnapshotError> {
        let loaded = self.load_once().await;
        let counter = if loaded.is_ok() {
            &self.reloads
        } else {
            &self.reload_errors
        };
        counter.fetch_add(1, Ordering::Relaxed);
        loaded
    }

    async fn load_once(&self) -> Result<usize, SnapshotError> {
        let mut after = Some(0);
        while let Some(from) = after {
            let part = self.sts.revocations(from).await.map_err(SnapshotError::Sts)?;
            for revoked in &part.revocations {
                let anchor = Anchor::from_parts(revoked.kind, &revoked.id).map_err(SnapshotError::Anchor)?;
                self.set.insert(&anchor, revoked.expires_at);
            }
            after = part.next;
            if after.is_some_and(|next| next <= from) {
                return Err(SnapshotError::Endless);
            }
        }
        Ok(self.set.len())
    }

    /// Follows revocations until the shutdown: capture, snapshot, then messages; again from the start when messages
    /// were lost.
    pub(crate) async fn follow(self: Arc<Self>, bus: Arc<dyn Bus>, keys: StreamKeys, shutdown: Shutdown) {
        let cursor = loop {
            match self.begin(&bus, &keys).await {
                Ok(cursor) => break cursor,
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "revocations cannot be loaded yet"
                    );
                    tokio::select! {
                        () = shutdown.requested() => return,
                        () = tokio::time::sleep(RETRY) => {}
                    }
                }
            }
        };
        let (lost, reloads) = mpsc::unbounded_channel();
        let reader = cursor.run(|event| self.apply(event, &lost), shutdown.requested());
        tokio::select! {
            () = reader => {}
            () = self.reload_when_lost(reloads) => {}
            () = self.prune() => {}
        }
    }

    async fn begin(&self, bus: &Arc<dyn Bus>, keys: &StreamKeys) -> Result<Cursor, SnapshotError> {
        let streams = [SESSIONS_REVOKE, KEYS_INVALIDATE];
        let cursor = Cursor::start_with_overlap(Arc::clone(bus), keys.clone(), &streams, SNAPSHOT_AGE_MAX)
            .await
            .map_err(SnapshotError::Bus)?;
        let known = self.load().await?;
        tracing::info!(revocations = known, "revocation snapshot loaded");
        Ok(cursor.reporting_to(self.set.freshness().clone()))
    }

    fn apply(&self, event: CursorEvent<'_>, lost: &mpsc::UnboundedSender<Reload>) {
        match event {
            CursorEvent::Entry {
                stream: KEYS_INVALIDATE,
                entry,
                ..
            } => match KeysInvalidate::from_fields(&entry.fields) {
                Ok(message) => self.zone_keys.note_change(&message.zone_id),
                Err(error) => {
                    tracing::warn!(entry.id = %entry.id, %error, "a message about keys cannot be read");
                    self.zone_keys.note_loss();
                }
            },
            CursorEvent::Entry {
                entry, unreadable, ..
            } => {
                let expires = self.clock.unix_seconds().saturating_add(REMEMBER_S);
                self.messages.fetch_add(1, Ordering::Relaxed);
                if self.set.insert_entry(entry, expires) == 0 {
                    tracing::warn!(entry.id = %entry.id, "a revocation message cannot be read");
                    unreadable.report();
                }
            }
            CursorEvent::Lost(reload) => {
                self.zone_keys.note_loss();
                // The receiver lives as long as the reader that calls this.
                drop(lost.send(reload));
            }
        }
    }

    /// Everything known stays known while the snapshot is taken again, so the set never shrinks by a reload.
    async fn reload_when_lost(&self, mut reloads: mpsc::UnboundedReceiver<Reload>) {
        while let Some(reload) = reloads.recv().await {
            match self.load().await {
                Ok(known) => {
                    tracing::info!(revocations = known, "revocation snapshot reloaded");
                    reload.done();
                }
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "revocations cannot be reloaded yet"
                    );
                }
            }
        }
    }

    async fn prune(&self) {
        loop {
            tokio::time::sleep(PRUNE_EVERY).await;
            self.set.prune(self.clock.unix_seconds());
        }
    }
}
