//! Which requests wait for a human, what was decided, and which yes was used?
//!
//! One row of `step_up_challenges` per approval. At most one that was not used exists for the same request, so that
//! everybody who asks for the same thing waits for the same decision (`docs/contract/approvals.md`).

mod consume;
mod decide;
mod list;
mod raise;

use caracal_model::{ApprovalState, ApprovalTimes, UnixMicros, ZoneId};
use serde_json::Value;
use time::OffsetDateTime;

use crate::error::StorageError;
use crate::tx::AnyTx;

pub use consume::{Consumption, consume, consume_without_record};
pub use decide::{DecidedBy, Verdict, decide, share_ancestry};
pub use list::{Counts, Filter, Listed, counts, find_listed, list};
pub use raise::{NewApproval, Raised, raise};

/// The channel on which the id of an approval is notified once it is decided.
pub const CHANNEL: &str = "caracal_approval_decided";

/// How long a finished approval is kept, in hours.
const KEPT_HOURS: i32 = 24;

/// An approval as it is stored, with the database's clock at that moment.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Approval {
    /// Its id.
    pub id: String,
    /// Its zone.
    #[sqlx(try_from = "String")]
    pub zone_id: ZoneId,
    /// The authority record the request was bound to.
    pub session_id: Option<String>,
    /// Whom the request was made for.
    pub principal_id: Option<String>,
    /// The application that asked; none for a workload.
    pub application_id: Option<String>,
    /// Hash of what was asked for, 32 bytes.
    pub resource_set_hash: Option<Vec<u8>>,
    /// SHA-256 of the secret that was given to whoever raised it.
    pub challenge_secret_hash: Option<Vec<u8>>,
    /// The tiers that asked for it.
    pub tier: Option<String>,
    /// `operator`, `subject` or `any`.
    pub approver_class: String,
    /// `identified`, `pseudonymous` or `anonymous`.
    pub privacy_mode: String,
    /// The user the request was made for, if one is known.
    pub subject_anchor: Option<String>,
    /// What was asked for, for whoever decides.
    pub metadata_json: Value,
    /// When it was raised.
    pub created_at: OffsetDateTime,
    /// Until when it can be decided and used.
    pub expires_at: OffsetDateTime,
    /// When somebody said yes.
    pub satisfied_at: Option<OffsetDateTime>,
    /// When somebody said no.
    pub rejected_at: Option<OffsetDateTime>,
    /// When it was used.
    pub consumed_at: Option<OffsetDateTime>,
    /// The record of the mandate it was used for.
    pub consumed_authority_record_id: Option<String>,
    /// Who decided.
    pub approver_subject_id: Option<String>,
    /// Why.
    pub decision_reason: Option<String>,
    /// The database's clock when the row was read.
    pub read_at: OffsetDateTime,
}

impl Approval {
    /// The state when the row was read.
    pub fn state(&self) -> ApprovalState {
        let times = ApprovalTimes {
            expires_at: micros(self.expires_at),
            satisfied_at: self.satisfied_at.map(micros),
            rejected_at: self.rejected_at.map(micros),
            consumed_at: self.consumed_at.map(micros),
        };
        times.state(micros(self.read_at))
    }
}

fn micros(at: OffsetDateTime) -> UnixMicros {
    UnixMicros(i64::try_from(at.unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX))
}

/// The columns of an [`Approval`]. The clock is read with the row: the state is derived from both.
macro_rules! columns {
    () => {
        "id, zone_id, session_id, principal_id, application_id, resource_set_hash, challenge_secret_hash, tier,
         approver_class, privacy_mode, subject_anchor, metadata_json, created_at, expires_at, satisfied_at, rejected_at,
         consumed_at, consumed_authority_record_id, approver_subject_id, decision_reason, clock_timestamp() AS read_at"
    };
}
use columns;

/// One human approval, of whatever zone the transaction may see.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn find<'t>(tx: impl AnyTx<'t>, id: &str) -> Result<Option<Approval>, StorageError> {
    Ok(sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM step_up_challenges WHERE id = $1 AND challenge_type = 'human_approval'"
    ))
    .bind(id)
    .fetch_optional(tx)
    .await?)
}

/// Those of `ids` that exist, of whatever zone the transaction may see. One statement however many there are.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn find_all<'t>(tx: impl AnyTx<'t>, ids: &[String]) -> Result<Vec<Approval>, StorageError> {
    Ok(sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM step_up_challenges WHERE id = ANY($1) AND challenge_type = 'human_approval'"
    ))
    .bind(ids)
    .fetch_all(tx)
    .await?)
}

/// Which of `ids` need not be waited for any more: decided, used, over or gone. One statement however many there are.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn settled<'t>(tx: impl AnyTx<'t>, ids: &[String]) -> Result<Vec<String>, StorageError> {
    Ok(sqlx::query_scalar(
        "SELECT waited.id FROM unnest($1::text[]) AS waited (id)
         WHERE NOT EXISTS (SELECT 1 FROM step_up_challenges c
             WHERE c.id = waited.id AND c.satisfied_at IS NULL AND c.rejected_at IS NULL AND c.consumed_at IS NULL
               AND c.expires_at > clock_timestamp())",
    )
    .bind(ids)
    .fetch_all(tx)
    .await?)
}

/// Deletes what was finished more than a day ago, at most `limit` rows. Answers how many.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn sweep(tx: &mut crate::tx::WriteTx, limit: i64) -> Result<u64, StorageError> {
    let deleted = sqlx::query(
        "DELETE FROM step_up_challenges WHERE id IN (
             SELECT id FROM step_up_challenges
             WHERE greatest(coalesce(consumed_at, '-infinity'), coalesce(rejected_at, '-infinity'), expires_at)
                   < now() - make_interval(hours => $1)
             LIMIT $2 FOR UPDATE SKIP LOCKED)",
    )
    .bind(KEPT_HOURS)
    .bind(limit)
    .execute(tx)
    .await?;
    Ok(deleted.rows_affected())
}
