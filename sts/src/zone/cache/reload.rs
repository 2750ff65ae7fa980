//! Who loads zones again, and who looks for changes that nobody announced?

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use caracal_chassis::shutdown::Shutdown;
use caracal_model::ZoneId;
use caracal_storage::StorageError;
use futures_util::StreamExt as _;

use super::{ZoneCache, ZoneError};

/// How many zones are loaded again at a time.
const RELOADS_AT_ONCE: usize = 4;
/// Pause before a failed load is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// Pause after reloads, so that a burst of changes to one zone is read together.
const COALESCE_PAUSE: Duration = Duration::from_millis(20);

impl ZoneCache {
    /// Loads outdated zones until the shutdown is requested; the owner of every reload but the first.
    pub(crate) async fn run_reloads(self: Arc<Self>, shutdown: Shutdown) {
        loop {
            tokio::select! {
                biased;
                () = shutdown.requested() => return,
                () = self.wake.notified() => {}
            }
            let zones = std::mem::take(&mut *self.outdated_zones());
            let reloads = futures_util::stream::iter(zones).map(|zone| {
                let this = Arc::clone(&self);
                async move {
                    let failed = matches!(this.reload(&zone).await, Err(ZoneError::Unavailable));
                    if failed && let Some(slot) = this.zones.get(&zone) {
                        this.mark_outdated(&zone, &slot);
                    }
                    failed
                }
            });
            let failed = reloads
                .buffer_unordered(RELOADS_AT_ONCE)
                .fold(false, |any, failed| std::future::ready(any || failed))
                .await;
            // What failed and what was announced meanwhile woke this task already; a failing database is not hurried.
            tokio::select! {
                () = shutdown.requested() => return,
                () = tokio::time::sleep(if failed { RETRY_PAUSE } else { COALESCE_PAUSE }) => {}
            }
        }
    }

    /// Asks the database every `period` which zones have moved, for a change that nobody announced.
    pub(crate) async fn run_polls(self: Arc<Self>, period: Duration, shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = shutdown.requested() => return,
                () = tokio::time::sleep(period) => {}
            }
            if let Err(error) = self.poll().await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the versions of zones cannot be read"
                );
            }
        }
    }

    async fn poll(&self) -> Result<(), StorageError> {
        let zones: Vec<ZoneId> = self.zones.iter().map(|(zone, _)| (*zone).clone()).collect();
        let versions: HashMap<ZoneId, i64> = self.versions(&zones).await?.into_iter().collect();
        for zone in zones {
            self.note_change(&zone, Some(versions.get(&zone).copied().unwrap_or(i64::MAX)));
        }
        Ok(())
    }
}
