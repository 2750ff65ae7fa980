//! Governed sessions: `sessions` and `agent_topology`. Written by the coordinator; ended by whoever revokes (see `revocation_cascade`).

use caracal_model::{ApplicationId, AuthorityRecordId, DelegationId, SessionId, ZoneId};
use serde_json::Value;
use sqlx::FromRow;
use time::OffsetDateTime;

use crate::error::StorageError;
use crate::tx::{ReadTx, WriteTx};

/// A session to be stored; it is active from the start.
#[derive(Debug, Clone)]
pub struct NewSession<'a> {
    /// Its id.
    pub id: &'a SessionId,
    /// Its zone.
    pub zone_id: &'a ZoneId,
    /// The application that runs in it.
    pub application_id: &'a ApplicationId,
    /// The session that started it.
    pub parent_id: Option<&'a SessionId>,
    /// The authority record it rests on.
    pub subject_authority_record_id: &'a AuthorityRecordId,
    /// `task` or `service`.
    pub lifecycle: &'a str,
    /// Policy labels.
    pub labels: &'a [String],
    /// 0 for a root.
    pub depth: i32,
    /// Life of a task, in seconds.
    pub ttl_seconds: Option<i32>,
    /// Lease of a service, in seconds.
    pub lease_seconds: Option<i32>,
    /// What the caller says about it.
    pub metadata: &'a Value,
}

/// A stored session.
#[derive(Debug, Clone, FromRow)]
pub struct Session {
    /// Its id.
    pub id: String,
    /// Its zone.
    pub zone_id: String,
    /// The application that runs in it.
    pub application_id: String,
    /// The session that started it.
    pub parent_id: Option<String>,
    /// The authority record it rests on.
    pub subject_authority_record_id: String,
    /// `task` or `service`.
    pub lifecycle: String,
    /// Policy labels.
    pub labels: Vec<String>,
    /// `active`, `suspended`, `terminated` or `expired`.
    pub status: String,
    /// 0 for a root.
    pub depth: i32,
    /// How many children it may have.
    pub max_children: i32,
    /// How many live children it has.
    pub child_count: i32,
    /// Life of a task, in seconds.
    pub ttl_seconds: Option<i32>,
    /// What the caller said about it.
    pub metadata_json: Option<Value>,
    /// When it began.
    pub started_at: OffsetDateTime,
    /// When it ended.
    pub terminated_at: Option<OffsetDateTime>,
    /// Why it ended.
    pub termination_reason: Option<String>,
    /// Last sign of life of a service.
    pub last_heartbeat_at: Option<OffsetDateTime>,
    /// When a silent service counts as lost.
    pub heartbeat_deadline_at: Option<OffsetDateTime>,
    /// Fences earlier holders of a service's lease.
    pub lease_generation: i64,
    /// Whether it ever received a delegation: it then never again acts on its application's own authority.
    pub constrained: bool,
}

const COLUMNS: &str = "id, zone_id, application_id, parent_id, subject_authority_record_id, lifecycle, labels, status, depth, \
     max_children, child_count, ttl_seconds, metadata_json, started_at, terminated_at, termination_reason, last_heartbeat_at, \
     heartbeat_deadline_at, lease_generation, constrained";

/// A session takes up room while it is active or suspended and its time has not run out.
const OCCUPIES: &str = "status IN ('active', 'suspended') AND \
     CASE lifecycle WHEN 'service' THEN heartbeat_deadline_at > now() OR status = 'suspended' ELSE expires_at > now() END";

/// A session is live (docs/contract/delegation-rules.md, "Presenting a delegation") while it is active, its time has not run out,
/// and the user it speaks for, if it does, is still signed in.
const LIVE: &str = "sessions.status = 'active' AND \
     CASE sessions.lifecycle WHEN 'service' THEN sessions.heartbeat_deadline_at > now() ELSE sessions.expires_at > now() END AND \
     NOT EXISTS (SELECT FROM authority_records u WHERE u.zone_id = sessions.zone_id \
       AND u.id = sessions.subject_authority_record_id AND u.session_type = 'user' \
       AND NOT (u.status = 'active' AND u.expires_at > now()))";

/// What the application of a new session may do.
#[derive(Debug, Clone, FromRow)]
pub struct Applicant {
    /// `managed` or `dcr`.
    pub registration_method: String,
}

/// Lets only one transaction at a time start a session in the zone, because each counts the ones that are there. Take it before
/// `revocation_cascade::hold_off`.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn lock_zone(tx: &mut WriteTx, zone: &ZoneId) -> Result<(), StorageError> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('coordinator:session_start:' || $1, 0))")
        .bind(zone.as_str())
        .execute(&mut *tx)
        .await?;
    Ok(())
}

/// The application, if it is neither archived nor expired.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn applicant(
    tx: &mut WriteTx,
    zone: &ZoneId,
    application: &str,
) -> Result<Option<Applicant>, StorageError> {
    Ok(sqlx::query_as(
        "SELECT registration_method FROM applications WHERE zone_id = $1 AND id = $2 AND archived_at IS NULL \
           AND (expires_at IS NULL OR expires_at > now())",
    )
    .bind(zone.as_str())
    .bind(application)
    .fetch_optional(&mut *tx)
    .await?)
}

/// What a mandate says about its holder.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    /// The zone.
    pub zone_id: &'a ZoneId,
    /// The application.
    pub application_id: &'a ApplicationId,
    /// The authority record it rests on.
    pub authority_record_id: &'a AuthorityRecordId,
    /// The session it is bound to.
    pub session_id: Option<&'a SessionId>,
    /// The delegation it is bound to.
    pub delegation_id: Option<&'a DelegationId>,
}

/// Whether a caller still is who its mandate says: the application lives, and so do the authority record and what the mandate is
/// bound to. One statement.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn identity_is_live(tx: &mut ReadTx, identity: &Identity<'_>) -> Result<bool, StorageError> {
    let statement = format!(
        "SELECT EXISTS (SELECT FROM applications a JOIN authority_records r ON r.zone_id = a.zone_id \
           WHERE a.zone_id = $1 AND a.id = $2 AND a.archived_at IS NULL AND (a.expires_at IS NULL OR a.expires_at > now()) \
             AND r.id = $3 AND r.status = 'active' AND r.expires_at > now()) \
         AND ($4::text IS NULL OR EXISTS (SELECT FROM sessions WHERE zone_id = $1 AND id = $4 AND application_id = $2 AND {LIVE})) \
         AND ($5::text IS NULL OR EXISTS (SELECT FROM delegation_edges WHERE zone_id = $1 AND id = $5 AND status = 'active' \
             AND expires_at > now()))"
    );
    Ok(sqlx::query_scalar(sqlx::AssertSqlSafe(statement))
        .bind(identity.zone_id.as_str())
        .bind(identity.application_id.as_str())
        .bind(identity.authority_record_id.as_str())
        .bind(identity.session_id.map(SessionId::as_str))
        .bind(identity.delegation_id.map(DelegationId::as_str))
        .fetch_one(&mut *tx)
        .await?)
}

/// An authority record that a session may rest on.
#[derive(Debug, Clone, FromRow)]
pub struct SubjectRecord {
    /// `application` or `user`.
    pub session_type: String,
    /// Whom it stands for.
    pub subject_id: Option<String>,
}

/// The record, if it is active and unexpired.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn subject_record(
    tx: &mut WriteTx,
    zone: &ZoneId,
    record: &str,
) -> Result<Option<SubjectRecord>, StorageError> {
    Ok(sqlx::query_as(
        "SELECT session_type, subject_id FROM authority_records WHERE zone_id = $1 AND id = $2 AND status = 'active' AND expires_at > now()",
    )
    .bind(zone.as_str())
    .bind(record)
    .fetch_optional(&mut *tx)
    .await?)
}

/// How many sessions take up room in the zone, and how many of them belong to the application.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn live_counts(
    tx: &mut WriteTx,
    zone: &ZoneId,
    application: &str,
) -> Result<(i64, i64), StorageError> {
    let statement = format!(
        "SELECT count(*), count(*) FILTER (WHERE application_id = $2) FROM sessions WHERE zone_id = $1 AND {OCCUPIES}"
    );
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(statement))
        .bind(zone.as_str())
        .bind(application)
        .fetch_one(&mut *tx)
        .await?)
}

/// The session, whatever its state, held against other writers until the transaction ends.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn lock(tx: &mut WriteTx, zone: &ZoneId, id: &str) -> Result<Option<Session>, StorageError> {
    // Not FOR UPDATE: rows that refer to the session may be added meanwhile.
    lock_where(tx, zone, id, "true").await
}

/// The session, if it is live, held against other writers until the transaction ends.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn lock_live(tx: &mut WriteTx, zone: &ZoneId, id: &str) -> Result<Option<Session>, StorageError> {
    lock_where(tx, zone, id, LIVE).await
}

async fn lock_where(
    tx: &mut WriteTx,
    zone: &ZoneId,
    id: &str,
    condition: &str,
) -> Result<Option<Session>, StorageError> {
    let statement = format!(
        "SELECT {COLUMNS} FROM sessions WHERE zone_id = $1 AND id = $2 AND {condition} FOR NO KEY UPDATE"
    );
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(statement))
        .bind(zone.as_str())
        .bind(id)
        .fetch_optional(&mut *tx)
        .await?)
}

/// The session, whatever its state.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn find(tx: &mut ReadTx, zone: &ZoneId, id: &str) -> Result<Option<Session>, StorageError> {
    let statement = format!("SELECT {COLUMNS} FROM sessions WHERE zone_id = $1 AND id = $2");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(statement))
        .bind(zone.as_str())
        .bind(id)
        .fetch_optional(&mut *tx)
        .await?)
}

/// Those of these sessions that are live, held against being changed until the transaction ends.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn lock_all_live(
    tx: &mut WriteTx,
    zone: &ZoneId,
    ids: &[&str],
) -> Result<Vec<Session>, StorageError> {
    let statement = format!(
        "SELECT {COLUMNS} FROM sessions WHERE zone_id = $1 AND id = ANY($2) AND {LIVE} ORDER BY id FOR NO KEY UPDATE"
    );
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(statement))
        .bind(zone.as_str())
        .bind(ids)
        .fetch_all(&mut *tx)
        .await?)
}

/// Stores a session, its place below its parent, and gives what was stored. Three statements at most.
///
/// # Errors
/// [`StorageError::Conflict`] when a rule of the schema is broken.
pub async fn insert(tx: &mut WriteTx, new: &NewSession<'_>) -> Result<Session, StorageError> {
    let statement = format!(
        "INSERT INTO sessions (id, zone_id, application_id, parent_id, subject_authority_record_id, lifecycle, labels, depth, ttl_seconds, \
           metadata_json, last_heartbeat_at, heartbeat_deadline_at, lease_generation) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, CASE WHEN $11::int IS NULL THEN NULL ELSE now() END, \
           now() + make_interval(secs => $11), CASE WHEN $11::int IS NULL THEN 0 ELSE 1 END) RETURNING {COLUMNS}"
    );
    let session = sqlx::query_as(sqlx::AssertSqlSafe(statement))
        .bind(new.id.as_str())
        .bind(new.zone_id.as_str())
        .bind(new.application_id.as_str())
        .bind(new.parent_id.map(SessionId::as_str))
        .bind(new.subject_authority_record_id.as_str())
        .bind(new.lifecycle)
        .bind(new.labels)
        .bind(new.depth)
        .bind(new.ttl_seconds)
        .bind(new.metadata)
        .bind(new.lease_seconds)
        .fetch_one(&mut *tx)
        .await?;
    if let Some(parent) = new.parent_id {
        sqlx::query("INSERT INTO agent_topology (parent_id, child_id) VALUES ($1, $2)")
            .bind(parent.as_str())
            .bind(new.id.as_str())
            .execute(&mut *tx)
            .await?;
        sqlx::query("UPDATE sessions SET child_count = child_count + 1, updated_at = now() WHERE zone_id = $1 AND id = $2")
            .bind(new.zone_id.as_str())
            .bind(parent.as_str())
            .execute(&mut *tx)
            .await?;
    }
    Ok(session)
}

/// Tasks whose time ran out, oldest first, as (zone, session). One statement on the index of overdue sessions.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn lapsed(tx: &mut ReadTx, limit: i64) -> Result<Vec<(String, String)>, StorageError> {
    Ok(sqlx::query_as(
        "SELECT zone_id, id FROM sessions WHERE status IN ('active', 'suspended') AND expires_at IS NOT NULL \
           AND expires_at <= now() ORDER BY expires_at, id LIMIT $1",
    )
    .bind(limit)
    .fetch_all(&mut *tx)
    .await?)
}

/// Says of a session that has just been ended that it ended by itself.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn mark_expired(tx: &mut WriteTx, zone: &ZoneId, id: &SessionId) -> Result<(), StorageError> {
    sqlx::query(
        "UPDATE sessions SET status = 'expired' WHERE zone_id = $1 AND id = $2 AND status = 'terminated'",
    )
    .bind(zone.as_str())
    .bind(id.as_str())
    .execute(&mut *tx)
    .await?;
    Ok(())
}
