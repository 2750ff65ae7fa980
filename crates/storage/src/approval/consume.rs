//! How is a yes used exactly once? One statement marks it and writes the record of the mandate it is used for.

use caracal_model::{SubjectId, ZoneId};
use serde_json::Value;

use crate::authority_record::{NewAuthorityRecord, seconds};
use crate::error::StorageError;
use crate::pool::Database;
use crate::tx::{AnyTx, ZoneScope};

/// What must hold of an approval `c` to be used: approved by somebody, not refused, in time, not used, and the record the
/// request was bound to, if any, still active.
macro_rules! usable {
    () => {
        "c.challenge_type = 'human_approval' AND c.consumed_at IS NULL AND c.satisfied_at IS NOT NULL
         AND c.rejected_at IS NULL AND c.approver_subject_id IS NOT NULL AND c.expires_at > now()
         AND (c.session_id IS NULL OR EXISTS (SELECT 1 FROM authority_records r
              WHERE r.zone_id = c.zone_id AND r.id = c.session_id AND r.status = 'active' AND r.expires_at > now()))"
    };
}

/// Marks the approval as used and writes `record`, or does neither; false when it was not there to be used: not approved,
/// refused, over, used by somebody else, or bound to a record that has ended.
///
/// Of any number of callers at once exactly one gets true: the others wait for its row lock and then find it used.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach. The approval may then have been used or not; a
/// caller that asks again learns which.
pub async fn consume(
    database: &Database,
    approval: &str,
    record: &NewAuthorityRecord<'_>,
) -> Result<bool, StorageError> {
    let mut tx = database.write(ZoneScope::Zone(record.zone_id)).await?;
    let inserted = sqlx::query(concat!(
        "WITH consumed AS (
             UPDATE step_up_challenges c SET consumed_at = now(), consumed_authority_record_id = $3
             WHERE c.id = $1 AND c.zone_id = $2 AND ",
        usable!(),
        " RETURNING c.id)
         INSERT INTO authority_records
             (id, zone_id, session_type, subject_id, status, expires_at, authenticated_at, claims_json)
         SELECT $3, $2, $4, $5, 'active', to_timestamp($6), to_timestamp($7), $8 FROM consumed"
    ))
    .bind(approval)
    .bind(record.zone_id.as_str())
    .bind(record.id.as_str())
    .bind(record.session_type)
    .bind(record.subject_id.as_str())
    .bind(seconds(record.expires_at))
    .bind(seconds(record.authenticated_at))
    .bind(record.claims.as_ref())
    .execute(&mut tx)
    .await?;
    let is_consumed = inserted.rows_affected() == 1;
    tx.commit().await?;
    Ok(is_consumed)
}

/// Marks the approval as used for something that has no record, a credential of a workload; false as for [`consume`].
///
/// # Errors
/// As [`consume`].
pub async fn consume_without_record(
    database: &Database,
    zone: &ZoneId,
    approval: &str,
) -> Result<bool, StorageError> {
    let mut tx = database.write(ZoneScope::Zone(zone)).await?;
    let marked = sqlx::query(concat!(
        "UPDATE step_up_challenges c SET consumed_at = now() WHERE c.id = $1 AND c.zone_id = $2 AND ",
        usable!()
    ))
    .bind(approval)
    .bind(zone.as_str())
    .execute(&mut tx)
    .await?;
    let is_consumed = marked.rows_affected() == 1;
    tx.commit().await?;
    Ok(is_consumed)
}

/// What an approval was used for.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Consumption {
    /// The record of the mandate.
    pub id: String,
    /// Whom the mandate stands for.
    #[sqlx(try_from = "String")]
    pub subject_id: SubjectId,
    /// When it was issued, in Unix seconds.
    pub issued_at: i64,
    /// When it ends, in Unix seconds.
    pub expires_at: i64,
    /// What else was recorded.
    pub claims_json: Option<Value>,
}

impl Consumption {
    /// The record of the mandate an approval was used for, while it is active.
    ///
    /// # Errors
    /// [`StorageError::Unavailable`] when the database is out of reach.
    pub async fn find<'t>(
        tx: impl AnyTx<'t>,
        zone: &ZoneId,
        record: &str,
    ) -> Result<Option<Self>, StorageError> {
        Ok(sqlx::query_as(
            "SELECT id, subject_id, extract(epoch FROM authenticated_at)::bigint AS issued_at,
                 extract(epoch FROM expires_at)::bigint AS expires_at, claims_json
             FROM authority_records
             WHERE zone_id = $1 AND id = $2 AND status = 'active' AND expires_at > clock_timestamp()",
        )
        .bind(zone.as_str())
        .bind(record)
        .fetch_optional(tx)
        .await?)
    }
}
