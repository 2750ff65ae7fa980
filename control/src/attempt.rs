//! How is a request recorded that changed nothing because it was refused?
//!
//! A change is recorded in its own transaction. A refusal has none, so it is handed to one background task through a
//! bounded queue: recording it never delays an answer, and a flood of refusals costs a bounded number of rows.

use std::sync::Arc;

use caracal_bus::HmacKey;
use caracal_chassis::Clock;
use caracal_chassis::shutdown::Shutdown;
use caracal_model::ZoneId;
use caracal_storage::admin_audit::{self, Record};
use caracal_storage::{Database, StorageError, ZoneScope, zone};
use time::OffsetDateTime;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::admin_token::Actor;
use crate::change;

/// Refusals that may wait; more are counted and forgotten.
const QUEUE_LENGTH: usize = 1024;
/// Longest part of a path that is recorded, in characters.
const PATH_CHARACTERS_MAX: usize = 1024;

/// A refused request.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) request_id: String,
    /// Whose token was used; `None` when it was not accepted.
    pub(crate) actor: Option<Arc<Actor>>,
    pub(crate) method: String,
    pub(crate) path: String,
    /// The zone in the path, as far as the caller was somebody.
    pub(crate) zone: Option<ZoneId>,
    pub(crate) status: u16,
}

/// Takes refused requests.
#[derive(Debug, Clone)]
pub(crate) struct AttemptRecorder(mpsc::Sender<Attempt>);

/// Writes them.
#[derive(Debug)]
pub(crate) struct AttemptJournal {
    queue: mpsc::Receiver<Attempt>,
    database: Database,
    clock: Clock,
    audit_key: Option<HmacKey>,
}

/// A recorder, and the journal that has to be run for it.
pub(crate) fn recorder(
    database: Database,
    clock: Clock,
    audit_key: Option<HmacKey>,
) -> (AttemptRecorder, AttemptJournal) {
    let (sender, queue) = mpsc::channel(QUEUE_LENGTH);
    (
        AttemptRecorder(sender),
        AttemptJournal {
            queue,
            database,
            clock,
            audit_key,
        },
    )
}

impl AttemptRecorder {
    /// Hands a refused request over; false when the queue is full.
    pub(crate) fn offer(&self, attempt: Attempt) -> bool {
        self.0.try_send(attempt).is_ok()
    }
}

impl AttemptJournal {
    /// Writes until the shutdown is requested, then what is still waiting.
    pub(crate) async fn run(mut self, shutdown: Shutdown) {
        loop {
            let attempt = tokio::select! {
                attempt = self.queue.recv() => attempt,
                () = shutdown.requested() => break,
            };
            match attempt {
                Some(attempt) => self.write(&attempt).await,
                None => break,
            }
        }
        shutdown.requested().await;
        while let Ok(attempt) = self.queue.try_recv() {
            self.write(&attempt).await;
        }
    }

    async fn write(&self, attempt: &Attempt) {
        if let Err(error) = self.try_write(attempt).await {
            tracing::warn!(request.id = attempt.request_id, error = %error, "a refused request was not recorded");
        }
    }

    async fn try_write(&self, attempt: &Attempt) -> Result<(), StorageError> {
        let mut tx = self.database.write(ZoneScope::All).await?;
        // A zone that does not exist has no chain: otherwise every invented id would make one.
        let zone = match &attempt.zone {
            Some(id) if zone::exists(&mut tx, id).await? => Some(id),
            _ => None,
        };
        let id = Uuid::now_v7().to_string();
        let path: String = attempt.path.chars().take(PATH_CHARACTERS_MAX).collect();
        let action = format!("{} {path}", attempt.method);
        let actor = attempt.actor.as_deref();
        let payload = actor.map(change::failure_payload);
        let record = Record {
            id: &id,
            request_id: &attempt.request_id,
            actor_id: actor.map(|actor| actor.id.as_str()),
            actor_name: actor.map(|actor| actor.name.as_str()),
            actor_scope: actor.map(Actor::scope),
            action: &action,
            method: &attempt.method,
            path: &path,
            zone_id: zone,
            entity_type: None,
            entity_id: None,
            status_code: attempt.status,
            payload: payload.as_deref(),
            occurred_at: OffsetDateTime::from(self.clock.now()),
        };
        admin_audit::append(&mut tx, self.audit_key.as_ref().map(HmacKey::expose), &record).await?;
        tx.commit().await
    }
}
