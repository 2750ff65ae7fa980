//! Which messages has a transaction promised to the event streams, and which of them are not out yet?
//!
//! Two tables hold promises: `event_outbox` (anything) and `caracal_outbox` (messages that carry a deduplication key).
//! A row is written in the same transaction as the change it announces; a relay claims it, publishes it and marks it.
//! Every row has `created_at` = start of its transaction, which is never after its commit: [`watermark`] rests on that.

use std::collections::BTreeMap;

use serde_json::Value;
use uuid::Uuid;

use crate::error::StorageError;
use crate::tx::WriteTx;

mod delivery;
mod watermark;

pub use delivery::{Claimed, Table, bury, claim, mark_published, prune, requeue, retry};
pub use watermark::{Backlog, Watermark, backlog, watermark};

/// The channel on which every insert into an outbox notifies at commit.
pub const CHANNEL: &str = "caracal_outbox";

/// Fields of a stream message, by name.
pub type Fields = BTreeMap<String, String>;

/// Who wrote a row of `caracal_outbox`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Producer {
    /// The control API.
    Api,
    /// The coordinator.
    Coordinator,
}

impl Producer {
    fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Coordinator => "coordinator",
        }
    }
}

/// Promises `fields` to `stream`, in the transaction that makes the change. Answers the outbox id.
///
/// # Errors
/// [`StorageError::Message`] when a name or value holds a control character: such a message could never be signed
/// (`docs/contract/database.md` section 4), so the change itself is refused.
pub async fn enqueue(tx: &mut WriteTx, stream: &str, fields: &Fields) -> Result<String, StorageError> {
    enqueue_for_request(tx, stream, fields, None).await
}

/// As [`enqueue`], and remembers which request caused the message.
///
/// # Errors
/// As [`enqueue`].
pub async fn enqueue_for_request(
    tx: &mut WriteTx,
    stream: &str,
    fields: &Fields,
    request_id: Option<&str>,
) -> Result<String, StorageError> {
    check_printable(stream, fields)?;
    let id = Uuid::now_v7().to_string();
    sqlx::query(
        "INSERT INTO event_outbox (id, stream_name, payload_json, request_id) VALUES ($1, $2, $3, $4)",
    )
    .bind(&id)
    .bind(stream)
    .bind(payload(fields))
    .bind(request_id)
    .execute(tx)
    .await?;
    Ok(id)
}

/// Promises `fields` to `stream` unless the producer already promised something under the same key.
///
/// The key must name the occurrence, not just the thing: a session may be suspended twice, so its key carries the time.
///
/// # Errors
/// As [`enqueue`].
pub async fn enqueue_once(
    tx: &mut WriteTx,
    producer: Producer,
    stream: &str,
    dedupe_key: &str,
    fields: &Fields,
) -> Result<bool, StorageError> {
    check_printable(stream, fields)?;
    let inserted = sqlx::query(
        "INSERT INTO caracal_outbox (id, producer, topic, dedupe_key, payload_json) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (producer, topic, dedupe_key) DO NOTHING",
    )
    .bind(Uuid::now_v7().to_string())
    .bind(producer.as_str())
    .bind(stream)
    .bind(dedupe_key)
    .bind(payload(fields))
    .execute(tx)
    .await?;
    Ok(inserted.rows_affected() == 1)
}

fn payload(fields: &Fields) -> Value {
    Value::Object(
        fields
            .iter()
            .map(|(name, value)| (name.clone(), Value::String(value.clone())))
            .collect(),
    )
}

/// A signature covers lines of `name=value`; a line feed in one value would let it imitate another field. The rule is that
/// of the signature: it refuses U+0000 to U+001F.
fn check_printable(stream: &str, fields: &Fields) -> Result<(), StorageError> {
    let is_control = |c: char| c < ' ';
    let fault = fields
        .iter()
        .find(|(name, value)| name.contains('=') || name.contains(is_control) || value.contains(is_control));
    match fault {
        None => Ok(()),
        Some((name, _)) => Err(StorageError::Message {
            stream: stream.to_owned(),
            field: name.escape_default().to_string(),
            problem: "cannot be signed: it holds a control character, or its name an equals sign",
        }),
    }
}
