//! What goes on beside the requests: listening for decisions, and forgetting what is long over.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use caracal_chassis::shutdown::Shutdown;
use caracal_model::ApprovalState;
use caracal_storage::approval::Approval;
use caracal_storage::pool::Notifications;
use caracal_storage::{StorageError, ZoneScope, approval};

use super::Told;
use crate::state::Sts;

/// How often those who wait are looked after although nothing was heard: one statement for all of them.
const LOOK_PERIOD: Duration = Duration::from_secs(5);
/// Pause before a lost connection is tried again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);
const SWEEP_PERIOD: Duration = Duration::from_hours(1);
/// Rows deleted by one statement.
const SWEEP_BATCH: i64 = 1_000;

/// Tells waiters when an approval is decided, until the shutdown is requested.
pub(crate) async fn listen(sts: Arc<Sts>, shutdown: Shutdown) {
    let listening = async {
        loop {
            match sts.database.listen(&[approval::CHANNEL]).await {
                Ok(notifications) => follow(&sts, notifications).await,
                Err(error) => warn(&error),
            }
            look(&sts).await;
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
    };
    tokio::select! {
        () = listening => {}
        () = shutdown.requested() => {}
    }
}

/// Returns when the connection is lost.
async fn follow(sts: &Sts, mut notifications: Notifications) {
    // The first tick is at once: what was decided before we listened.
    let mut looks = tokio::time::interval(LOOK_PERIOD);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            received = notifications.next() => match received {
                Ok(Some(notification)) => tell(sts, notification.payload).await,
                // Connected again: what was said in between is lost.
                Ok(None) => look(sts).await,
                Err(error) => return warn(&error),
            },
            _tick = looks.tick() => look(sts).await,
        }
    }
}

/// Reads an approval that was decided, for all who wait for it. What cannot be read now is found by the next look.
async fn tell(sts: &Sts, id: String) {
    if sts.waiters.waits_for(&id)
        && let Err(error) = tell_all(sts, &[id]).await
    {
        warn(&error);
    }
}

/// Tells whoever waits for something that is settled.
async fn look(sts: &Sts) {
    let ids = sts.waiters.ids();
    if ids.is_empty() {
        return;
    }
    if let Err(error) = tell_settled(sts, &ids).await {
        warn(&error);
    }
}

async fn tell_settled(sts: &Sts, ids: &[String]) -> Result<(), StorageError> {
    let mut tx = sts.database.read().await?;
    let settled = approval::settled(&mut tx, ids).await?;
    drop(tx);
    if settled.is_empty() {
        return Ok(());
    }
    tell_all(sts, &settled).await
}

/// One statement, however many wait.
async fn tell_all(sts: &Sts, ids: &[String]) -> Result<(), StorageError> {
    let mut tx = sts.database.read().await?;
    let mut found: HashMap<String, Approval> = approval::find_all(&mut tx, ids)
        .await?
        .into_iter()
        .map(|approval| (approval.id.clone(), approval))
        .collect();
    for id in ids {
        match found.remove(id) {
            None => sts.waiters.tell(id, Told::Gone),
            Some(approval) if approval.state() == ApprovalState::Pending => {}
            Some(approval) => sts.waiters.tell(id, Told::Settled(Arc::new(approval))),
        }
    }
    Ok(())
}

fn warn(error: &StorageError) {
    tracing::warn!(
        error = error as &dyn std::error::Error,
        "decisions about approvals cannot be heard"
    );
}

/// Deletes approvals that were finished a day ago, every hour.
pub(crate) async fn sweep(sts: Arc<Sts>, shutdown: Shutdown) {
    let sweeping = async {
        loop {
            if let Err(error) = sweep_once(&sts).await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "old approvals cannot be deleted"
                );
            }
            tokio::time::sleep(SWEEP_PERIOD).await;
        }
    };
    tokio::select! {
        () = sweeping => {}
        () = shutdown.requested() => {}
    }
}

async fn sweep_once(sts: &Sts) -> Result<(), StorageError> {
    loop {
        let mut tx = sts.database.write(ZoneScope::All).await?;
        let deleted = approval::sweep(&mut tx, SWEEP_BATCH).await?;
        tx.commit().await?;
        if deleted < SWEEP_BATCH.unsigned_abs() {
            return Ok(());
        }
    }
}
