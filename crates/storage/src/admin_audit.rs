//! How is an administrative change recorded so that the record can be verified later?
//!
//! The record is appended in the transaction that makes the change: there is never a change without a record, nor a
//! record without a change. Each zone has its own hash chain, and so has everything that belongs to no zone. The
//! construction is in `docs/contract/database.md` section 5.

use aws_lc_rs::{digest, hmac};
use caracal_model::ZoneId;
use sqlx::Row;
use time::OffsetDateTime;

use crate::error::StorageError;
use crate::tx::WriteTx;

mod verify;

pub use verify::{Verdict, verify};

/// Ends every field in the hashed text.
const END: u8 = 0x1F;

/// One administrative request, as it is recorded.
#[derive(Clone, Debug)]
pub struct Record<'a> {
    /// Id of the record.
    pub id: &'a str,
    /// Request that caused it.
    pub request_id: &'a str,
    /// Who did it.
    pub actor_id: Option<&'a str>,
    /// Their name.
    pub actor_name: Option<&'a str>,
    /// What they may do, e.g. `global`.
    pub actor_scope: Option<&'a str>,
    /// `METHOD path`.
    pub action: &'a str,
    /// HTTP method.
    pub method: &'a str,
    /// Path without query.
    pub path: &'a str,
    /// Zone the record belongs to; `None` for the platform's own chain.
    pub zone_id: Option<&'a ZoneId>,
    /// Kind of the changed thing.
    pub entity_type: Option<&'a str>,
    /// Its id.
    pub entity_id: Option<&'a str>,
    /// HTTP status answered.
    pub status_code: u16,
    /// JSON text that describes the change; hashed and stored byte for byte. Never holds secret values.
    pub payload: Option<&'a str>,
    /// When it happened; stored and hashed in whole milliseconds.
    pub occurred_at: OffsetDateTime,
}

/// Where a record stands in its chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Position in the chain, from 1 without gaps.
    pub seq: i64,
    /// Lower-case hex SHA-256 of the record.
    pub content_sha256: String,
}

/// Appends `record` to its chain, in the transaction of the change. Signs the link when `key` is given.
///
/// Records of one chain queue on the row that holds the chain's head until the transaction ends, so call this last.
///
/// # Errors
/// [`StorageError::Invalid`] when the payload is not JSON, [`StorageError::Conflict`] when the id is taken.
pub async fn append(tx: &mut WriteTx, key: Option<&[u8]>, record: &Record<'_>) -> Result<Link, StorageError> {
    let occurred_at = whole_milliseconds(record.occurred_at);
    let content = content_sha256(record, occurred_at);
    let chain = record.zone_id.map_or("", ZoneId::as_str);
    let (seq, previous) = advance(tx, chain, &content).await?;
    let signature = key.map(|key| chain_hmac(key, &content, previous.as_deref()));
    sqlx::query(
        "INSERT INTO admin_audit_events
             (id, request_id, actor_id, actor_name, actor_scope, action, method, path, zone_id, entity_type, entity_id,
              status_code, payload_json, payload_text, occurred_at, content_sha256, prev_content_sha256, chain_hmac,
              chain_seq)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13::text::jsonb, $13, $14, $15, $16, $17, $18)",
    )
    .bind(record.id)
    .bind(record.request_id)
    .bind(record.actor_id)
    .bind(record.actor_name)
    .bind(record.actor_scope)
    .bind(record.action)
    .bind(record.method)
    .bind(record.path)
    .bind(record.zone_id.map(ZoneId::as_str))
    .bind(record.entity_type)
    .bind(record.entity_id)
    .bind(i32::from(record.status_code))
    .bind(record.payload)
    .bind(occurred_at)
    .bind(&content)
    .bind(previous)
    .bind(signature)
    .bind(seq)
    .execute(tx)
    .await?;
    Ok(Link {
        seq,
        content_sha256: content,
    })
}

/// Moves the head of `chain` on by one record; answers its position and the content hash before it.
async fn advance(
    tx: &mut WriteTx,
    chain: &str,
    content: &str,
) -> Result<(i64, Option<String>), StorageError> {
    let row = sqlx::query(
        "INSERT INTO admin_audit_chain_heads AS head (zone_id, seq, content_sha256) VALUES ($1, 1, $2)
         ON CONFLICT (zone_id) DO UPDATE SET seq = head.seq + 1, previous_sha256 = head.content_sha256,
             content_sha256 = excluded.content_sha256, updated_at = now()
         RETURNING seq, previous_sha256",
    )
    .bind(chain)
    .bind(content)
    .fetch_one(tx)
    .await?;
    Ok((row.try_get("seq")?, row.try_get("previous_sha256")?))
}

/// The database keeps microseconds; the hashed text has milliseconds.
fn whole_milliseconds(time: OffsetDateTime) -> OffsetDateTime {
    time.to_offset(time::UtcOffset::UTC).truncate_to_millisecond()
}

/// `YYYY-MM-DDTHH:MM:SS.mmmZ`, the form of ECMAScript's `toISOString`.
fn iso_milliseconds(time: OffsetDateTime) -> String {
    let (date, clock) = (time.date(), time.time());
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        clock.hour(),
        clock.minute(),
        clock.second(),
        clock.millisecond()
    )
}

/// Lower-case hex SHA-256 over the fourteen fields of the record, each followed by the byte 0x1F; absent means empty.
fn content_sha256(record: &Record<'_>, occurred_at: OffsetDateTime) -> String {
    let status = record.status_code.to_string();
    let occurred = iso_milliseconds(occurred_at);
    let fields = [
        record.id,
        record.request_id,
        record.actor_id.unwrap_or_default(),
        record.actor_name.unwrap_or_default(),
        record.actor_scope.unwrap_or_default(),
        record.action,
        record.method,
        record.path,
        record.zone_id.map_or("", ZoneId::as_str),
        record.entity_type.unwrap_or_default(),
        record.entity_id.unwrap_or_default(),
        &status,
        record.payload.unwrap_or_default(),
        &occurred,
    ];
    let mut hash = digest::Context::new(&digest::SHA256);
    for field in fields {
        hash.update(field.as_bytes());
        hash.update(&[END]);
    }
    hex::encode(hash.finish())
}

/// What a link signs: `content|previous`, where the first record's previous is empty.
fn link_text(content: &str, previous: Option<&str>) -> String {
    format!("{content}|{}", previous.unwrap_or_default())
}

/// Lower-case hex HMAC-SHA256 of the link.
fn chain_hmac(key: &[u8], content: &str, previous: Option<&str>) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hex::encode(hmac::sign(&key, link_text(content, previous).as_bytes()))
}
