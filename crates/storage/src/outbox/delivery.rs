//! Which promised messages does a relay hold, and what became of each?

use std::time::Duration;

use serde_json::Value;
use sqlx::Row;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;

use crate::error::StorageError;
use crate::outbox::Fields;
use crate::tx::WriteTx;

/// Which of the two tables a row is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// `event_outbox`.
    Event,
    /// `caracal_outbox`.
    Keyed,
}

/// A promised message that this relay holds.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// Table of the row.
    pub table: Table,
    /// Key of the row; goes out as the field `outbox_id`.
    pub id: String,
    /// Order in which the promises were made, over both tables.
    pub position: i64,
    /// Stream to publish to.
    pub stream: String,
    /// Fields as stored: members that are not strings are written as JSON, members that are null are left out.
    pub fields: Fields,
    /// Deduplication key of a keyed row; goes out as the field `dedupe_key`.
    pub dedupe_key: Option<String>,
    /// Failed attempts so far.
    pub attempts: i32,
    /// Start of the transaction that made the promise.
    pub created_at: OffsetDateTime,
}

/// Takes the turn to publish and locks up to `batch` due rows of each table, in the order they were promised.
///
/// One relay at a time has the turn, so that messages leave in order; `None` means that another one has it. Turn and rows
/// are held until `tx` ends: publish, then mark, then commit. If the relay dies they are free at once; if it hangs, or
/// loses the database, the server ends the transaction after `patience` without a statement. Either way the message may
/// already be out and goes out again, under the same outbox id. Two statements.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn claim(
    tx: &mut WriteTx,
    batch: i64,
    patience: Duration,
) -> Result<Option<Vec<Claimed>>, StorageError> {
    let turn: bool = sqlx::query_scalar(
        "SELECT pg_try_advisory_xact_lock(hashtext('caracal:outbox_relay'))
         FROM set_config('idle_in_transaction_session_timeout', $1, true)",
    )
    .bind(milliseconds(patience).to_string())
    .fetch_one(&mut *tx)
    .await?;
    if !turn {
        return Ok(None);
    }
    let rows = sqlx::query(CLAIM).bind(batch).fetch_all(tx).await?;
    rows.iter().map(claimed).collect::<Result<_, _>>().map(Some)
}

const CLAIM: &str = "WITH event AS (
         SELECT id, position, stream_name AS stream, payload_json, attempts, created_at, NULL AS dedupe_key
         FROM event_outbox WHERE dispatched_at IS NULL AND NOT dead AND available_at <= now()
         ORDER BY position LIMIT $1 FOR UPDATE SKIP LOCKED
     ), keyed AS (
         SELECT id, position, topic AS stream, payload_json, attempts, created_at, dedupe_key
         FROM caracal_outbox WHERE status = 'pending' AND available_at <= now()
         ORDER BY position LIMIT $1 FOR UPDATE SKIP LOCKED
     )
     SELECT * FROM event UNION ALL SELECT * FROM keyed ORDER BY position";

fn claimed(row: &PgRow) -> Result<Claimed, StorageError> {
    let dedupe_key: Option<String> = row.try_get("dedupe_key")?;
    Ok(Claimed {
        table: if dedupe_key.is_some() {
            Table::Keyed
        } else {
            Table::Event
        },
        id: row.try_get("id")?,
        position: row.try_get("position")?,
        stream: row.try_get("stream")?,
        fields: flatten(row.try_get("payload_json")?),
        dedupe_key,
        attempts: row.try_get("attempts")?,
        created_at: row.try_get("created_at")?,
    })
}

/// Turns a stored payload into fields: strings as they are, null left out, everything else as compact JSON.
fn flatten(payload: Value) -> Fields {
    let Value::Object(members) = payload else {
        return Fields::new();
    };
    members
        .into_iter()
        .filter_map(|(name, value)| match value {
            Value::Null => None,
            Value::String(text) => Some((name, text)),
            other => Some((name, other.to_string())),
        })
        .collect()
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn ids(rows: &[Claimed], table: Table) -> Vec<String> {
    rows.iter()
        .filter(|row| row.table == table)
        .map(|row| row.id.clone())
        .collect()
}

/// Records that the bus has taken these rows. One statement.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach; the rows go out again.
pub async fn mark_published(tx: &mut WriteTx, rows: &[Claimed]) -> Result<(), StorageError> {
    sqlx::query(
        "WITH event AS (
             UPDATE event_outbox SET dispatched_at = now() WHERE id = ANY($1)
         )
         UPDATE caracal_outbox SET status = 'published', published_at = now(), updated_at = now()
         WHERE id = ANY($2)",
    )
    .bind(ids(rows, Table::Event))
    .bind(ids(rows, Table::Keyed))
    .execute(tx)
    .await?;
    Ok(())
}

/// Counts a failed attempt for rows the bus refused, to be tried again after `2^attempts` s, at most `delay_max`.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach; the rows are then free unchanged.
pub async fn retry(
    tx: &mut WriteTx,
    rows: &[Claimed],
    delay_max: Duration,
    reason: &str,
) -> Result<(), StorageError> {
    sqlx::query(
        "WITH event AS (
             UPDATE event_outbox SET attempts = attempts + 1, last_error = $4,
                 available_at = now() + least($3, 1000 * power(2, least(attempts, 20))) * interval '1 millisecond'
             WHERE id = ANY($1) AND dispatched_at IS NULL
         )
         UPDATE caracal_outbox SET attempts = attempts + 1, last_error = $4, updated_at = now(),
             available_at = now() + least($3, 1000 * power(2, least(attempts, 20))) * interval '1 millisecond'
         WHERE id = ANY($2) AND status = 'pending'",
    )
    .bind(ids(rows, Table::Event))
    .bind(ids(rows, Table::Keyed))
    .bind(milliseconds(delay_max))
    .bind(reason)
    .execute(tx)
    .await?;
    Ok(())
}

/// Sets rows aside that will never go out by themselves. They stay visible, count in `backlog`, hold the watermark
/// back and can be put back with [`requeue`].
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn bury(tx: &mut WriteTx, rows: &[Claimed], reason: &str) -> Result<(), StorageError> {
    sqlx::query(
        "WITH event AS (
             UPDATE event_outbox SET attempts = attempts + 1, dead = true, last_error = $3
             WHERE id = ANY($1) AND dispatched_at IS NULL
         )
         UPDATE caracal_outbox SET attempts = attempts + 1, status = 'dead', last_error = $3,
             updated_at = now()
         WHERE id = ANY($2) AND status = 'pending'",
    )
    .bind(ids(rows, Table::Event))
    .bind(ids(rows, Table::Keyed))
    .bind(reason)
    .execute(tx)
    .await?;
    Ok(())
}

/// Puts dead rows back in line; all of them when `id` is `None`. Answers how many.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn requeue(tx: &mut WriteTx, id: Option<&str>) -> Result<u64, StorageError> {
    let count: i64 = sqlx::query_scalar(
        "WITH event AS (
             UPDATE event_outbox SET dead = false, attempts = 0, available_at = now()
             WHERE dead AND dispatched_at IS NULL AND ($1::text IS NULL OR id = $1) RETURNING 1
         ), keyed AS (
             UPDATE caracal_outbox SET status = 'pending', attempts = 0, available_at = now(), updated_at = now()
             WHERE status = 'dead' AND ($1::text IS NULL OR id = $1) RETURNING 1
         )
         SELECT (SELECT count(*) FROM event) + (SELECT count(*) FROM keyed)",
    )
    .bind(id)
    .fetch_one(tx)
    .await?;
    Ok(u64::try_from(count).unwrap_or_default())
}

/// Deletes up to `batch` rows of each table that went out more than `older_than` ago. Answers how many.
///
/// A keyed row must outlive every repetition of its key, so `older_than` is days, not minutes.
///
/// # Errors
/// [`StorageError::Refused`] for a role that may not delete outbox rows.
pub async fn prune(tx: &mut WriteTx, older_than: Duration, batch: i64) -> Result<u64, StorageError> {
    let count: i64 = sqlx::query_scalar(
        "WITH event AS (
             DELETE FROM event_outbox WHERE id IN (
                 SELECT id FROM event_outbox WHERE dispatched_at < now() - $1 * interval '1 millisecond'
                 ORDER BY dispatched_at LIMIT $2 FOR UPDATE SKIP LOCKED) RETURNING 1
         ), keyed AS (
             DELETE FROM caracal_outbox WHERE id IN (
                 SELECT id FROM caracal_outbox
                 WHERE status = 'published' AND published_at < now() - $1 * interval '1 millisecond'
                 ORDER BY published_at LIMIT $2 FOR UPDATE SKIP LOCKED) RETURNING 1
         )
         SELECT (SELECT count(*) FROM event) + (SELECT count(*) FROM keyed)",
    )
    .bind(milliseconds(older_than))
    .bind(batch)
    .fetch_one(tx)
    .await?;
    Ok(u64::try_from(count).unwrap_or_default())
}
