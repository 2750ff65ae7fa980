//! How does this replica hear of changes? Every stream it depends on, read with a cursor of its own.
//!
//! The cursor captures where the streams end, the revocations are read from the durable log, and everything after the
//! captured positions is applied as it comes. A revocation is in force, and what was remembered of a session or delegation
//! is forgotten, before the cursor moves past the entry: freshness says that memory holds nothing older. A zone's
//! configuration is marked as outdated and read again beside the requests; how long the old one may serve has a bound of
//! its own.

use std::sync::Arc;
use std::time::Duration;

use caracal_bus::cursor::Reload;
use caracal_bus::{Bus, BusError, Cursor, CursorEvent, Entry, StreamKeys};
use caracal_chassis::shutdown::Shutdown;
use caracal_storage::{StorageError, revocation};
use caracal_wire::event::{
    AgentsLifecycle, DelegationsInvalidate, EdgeEvent, EventError, KeysInvalidate, PolicyInvalidate,
    SessionsRevoke, ZonesInvalidate,
};
use caracal_wire::stream;
use tokio::sync::mpsc;

use crate::session_graph::Subject;
use crate::state::Sts;

const STREAMS: [&str; 6] = [
    stream::SESSIONS_REVOKE,
    stream::AGENTS_LIFECYCLE,
    stream::DELEGATIONS_INVALIDATE,
    stream::ZONES_INVALIDATE,
    stream::POLICY_INVALIDATE,
    stream::KEYS_INVALIDATE,
];

/// How long a revocation is remembered after it was announced, in seconds; the durable log may say longer.
const REMEMBERED_SECONDS: i64 = 86_400;
/// How often expired revocations are forgotten.
const PRUNE_PERIOD: Duration = Duration::from_mins(5);
/// Revocations that are read from the durable log, and told to a gateway, at a time: some hundred kilobytes.
pub(crate) const REVOCATIONS_A_PART: i64 = 5_000;
/// Pause before a snapshot is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Why the streams cannot be followed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FeedError {
    #[error("the event streams cannot be read")]
    Bus(#[from] BusError),
    #[error("the revocations cannot be read")]
    Storage(#[from] StorageError),
}

/// Captures the ends of the streams, then reads what is revoked.
///
/// # Errors
/// [`FeedError`].
pub(crate) async fn start(sts: &Sts, bus: Arc<dyn Bus>, keys: StreamKeys) -> Result<Cursor, FeedError> {
    let cursor = Cursor::start(bus, keys, &STREAMS)
        .await?
        .reporting_to(sts.revocations.freshness().clone());
    read_revocations(sts).await?;
    Ok(cursor)
}

/// Applies every change until the shutdown is requested.
pub(crate) async fn follow(sts: Arc<Sts>, cursor: Cursor, shutdown: Shutdown) {
    let (losses, lost) = mpsc::unbounded_channel();
    let handler = |event: CursorEvent<'_>| match event {
        CursorEvent::Entry {
            stream,
            entry,
            unreadable,
        } => {
            // Zones and the graph were forgotten by then; only the revoked set needs the durable log.
            if !note(&sts, stream, entry) && stream == stream::SESSIONS_REVOKE {
                unreadable.report();
            }
        }
        CursorEvent::Lost(reload) => {
            sts.graph.forget_all();
            sts.zones.note_loss();
            // Fails only while this task ends.
            let _ending = losses.send(reload);
        }
    };
    tokio::select! {
        () = cursor.run(handler, shutdown.requested()) => {}
        () = reload_after_losses(&sts, lost) => {}
        () = prune(&sts) => {}
    }
}

async fn read_revocations(sts: &Sts) -> Result<(), StorageError> {
    let mut tx = sts.database.read().await?;
    let mut after = Some(0);
    while let Some(from) = after {
        let part = revocation::live_after(&mut tx, from, REVOCATIONS_A_PART).await?;
        for revoked in part.revoked {
            sts.revocations
                .insert(&revoked.anchor, revoked.expires_at.unix_timestamp());
        }
        after = part.next;
    }
    Ok(())
}

async fn reload_after_losses(sts: &Sts, mut lost: mpsc::UnboundedReceiver<Reload>) {
    while let Some(reload) = lost.recv().await {
        while let Err(error) = read_revocations(sts).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the revocations cannot be read again"
            );
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        reload.done();
    }
    std::future::pending::<()>().await;
}

async fn prune(sts: &Sts) {
    loop {
        tokio::time::sleep(PRUNE_PERIOD).await;
        let forgotten = sts.revocations.prune(sts.clock.unix_seconds());
        tracing::debug!(forgotten, "forgot expired revocations");
    }
}

/// Applies one entry. One that cannot be read changes nothing it could be trusted with; what it may concern is forgotten.
/// Whether it could be read.
fn note(sts: &Sts, stream: &str, entry: &Entry) -> bool {
    sts.metrics.stream_entries.with_label_values(&[stream]).inc();
    let applied = match stream {
        stream::SESSIONS_REVOKE => note_revocation(sts, entry),
        stream::AGENTS_LIFECYCLE => AgentsLifecycle::from_fields(&entry.fields)
            .map(|message| sts.graph.note_change(Subject::Session(message.agent_session_id))),
        stream::DELEGATIONS_INVALIDATE => {
            DelegationsInvalidate::from_fields(&entry.fields).map(|message| note_delegations(sts, message))
        }
        stream::ZONES_INVALIDATE => ZonesInvalidate::from_fields(&entry.fields)
            .map(|message| sts.zones.note_change(&message.zone_id, Some(message.version))),
        stream::POLICY_INVALIDATE => PolicyInvalidate::from_fields(&entry.fields)
            .map(|message| sts.zones.note_change(&message.zone_id, None)),
        stream::KEYS_INVALIDATE => KeysInvalidate::from_fields(&entry.fields)
            .map(|message| sts.zones.note_change(&message.zone_id, None)),
        _ => Ok(()),
    };
    if let Err(error) = applied {
        let entry_id = entry.id;
        tracing::error!(stream, entry.id = %entry_id, %error, "an entry cannot be read; forgetting what it may concern");
        sts.graph.forget_all();
        sts.zones.note_loss();
        return false;
    }
    true
}

fn note_revocation(sts: &Sts, entry: &Entry) -> Result<(), EventError> {
    let message = SessionsRevoke::from_fields(&entry.fields)?;
    let until = sts.clock.unix_seconds().saturating_add(REMEMBERED_SECONDS);
    let subjects = [
        message.session_id.clone().map(Subject::Record),
        message.agent_session_id.clone().map(Subject::Session),
        message.delegation_edge_id.clone().map(Subject::Delegation),
    ];
    for subject in subjects.into_iter().flatten() {
        sts.graph.note_change(subject);
    }
    for anchor in message.anchors() {
        sts.revocations.insert(&anchor, until);
    }
    Ok(())
}

/// A new edge changes the epoch only. An edge that ends may take others along; when the message does not name them all,
/// everything known of the zone is read again.
fn note_delegations(sts: &Sts, message: DelegationsInvalidate) {
    sts.graph.note_epoch(&message.zone_id, message.epoch);
    match message.event {
        EdgeEvent::Create => {}
        EdgeEvent::Revoke | EdgeEvent::Expire => {
            let mut named = message.edge_ids;
            if !named.iter().any(|edge| Some(edge) == message.edge_id.as_ref()) {
                named.extend(message.edge_id);
            }
            let affected = message
                .affected_edges
                .and_then(|count| usize::try_from(count).ok());
            let names_all = affected.is_some_and(|count| count <= named.len());
            for edge in named {
                sts.graph.note_change(Subject::Delegation(edge));
            }
            if !names_all {
                sts.graph.note_change(Subject::Zone(message.zone_id));
            }
        }
    }
}
