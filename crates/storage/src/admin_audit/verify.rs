//! Is a chain of administrative records whole and unchanged?

use aws_lc_rs::hmac;
use caracal_model::ZoneId;
use sqlx::Row;
use sqlx::postgres::PgRow;
use time::OffsetDateTime;

use crate::admin_audit::{Record, content_sha256, link_text};
use crate::error::StorageError;
use crate::tx::ReadTx;

/// What a verification of one chain found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every record is as it was written and none is missing.
    Intact {
        /// Number of records.
        records: i64,
    },
    /// The first position that does not fit, and why.
    Broken {
        /// Position in the chain.
        seq: i64,
        /// What does not fit.
        fault: &'static str,
    },
}

/// Recomputes the chain of `zone` (or the platform's own chain) from its first record to its head.
///
/// Without `key` the hashes and positions are checked, not the signatures.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn verify(
    tx: &mut ReadTx,
    key: Option<&[u8]>,
    zone: Option<&ZoneId>,
) -> Result<Verdict, StorageError> {
    let mut previous: Option<String> = None;
    let mut seq = 0_i64;
    loop {
        let rows = page(tx, zone, seq).await?;
        if rows.is_empty() {
            return end(tx, zone, seq, previous).await;
        }
        let start = seq;
        let mut found = None;
        for row in &rows {
            found = fault_of(row, zone, key, seq + 1, previous.as_deref())?;
            if found.is_some() {
                break;
            }
            seq += 1;
            previous = row.try_get("content_sha256")?;
        }
        if let Some(seq) = first_diverging_payload(tx, zone, start, seq).await? {
            return Ok(Verdict::Broken {
                seq,
                fault: "the payload was changed",
            });
        }
        if let Some(fault) = found {
            return Ok(Verdict::Broken { seq: seq + 1, fault });
        }
    }
}

/// The records after position `seq`, a bounded number.
async fn page(tx: &mut ReadTx, zone: Option<&ZoneId>, seq: i64) -> Result<Vec<PgRow>, StorageError> {
    Ok(sqlx::query(
        "SELECT id, request_id, actor_id, actor_name, actor_scope, action, method, path, zone_id, entity_type, entity_id,
             status_code, payload_text, occurred_at, content_sha256, prev_content_sha256, chain_hmac, chain_seq
         FROM admin_audit_events WHERE coalesce(zone_id, '') = $1 AND chain_seq > $2 ORDER BY chain_seq LIMIT 500",
    )
    .bind(zone.map_or("", ZoneId::as_str))
    .bind(seq)
    .fetch_all(tx)
    .await?)
}

/// The first record after `start`, up to `end`, whose readable payload is not the one that was hashed.
///
/// Asked only about records whose text has been checked: the text of others need not even be JSON.
async fn first_diverging_payload(
    tx: &mut ReadTx,
    zone: Option<&ZoneId>,
    start: i64,
    end: i64,
) -> Result<Option<i64>, StorageError> {
    Ok(sqlx::query_scalar(
        "SELECT min(chain_seq) FROM admin_audit_events
         WHERE coalesce(zone_id, '') = $1 AND chain_seq > $2 AND chain_seq <= $3
           AND payload_json IS DISTINCT FROM payload_text::jsonb",
    )
    .bind(zone.map_or("", ZoneId::as_str))
    .bind(start)
    .bind(end)
    .fetch_one(tx)
    .await?)
}

/// Compares the last record with the head of the chain: records cut off at the end are missed here.
async fn end(
    tx: &mut ReadTx,
    zone: Option<&ZoneId>,
    seq: i64,
    last: Option<String>,
) -> Result<Verdict, StorageError> {
    let head: Option<(i64, String)> =
        sqlx::query_as("SELECT seq, content_sha256 FROM admin_audit_chain_heads WHERE zone_id = $1")
            .bind(zone.map_or("", ZoneId::as_str))
            .fetch_optional(tx)
            .await?;
    let (head_seq, head_content) = head.map_or((0, None), |(seq, content)| (seq, Some(content)));
    if head_seq == seq && head_content == last {
        return Ok(Verdict::Intact { records: seq });
    }
    Ok(Verdict::Broken {
        seq: seq + 1,
        fault: "the chain does not end where its head says",
    })
}

/// What is wrong with the record at `seq`, if anything.
fn fault_of(
    row: &PgRow,
    zone: Option<&ZoneId>,
    key: Option<&[u8]>,
    seq: i64,
    previous: Option<&str>,
) -> Result<Option<&'static str>, StorageError> {
    let stored_seq: i64 = row.try_get("chain_seq")?;
    if stored_seq != seq {
        return Ok(Some("a record is missing"));
    }
    let stored_content: String = row.try_get("content_sha256")?;
    let occurred_at: OffsetDateTime = row.try_get("occurred_at")?;
    let status: i32 = row.try_get("status_code")?;
    let record = Record {
        id: row.try_get("id")?,
        request_id: row.try_get("request_id")?,
        actor_id: row.try_get("actor_id")?,
        actor_name: row.try_get("actor_name")?,
        actor_scope: row.try_get("actor_scope")?,
        action: row.try_get("action")?,
        method: row.try_get("method")?,
        path: row.try_get("path")?,
        zone_id: zone,
        entity_type: row.try_get("entity_type")?,
        entity_id: row.try_get("entity_id")?,
        status_code: u16::try_from(status).unwrap_or_default(),
        payload: row.try_get("payload_text")?,
        occurred_at,
    };
    let stored_previous: Option<String> = row.try_get("prev_content_sha256")?;
    let signature: Option<String> = row.try_get("chain_hmac")?;
    if content_sha256(&record, occurred_at) != stored_content {
        return Ok(Some("the record was changed"));
    }
    if stored_previous.as_deref() != previous {
        return Ok(Some("the record does not follow the one before it"));
    }
    let signed = key.is_none_or(|key| is_signed(key, &stored_content, previous, signature.as_deref()));
    Ok((!signed).then_some("the record's signature does not match"))
}

/// Whether `signature` is that of the link, compared in constant time.
fn is_signed(key: &[u8], content: &str, previous: Option<&str>, signature: Option<&str>) -> bool {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let stored = signature
        .and_then(|text| hex::decode(text).ok())
        .unwrap_or_default();
    hmac::verify(&key, link_text(content, previous).as_bytes(), &stored).is_ok()
}
