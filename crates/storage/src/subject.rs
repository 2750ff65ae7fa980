//! Whom has a zone given authority to, and what do they hold?
//!
//! A subject is a user of another issuer or an application. It has no row of its own: it exists by the authority records
//! that name it.

use caracal_model::{SubjectId, ZoneId};
use time::OffsetDateTime;

use crate::error::StorageError;
use crate::page::Page;
use crate::tx::AnyTx;

/// A subject, as its authority records tell.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Subject {
    /// Whom the records name.
    pub subject_id: String,
    /// Whether any of them is a user's.
    pub federated: bool,
    /// The name of the application of this id, when it is one.
    pub application_name: Option<String>,
    /// Records, whatever became of them.
    pub total_sessions: i64,
    /// Records that are in force.
    pub active_sessions: i64,
    /// Records that were revoked.
    pub revoked_sessions: i64,
    /// When the first record was made.
    pub first_seen: OffsetDateTime,
    /// When the last record was made.
    pub last_seen: OffsetDateTime,
    /// When a record was revoked last.
    pub last_revoked_at: Option<OffsetDateTime>,
    /// Who vouched for the user last.
    pub issuer: Option<String>,
}

/// Which subjects are wanted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filter<'a> {
    /// `user` or `application`.
    pub kind: Option<&'a str>,
    /// A part of the subject or of the application's name, whatever the case.
    pub search: Option<&'a str>,
}

/// What a subject has done and waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Activity {
    /// Governed sessions that live.
    pub sessions_active: i64,
    /// Governed sessions.
    pub sessions_total: i64,
    /// Approvals asked for it that wait.
    pub approvals_pending: i64,
    /// Approvals asked for it.
    pub approvals_total: i64,
}

macro_rules! subjects {
    ($condition:literal) => {
        concat!(
            "SELECT r.subject_id, bool_or(r.session_type = 'user') AS federated, min(a.name) AS application_name,
                 count(*) AS total_sessions,
                 count(*) FILTER (WHERE r.status = 'active' AND r.expires_at > now()) AS active_sessions,
                 count(*) FILTER (WHERE r.status = 'revoked') AS revoked_sessions,
                 min(r.created_at) AS first_seen, max(r.created_at) AS last_seen,
                 max(r.revoked_at) AS last_revoked_at,
                 (array_agg(r.claims_json ->> 'iss' ORDER BY r.created_at DESC)
                     FILTER (WHERE r.session_type = 'user' AND r.claims_json ->> 'iss' IS NOT NULL))[1] AS issuer
             FROM authority_records r
             LEFT JOIN applications a ON a.zone_id = r.zone_id AND a.id = r.subject_id AND r.session_type = 'application'
             WHERE r.zone_id = $1 AND r.subject_id IS NOT NULL ",
            $condition,
            " GROUP BY r.subject_id"
        )
    };
}

/// Subjects of a zone, the ones seen last first. Reads every record of the zone that matches.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn list<'t>(
    tx: impl AnyTx<'t>,
    zone: &ZoneId,
    filter: Filter<'_>,
    page: &Page,
) -> Result<Vec<Subject>, StorageError> {
    Ok(sqlx::query_as(concat!(
        "SELECT * FROM (",
        subjects!(
            "AND ($5::text IS NULL OR r.session_type = $5)
             AND ($6::text IS NULL OR strpos(lower(r.subject_id), lower($6)) > 0 OR strpos(lower(a.name), lower($6)) > 0)"
        ),
        ") s WHERE (s.last_seen, s.subject_id) < (coalesce($2::timestamptz, 'infinity'), $3)
         ORDER BY s.last_seen DESC, s.subject_id DESC LIMIT $4"
    ))
    .bind(zone.as_str())
    .bind(page.after_time())
    .bind(page.after_id())
    .bind(page.limit)
    .bind(filter.kind)
    .bind(filter.search)
    .fetch_all(tx)
    .await?)
}

/// One subject; `None` when no record names it.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn find<'t>(
    tx: impl AnyTx<'t>,
    zone: &ZoneId,
    subject: &SubjectId,
) -> Result<Option<Subject>, StorageError> {
    Ok(sqlx::query_as(subjects!("AND r.subject_id = $2"))
        .bind(zone.as_str())
        .bind(subject.as_str())
        .fetch_optional(tx)
        .await?)
}

/// Whether a record names the subject.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn exists<'t>(
    tx: impl AnyTx<'t>,
    zone: &ZoneId,
    subject: &SubjectId,
) -> Result<bool, StorageError> {
    Ok(sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM authority_records WHERE zone_id = $1 AND subject_id = $2)",
    )
    .bind(zone.as_str())
    .bind(subject.as_str())
    .fetch_one(tx)
    .await?)
}

/// How much a subject has under way.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn activity<'t>(
    tx: impl AnyTx<'t>,
    zone: &ZoneId,
    subject: &SubjectId,
) -> Result<Activity, StorageError> {
    Ok(sqlx::query_as(
        "SELECT g.active AS sessions_active, g.total AS sessions_total, p.pending AS approvals_pending,
             p.total AS approvals_total
         FROM (SELECT count(*) AS total, count(*) FILTER (WHERE s.status IN ('active', 'suspended')) AS active
               FROM sessions s
               JOIN authority_records r ON r.zone_id = s.zone_id AND r.id = s.subject_authority_record_id
               WHERE s.zone_id = $1 AND r.subject_id = $2) g,
              (SELECT count(*) AS total, count(*) FILTER (WHERE consumed_at IS NULL AND rejected_at IS NULL
                   AND satisfied_at IS NULL AND expires_at > now()) AS pending
               FROM step_up_challenges
               WHERE zone_id = $1 AND challenge_type = 'human_approval'
                 AND (principal_id = $2 OR subject_anchor = $2)) p",
    )
    .bind(zone.as_str())
    .bind(subject.as_str())
    .fetch_one(tx)
    .await?)
}
