//! What does the service do without being asked?

use std::time::Duration;

use caracal_chassis::shutdown::Shutdown;
use caracal_storage::outbox::Producer;
use caracal_storage::revocation_cascade::{self, Root};
use caracal_storage::{Database, StorageError, ZoneScope, audit_read, outbox, revocation};

use crate::metrics::Metrics;

/// How often the backlog is counted.
const OUTBOX_WATCH_EVERY: Duration = Duration::from_secs(15);
/// How often records are swept.
const SWEEP_EVERY: Duration = Duration::from_mins(1);
/// Most rows one sweep changes of each kind.
const SWEEP_BATCH: i64 = 500;

/// Keeps the metrics of the outbox current.
pub(crate) async fn watch_outbox(database: Database, metrics: Metrics, shutdown: Shutdown) {
    while !shutdown.is_requested() {
        match backlog(&database).await {
            Ok(backlog) => show(&metrics, &backlog),
            Err(error) => tracing::debug!(error = %error, "the outbox could not be counted"),
        }
        pause(OUTBOX_WATCH_EVERY, &shutdown).await;
    }
}

fn show(metrics: &Metrics, backlog: &outbox::Backlog) {
    metrics.outbox_pending.set(backlog.pending);
    metrics.outbox_dead.set(backlog.dead);
    #[expect(clippy::cast_possible_truncation, reason = "an age in whole seconds")]
    metrics.outbox_oldest_seconds.set(backlog.oldest_seconds as i64);
}

async fn backlog(database: &Database) -> Result<outbox::Backlog, StorageError> {
    let mut tx = database.read().await?;
    outbox::backlog(&mut tx).await
}

/// Marks overdue records as expired, forgets revocations that no longer matter, and ends records that a token service
/// which had not heard yet issued to an application that was just archived.
pub(crate) async fn sweep_authority(database: Database, shutdown: Shutdown) {
    while !shutdown.is_requested() {
        if let Err(error) = sweep_once(&database).await {
            tracing::warn!(error = %error, "authority records were not swept");
        }
        pause(SWEEP_EVERY, &shutdown).await;
    }
}

async fn sweep_once(database: &Database) -> Result<(), StorageError> {
    let mut tx = database.write(ZoneScope::All).await?;
    audit_read::expire_authority_records(&mut tx, SWEEP_BATCH).await?;
    revocation::prune(&mut tx, SWEEP_BATCH).await?;
    tx.commit().await?;
    let mut tx = database.read().await?;
    let orphans = audit_read::records_of_archived_applications(&mut tx, SWEEP_BATCH).await?;
    drop(tx);
    for (zone, record) in orphans {
        let mut tx = database.write(ZoneScope::Zone(&zone)).await?;
        let root = Root::AuthorityRecord(&record);
        revocation_cascade::revoke(&mut tx, Producer::Api, &zone, root, "application_archived").await?;
        tx.commit().await?;
    }
    Ok(())
}

/// Waits for `period`, or until the shutdown is requested.
async fn pause(period: Duration, shutdown: &Shutdown) {
    tokio::select! {
        () = tokio::time::sleep(period) => {}
        () = shutdown.requested() => {}
    }
}
