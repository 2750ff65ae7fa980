//! Which rows wait, and how do they get onto the streams?

use caracal_bus::{BusError, Publisher};
use caracal_storage::outbox::{self, Claimed};
use caracal_storage::{Database, StorageError, ZoneScope};
use thiserror::Error;
use tokio::sync::watch;

use crate::RelaySettings;
use crate::batch::{self, Outcome};
use crate::wait::{Outage, Wakeups, pause, requested};

/// Why a turn could not be finished.
#[derive(Debug, Error)]
enum TurnError {
    #[error("the outbox could not be read or marked")]
    Storage(#[from] StorageError),
    #[error("the messages could not be published")]
    Bus(#[from] BusError),
}

/// What to do after a turn.
enum Next {
    /// More rows may be waiting: look again at once.
    Again,
    /// Nothing left, or another relay has the turn.
    Wait,
}

/// Delivers until told to stop; never stops between publishing a batch and marking it.
pub(crate) async fn run(
    database: &Database,
    publisher: &Publisher,
    settings: &RelaySettings,
    mut stopped: watch::Receiver<bool>,
) {
    let mut wakeups = Wakeups::new(database);
    let mut outage = Outage::new("the outbox relay");
    while !*stopped.borrow() {
        wakeups.listen().await;
        match turn(database, publisher, settings).await {
            Ok(next) => {
                outage.succeeded();
                if matches!(next, Next::Wait) {
                    tokio::select! {
                        () = wakeups.wait(settings.poll) => {}
                        () = requested(&mut stopped) => {}
                    }
                }
            }
            Err(error) => {
                settings.stats.count_outage();
                pause(&mut stopped, outage.failed(&error)).await;
            }
        }
    }
}

/// Claims, publishes and marks one batch. The rows stay locked until they are marked, so no other relay takes them, and
/// a crash in between sets them free.
async fn turn(
    database: &Database,
    publisher: &Publisher,
    settings: &RelaySettings,
) -> Result<Next, TurnError> {
    let mut tx = database.write(ZoneScope::All).await?;
    let Some(rows) = outbox::claim(&mut tx, i64::from(settings.batch), settings.patience).await? else {
        return Ok(Next::Wait);
    };
    if rows.is_empty() {
        return Ok(Next::Wait);
    }
    let is_full = rows.len() >= usize::from(settings.batch);
    let outcome = batch::publish(publisher, rows).await;
    settings.stats.count_published(outcome.published.len());
    let (error, is_outage) = record(&mut tx, outcome, settings).await?;
    tx.commit().await?;
    match error {
        Some(error) if is_outage => Err(error.into()),
        _ if is_full => Ok(Next::Again),
        // Rows committed while this batch was on its way have been announced: the wait ends at once.
        _ => Ok(Next::Wait),
    }
}

/// Writes down what became of the rows; answers what went wrong at the bus and whether it was out of reach.
async fn record(
    tx: &mut caracal_storage::WriteTx,
    outcome: Outcome,
    settings: &RelaySettings,
) -> Result<(Option<BusError>, bool), StorageError> {
    let Outcome {
        published,
        refused,
        unsignable,
        error,
        is_outage,
    } = outcome;
    let reason = error.as_ref().map(described).unwrap_or_default();
    let (exhausted, again): (Vec<Claimed>, Vec<Claimed>) = refused
        .into_iter()
        .partition(|row| row.attempts + 1 >= settings.attempts_max);
    let dead: Vec<Claimed> = unsignable.into_iter().chain(exhausted).collect();
    if !published.is_empty() {
        outbox::mark_published(tx, &published).await?;
    }
    if !again.is_empty() {
        settings.stats.count_refused(again.len());
        tracing::warn!(
            rows = again.len(),
            reason,
            "the event bus refused messages; they will be tried again"
        );
        outbox::retry(tx, &again, settings.retry_max, &reason).await?;
    }
    if !dead.is_empty() {
        settings.stats.count_buried(dead.len());
        tracing::error!(
            rows = dead.len(),
            reason,
            "messages were set aside as dead and hold the watermark back"
        );
        outbox::bury(tx, &dead, &reason).await?;
    }
    Ok((error, is_outage))
}

/// The error with its cause, for the row and the log. Bus errors hold no message contents.
fn described(error: &BusError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
