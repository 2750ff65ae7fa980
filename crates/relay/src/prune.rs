//! Which rows are no longer of use to anybody?

use std::time::Duration;

use caracal_storage::{Database, StorageError, ZoneScope, outbox, revocation};
use tokio::sync::watch;

use crate::RelaySettings;
use crate::wait::{Outage, pause};

/// How often to look for old rows.
const EVERY: Duration = Duration::from_mins(1);
/// Most rows of each table deleted in one transaction.
const BATCH: i64 = 1_000;

/// Deletes published rows that are old enough, and revocations that no token can meet any more, until told to stop.
pub(crate) async fn run(database: &Database, settings: &RelaySettings, mut stopped: watch::Receiver<bool>) {
    let Some(after) = settings.prune_after else { return };
    let mut outage = Outage::new("pruning the outboxes");
    while !*stopped.borrow() {
        let wait = match once(database, after).await {
            Ok(0) => {
                outage.succeeded();
                EVERY
            }
            Ok(_more) => Duration::ZERO,
            Err(error) => outage.failed(&error).max(EVERY),
        };
        pause(&mut stopped, wait).await;
    }
}

/// One bounded transaction; answers how much it deleted.
async fn once(database: &Database, after: Duration) -> Result<u64, StorageError> {
    let mut tx = database.write(ZoneScope::All).await?;
    let messages = outbox::prune(&mut tx, after, BATCH).await?;
    let revocations = revocation::prune(&mut tx, BATCH).await?;
    tx.commit().await?;
    Ok(messages + revocations)
}
