//! Which reusable mandates were issued, to whom, and until when?
//!
//! One row per reusable mandate, written when it is issued. One-shot and resource mandates have none: what revokes them
//! is the record, session or delegation they hang from.

use caracal_model::{AuthorityRecordId, SubjectId, ZoneId};
use serde_json::Value;

use crate::error::StorageError;
use crate::pool::Database;
use crate::revocation_cascade;
use crate::tx::{WriteTx, ZoneScope};
use crate::zone_model::SubjectIssuerRow;

/// A record to be written; it is active from the start.
#[derive(Debug, Clone)]
pub struct NewAuthorityRecord<'a> {
    /// Its id, the mandate's `sid`.
    pub id: &'a AuthorityRecordId,
    /// Its zone.
    pub zone_id: &'a ZoneId,
    /// `application` or `user`.
    pub session_type: &'static str,
    /// Whom the mandate stands for, its `sub`.
    pub subject_id: &'a SubjectId,
    /// End of the mandate, in Unix seconds.
    pub expires_at: i64,
    /// When the subject proved who it is, in Unix seconds.
    pub authenticated_at: i64,
    /// What else is known about the subject, e.g. its issuer.
    pub claims: Option<Value>,
}

/// Writes one record in a transaction of its own: three messages, one of them the INSERT.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach; the record may then exist or not, which is harmless,
/// because a mandate is only released after this returned.
pub async fn insert(database: &Database, record: &NewAuthorityRecord<'_>) -> Result<(), StorageError> {
    let mut tx = database.write(ZoneScope::Zone(record.zone_id)).await?;
    sqlx::query(
        "INSERT INTO authority_records
             (id, zone_id, session_type, subject_id, status, expires_at, authenticated_at, claims_json)
         VALUES ($1, $2, $3, $4, 'active', to_timestamp($5), to_timestamp($6), $7)",
    )
    .bind(record.id.as_str())
    .bind(record.zone_id.as_str())
    .bind(record.session_type)
    .bind(record.subject_id.as_str())
    .bind(seconds(record.expires_at))
    .bind(seconds(record.authenticated_at))
    .bind(record.claims.as_ref())
    .execute(&mut tx)
    .await?;
    tx.commit().await
}

/// Writes the record of a user, unless its issuer is not believed any more as `issuer` says, or the user calls itself as an
/// application of the zone is or was called; then false. Changes of issuers and cascades wait for it and it for them, so nobody
/// gets in on the word of an issuer after the commit that ended or changed it, whatever is still in anybody's memory.
///
/// # Errors
/// As [`insert`].
pub async fn insert_of_user(
    database: &Database,
    record: &NewAuthorityRecord<'_>,
    issuer: &SubjectIssuerRow,
) -> Result<bool, StorageError> {
    let mut tx = database.write(ZoneScope::Zone(record.zone_id)).await?;
    revocation_cascade::hold_off(&mut tx, record.zone_id).await?;
    let inserted = sqlx::query(
        "INSERT INTO authority_records
             (id, zone_id, session_type, subject_id, status, expires_at, authenticated_at, claims_json)
         SELECT $1, i.zone_id, $3, $4, 'active', to_timestamp($5), to_timestamp($6), $7
         FROM subject_issuers i
         WHERE i.zone_id = $2 AND i.id = $8 AND i.archived_at IS NULL AND i.jwks_url = $9 AND i.audience = $10
           AND NOT EXISTS (SELECT 1 FROM applications a WHERE a.zone_id = $2 AND a.id = $4)",
    )
    .bind(record.id.as_str())
    .bind(record.zone_id.as_str())
    .bind(record.session_type)
    .bind(record.subject_id.as_str())
    .bind(seconds(record.expires_at))
    .bind(seconds(record.authenticated_at))
    .bind(record.claims.as_ref())
    .bind(issuer.id.as_str())
    .bind(&issuer.jwks_url)
    .bind(&issuer.audience)
    .execute(&mut tx)
    .await?;
    tx.commit().await?;
    Ok(inserted.rows_affected() == 1)
}

/// Whether the record of this subject is in force, and keeps it so until the transaction ends.
///
/// # Errors
/// [`StorageError::Contention`] when it is being ended and that takes too long.
pub async fn hold_live(
    tx: &mut WriteTx,
    zone: &ZoneId,
    id: &AuthorityRecordId,
    subject: &SubjectId,
) -> Result<bool, StorageError> {
    let live: Option<i32> = sqlx::query_scalar(
        "SELECT 1 FROM authority_records
         WHERE zone_id = $1 AND id = $2 AND subject_id = $3 AND status = 'active' AND expires_at > clock_timestamp()
         FOR SHARE",
    )
    .bind(zone.as_str())
    .bind(id.as_str())
    .bind(subject.as_str())
    .fetch_optional(tx)
    .await?;
    Ok(live.is_some())
}

/// Ends a record: nothing may stand on it from now on. False when there is no active one with this id.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn end(
    tx: &mut WriteTx,
    zone: &ZoneId,
    id: &AuthorityRecordId,
    reason: &str,
) -> Result<bool, StorageError> {
    let ended = sqlx::query(
        "UPDATE authority_records SET status = 'revoked', revoked_at = now(), revoked_reason = $3
         WHERE zone_id = $1 AND id = $2 AND status = 'active'",
    )
    .bind(zone.as_str())
    .bind(id.as_str())
    .bind(reason)
    .execute(tx)
    .await?;
    Ok(ended.rows_affected() == 1)
}

/// `to_timestamp` takes a double, which is exact for whole seconds of any year we live in.
#[expect(clippy::cast_precision_loss, reason = "whole seconds are exact up to 2^53")]
pub(crate) fn seconds(unix: i64) -> f64 {
    unix as f64
}
