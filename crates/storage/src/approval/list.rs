//! What do operators see of a zone's approvals?

use caracal_model::{ApprovalState, ZoneId};
use time::OffsetDateTime;

use super::Approval;
use crate::error::StorageError;
use crate::page::Page;
use crate::tx::AnyTx;

/// Which approvals are asked for; what is `None` does not matter.
#[derive(Debug, Clone, Default)]
pub struct Filter<'a> {
    /// The state.
    pub state: Option<ApprovalState>,
    /// The tier.
    pub tier: Option<&'a str>,
    /// Whom the request was made for.
    pub principal: Option<&'a str>,
    /// Raised at or after this.
    pub since: Option<OffsetDateTime>,
    /// Raised at or before this.
    pub until: Option<OffsetDateTime>,
}

/// An approval with what is known of its principal.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Listed {
    /// The approval.
    #[sqlx(flatten)]
    pub approval: Approval,
    /// Whether the principal has ever been a federated user.
    pub principal_federated: bool,
    /// Other approvals of the principal that were granted.
    pub prior_approved: i64,
    /// Other approvals of the principal that were refused.
    pub prior_rejected: i64,
}

/// How many approvals are in each state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Counts {
    /// Waiting.
    pub pending: i64,
    /// Granted, not used.
    pub approved: i64,
    /// Refused.
    pub rejected: i64,
    /// Over.
    pub expired: i64,
    /// Used.
    pub consumed: i64,
}

/// The state of a row `c`, in the precedence of [`caracal_model::ApprovalTimes::state`].
macro_rules! state {
    () => {
        "CASE WHEN c.consumed_at IS NOT NULL THEN 'consumed' WHEN c.rejected_at IS NOT NULL THEN 'rejected'
              WHEN c.expires_at <= now() THEN 'expired' WHEN c.satisfied_at IS NOT NULL THEN 'approved'
              ELSE 'pending' END"
    };
}

macro_rules! listed {
    () => {
        "SELECT c.id, c.zone_id, c.session_id, c.principal_id, c.application_id, c.resource_set_hash,
             c.challenge_secret_hash, c.tier, c.approver_class, c.privacy_mode, c.subject_anchor, c.metadata_json,
             c.created_at, c.expires_at, c.satisfied_at, c.rejected_at, c.consumed_at, c.consumed_authority_record_id,
             c.approver_subject_id, c.decision_reason, now() AS read_at,
             EXISTS (SELECT 1 FROM authority_records r WHERE r.zone_id = c.zone_id AND r.subject_id = c.principal_id
                 AND r.session_type = 'user') AS principal_federated,
             (SELECT count(*) FROM step_up_challenges p WHERE p.zone_id = c.zone_id AND p.principal_id = c.principal_id
                 AND p.id <> c.id AND p.satisfied_at IS NOT NULL) AS prior_approved,
             (SELECT count(*) FROM step_up_challenges p WHERE p.zone_id = c.zone_id AND p.principal_id = c.principal_id
                 AND p.id <> c.id AND p.rejected_at IS NOT NULL) AS prior_rejected
         FROM step_up_challenges c WHERE c.zone_id = $1 AND c.challenge_type = 'human_approval'"
    };
}

/// Approvals of a zone, newest first.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn list<'t>(
    tx: impl AnyTx<'t>,
    zone: &ZoneId,
    filter: &Filter<'_>,
    page: &Page,
) -> Result<Vec<Listed>, StorageError> {
    Ok(sqlx::query_as(concat!(
        listed!(),
        " AND (c.created_at, c.id) < (coalesce($2::timestamptz, 'infinity'), $3)
          AND ($5::text IS NULL OR $5 = ",
        state!(),
        ") AND ($6::text IS NULL OR c.tier = $6) AND ($7::text IS NULL OR c.principal_id = $7)
          AND ($8::timestamptz IS NULL OR c.created_at >= $8) AND ($9::timestamptz IS NULL OR c.created_at <= $9)
          ORDER BY c.created_at DESC, c.id DESC LIMIT $4"
    ))
    .bind(zone.as_str())
    .bind(page.after_time())
    .bind(page.after_id())
    .bind(page.limit)
    .bind(filter.state.map(ApprovalState::as_str))
    .bind(filter.tier)
    .bind(filter.principal)
    .bind(filter.since)
    .bind(filter.until)
    .fetch_all(tx)
    .await?)
}

/// One approval of a zone.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn find_listed<'t>(
    tx: impl AnyTx<'t>,
    zone: &ZoneId,
    id: &str,
) -> Result<Option<Listed>, StorageError> {
    Ok(sqlx::query_as(concat!(listed!(), " AND c.id = $2"))
        .bind(zone.as_str())
        .bind(id)
        .fetch_optional(tx)
        .await?)
}

/// How many approvals of a zone are in each state.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn counts<'t>(tx: impl AnyTx<'t>, zone: &ZoneId) -> Result<Counts, StorageError> {
    Ok(sqlx::query_as(concat!(
        "SELECT count(*) FILTER (WHERE state = 'pending') AS pending, count(*) FILTER (WHERE state = 'approved') AS approved,
             count(*) FILTER (WHERE state = 'rejected') AS rejected, count(*) FILTER (WHERE state = 'expired') AS expired,
             count(*) FILTER (WHERE state = 'consumed') AS consumed
         FROM (SELECT ",
        state!(),
        " AS state FROM step_up_challenges c WHERE c.zone_id = $1 AND c.challenge_type = 'human_approval') s"
    ))
    .bind(zone.as_str())
    .fetch_one(tx)
    .await?)
}
