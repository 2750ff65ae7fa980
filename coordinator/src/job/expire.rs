//! Who ends a session whose time ran out? This job: its descendants and delegations must not outlive it.

use std::sync::Arc;

use caracal_chassis::shutdown::Shutdown;
use caracal_model::{SessionId, ZoneId};
use caracal_storage::outbox::Producer;
use caracal_storage::revocation_cascade::{self, Root};
use caracal_storage::{StorageError, WriteTx, ZoneScope, idempotency, session};

use crate::state::Coordinator;

/// Sessions ended in one pass at most.
const BATCH: i64 = 500;

/// Sweeps until `shutdown`. Several replicas may sweep at once: each session ends in a transaction of its own.
pub(crate) async fn run(coordinator: Arc<Coordinator>, shutdown: Shutdown) {
    loop {
        tokio::select! {
            () = shutdown.requested() => return,
            () = tokio::time::sleep(coordinator.expiry_sweep) => {}
        }
        if let Err(error) = run_once(&coordinator).await {
            tracing::warn!(%error, "lapsed sessions could not be ended now");
        }
    }
}

/// One pass. A session that cannot be ended does not hold the others back.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub(crate) async fn run_once(coordinator: &Coordinator) -> Result<(), StorageError> {
    let mut tx = coordinator.database.read().await?;
    let lapsed = session::lapsed(&mut tx, BATCH).await?;
    drop(tx);
    for (zone, id) in lapsed {
        let (Ok(zone), Ok(id)) = (zone.parse::<ZoneId>(), id.parse::<SessionId>()) else {
            continue;
        };
        if let Err(error) = end(coordinator, &zone, &id).await {
            tracing::warn!(zone.id = zone.as_str(), session.id = id.as_str(), %error, "a lapsed session could not be ended");
        }
    }
    let mut tx = coordinator.database.write(ZoneScope::All).await?;
    idempotency::prune(&mut tx, BATCH).await?;
    tx.commit().await
}

async fn end(coordinator: &Coordinator, zone: &ZoneId, id: &SessionId) -> Result<(), StorageError> {
    let mut tx: WriteTx = coordinator.database.write(ZoneScope::Zone(zone)).await?;
    let ended =
        revocation_cascade::revoke(&mut tx, Producer::Coordinator, zone, Root::Session(id), "ttl").await?;
    if ended.sessions.contains(id) {
        session::mark_expired(&mut tx, zone, id).await?;
    }
    tx.commit().await
}
