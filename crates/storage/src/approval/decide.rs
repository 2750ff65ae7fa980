//! How does a human decide? One conditional UPDATE: the first decision stands.

use caracal_model::ZoneId;

use super::{Approval, CHANNEL, columns};
use crate::error::StorageError;
use crate::tx::{AnyTx, WriteTx};

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    Approved,
    /// No.
    Rejected,
}

impl Verdict {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::Rejected => "rejected",
        }
    }
}

/// Who decides.
#[derive(Debug, Clone)]
pub struct DecidedBy<'a> {
    /// The name that is stored.
    pub name: &'a str,
    /// The authority record of a user who decides.
    pub session_id: Option<&'a str>,
    /// The class the decider is of, `operator` or `subject`: approvals of that class or `any` may be decided.
    pub class: &'static str,
    /// Why.
    pub reason: Option<&'a str>,
}

/// Decides an approval that nobody has decided, whose time is not over, and which this class may decide; `None` otherwise.
/// Whoever waits for it is told when the transaction commits.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn decide(
    tx: &mut WriteTx,
    zone: &ZoneId,
    id: &str,
    verdict: Verdict,
    by: &DecidedBy<'_>,
) -> Result<Option<Approval>, StorageError> {
    let decided = sqlx::query_as(concat!(
        "UPDATE step_up_challenges SET
             satisfied_at = CASE WHEN $3 THEN now() END, rejected_at = CASE WHEN NOT $3 THEN now() END,
             approver_subject_id = $4, approver_session_id = $5, decision_reason = $6
         WHERE id = $1 AND zone_id = $2 AND challenge_type = 'human_approval' AND approver_class IN ($7, 'any')
           AND satisfied_at IS NULL AND rejected_at IS NULL AND consumed_at IS NULL AND expires_at > now()
         RETURNING ",
        columns!()
    ))
    .bind(id)
    .bind(zone.as_str())
    .bind(verdict == Verdict::Approved)
    .bind(by.name)
    .bind(by.session_id)
    .bind(by.reason)
    .bind(by.class)
    .fetch_optional(&mut *tx)
    .await?;
    if decided.is_some() {
        sqlx::query("SELECT pg_notify($1, $2)")
            .bind(CHANNEL)
            .bind(id)
            .execute(tx)
            .await?;
    }
    Ok(decided)
}

/// Whether one of two authority records descends from the other, or both are the same: then whoever holds the one could
/// decide about his own request.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn share_ancestry<'t>(
    tx: impl AnyTx<'t>,
    zone: &ZoneId,
    one: &str,
    other: &str,
) -> Result<bool, StorageError> {
    Ok(sqlx::query_scalar(
        "WITH RECURSIVE line (start, id, parent_id, depth) AS (
             SELECT r.id, r.id, r.parent_id, 0 FROM authority_records r WHERE r.zone_id = $1 AND r.id IN ($2, $3)
             UNION ALL
             SELECT l.start, r.id, r.parent_id, l.depth + 1 FROM line l
             JOIN authority_records r ON r.zone_id = $1 AND r.id = l.parent_id WHERE l.depth < 64)
         SELECT $2 = $3 OR EXISTS (SELECT 1 FROM line
             WHERE (start = $2 AND id = $3) OR (start = $3 AND id = $2))",
    )
    .bind(zone.as_str())
    .bind(one)
    .bind(other)
    .fetch_one(tx)
    .await?)
}
