//! What does the database know about one governed session, the delegation it acts under and everything above it?
//!
//! One statement answers everything a token exchange asks: the authority record named in the request, the presenting
//! session, the delegation edge with its lineage up to the root, the sessions at both ends, the records those sessions
//! hang from, and the zone's graph epoch.

use caracal_model::{ApplicationId, AuthorityRecordId, DelegationId, ResourceId, SessionId, ZoneId};
use serde::Deserialize;
use serde_json::Value;
use sqlx::Row;

use crate::error::StorageError;
use crate::tx::ReadTx;

/// How far up a lineage is followed; a longer one is refused anyway.
const LINEAGE_MAX: i32 = 16;

/// What to look up. Each part is optional; a delegation also brings the sessions at its ends.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GraphKey {
    /// Zone of everything below.
    pub zone_id: ZoneId,
    /// The authority record named in the request.
    pub authority_record_id: Option<AuthorityRecordId>,
    /// The presenting session.
    pub session_id: Option<SessionId>,
    /// The delegation it acts under.
    pub delegation_id: Option<DelegationId>,
}

/// The answer: whatever exists.
#[derive(Debug, Clone)]
pub struct GraphRows {
    /// The zone's graph epoch; 0 when it was never touched.
    pub epoch: i64,
    /// The authority record asked for.
    pub record: Option<RecordRow>,
    /// The sessions found: the presenting one and both ends of the delegation.
    pub sessions: Vec<SessionRow>,
    /// The delegation asked for and its ancestors, root first; empty when it does not exist.
    pub lineage: Vec<DelegationRow>,
}

/// An authority record.
#[derive(Debug, Clone, Deserialize)]
pub struct RecordRow {
    /// Its id.
    pub id: AuthorityRecordId,
    /// `application` or `user`.
    pub session_type: String,
    /// Whom it stands for.
    pub subject_id: Option<String>,
    /// `active`, `revoked` or `expired`.
    pub status: String,
    /// Its end, in Unix seconds.
    pub expires_at: i64,
}

/// A governed session.
#[derive(Debug, Clone, Deserialize)]
pub struct SessionRow {
    /// Its id.
    pub id: SessionId,
    /// Whose it is.
    pub application_id: ApplicationId,
    /// The session it was started from.
    pub parent_id: Option<SessionId>,
    /// `active`, `suspended`, `terminated` or `expired`.
    pub status: String,
    /// `task` or `service`.
    pub lifecycle: String,
    /// Its labels.
    pub labels: Vec<String>,
    /// Its depth below the root session.
    pub depth: i32,
    /// When it started, in Unix seconds.
    pub started_at: i64,
    /// How long a task may live, in seconds.
    pub ttl_seconds: Option<i64>,
    /// Until when a service is considered alive, in Unix seconds.
    pub heartbeat_deadline_at: Option<i64>,
    /// The record the session was started under.
    pub subject_authority_record_id: AuthorityRecordId,
    /// That record, as it stands now.
    pub subject_record: Option<RecordRow>,
}

/// A delegation edge.
#[derive(Debug, Clone, Deserialize)]
pub struct DelegationRow {
    /// Its id.
    pub id: DelegationId,
    /// The session that delegates.
    pub source_session_id: SessionId,
    /// The session that acts.
    pub target_session_id: SessionId,
    /// Application of the source.
    pub issuer_application_id: ApplicationId,
    /// Application of the target.
    pub receiver_application_id: ApplicationId,
    /// The edge this one narrows.
    pub parent_edge_id: Option<DelegationId>,
    /// The only resource it is for.
    pub resource_id: Option<ResourceId>,
    /// What may be asked for.
    pub scopes: Vec<String>,
    /// Its constraints, as stored.
    pub constraints: Value,
    /// `active`, `revoked` or `expired`.
    pub status: String,
    /// Its end, in Unix seconds.
    pub expires_at: i64,
    /// Changes of the edge so far.
    pub edge_version: i32,
    /// Whether it has a revocation time.
    pub is_revoked: bool,
}

/// Reads what exists of `key`. One statement.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach, [`StorageError::Inconsistent`] when a row cannot be
/// read.
pub async fn load(tx: &mut ReadTx, key: &GraphKey) -> Result<GraphRows, StorageError> {
    let row = sqlx::query(STATEMENT)
        .bind(key.zone_id.as_str())
        .bind(key.authority_record_id.as_ref().map(AuthorityRecordId::as_str))
        .bind(key.session_id.as_ref().map(SessionId::as_str))
        .bind(key.delegation_id.as_ref().map(DelegationId::as_str))
        .bind(LINEAGE_MAX)
        .fetch_one(tx)
        .await?;
    let inconsistent = |column| StorageError::inconsistent("session graph", column, key.zone_id.as_str());
    let sessions: Value = row.try_get("sessions")?;
    let lineage: Value = row.try_get("lineage")?;
    let record: Option<Value> = row.try_get("record")?;
    Ok(GraphRows {
        epoch: row.try_get("epoch")?,
        record: record
            .map(serde_json::from_value)
            .transpose()
            .or(Err(inconsistent("authority_records")))?,
        sessions: serde_json::from_value(sessions).or(Err(inconsistent("sessions")))?,
        lineage: serde_json::from_value(lineage).or(Err(inconsistent("delegation_edges")))?,
    })
}

/// Times are floored to whole seconds: an end may be taken for up to a second earlier than it is, never for later.
const STATEMENT: &str = "
    WITH RECURSIVE lineage AS (
        SELECT e.*, 1 AS hop FROM delegation_edges e WHERE e.zone_id = $1 AND e.id = $4
        UNION ALL
        SELECT p.*, l.hop + 1 FROM lineage l
        JOIN delegation_edges p ON p.zone_id = $1 AND p.id = l.parent_edge_id
        WHERE l.hop < $5
    ),
    wanted AS (
        SELECT $3 AS id
        UNION SELECT source_session_id FROM lineage WHERE hop = 1
        UNION SELECT target_session_id FROM lineage WHERE hop = 1
    )
    SELECT
        coalesce((SELECT epoch FROM delegation_graph_epochs WHERE zone_id = $1), 0)::bigint AS epoch,
        (SELECT jsonb_build_object(
            'id', r.id, 'session_type', r.session_type, 'subject_id', r.subject_id, 'status', r.status,
            'expires_at', floor(extract(epoch FROM r.expires_at))::bigint)
         FROM authority_records r WHERE r.zone_id = $1 AND r.id = $2) AS record,
        coalesce((SELECT jsonb_agg(jsonb_build_object(
            'id', s.id, 'application_id', s.application_id, 'parent_id', s.parent_id, 'status', s.status,
            'lifecycle', s.lifecycle, 'labels', to_jsonb(s.labels), 'depth', s.depth,
            'started_at', floor(extract(epoch FROM s.started_at))::bigint, 'ttl_seconds', s.ttl_seconds,
            'heartbeat_deadline_at', floor(extract(epoch FROM s.heartbeat_deadline_at))::bigint,
            'subject_authority_record_id', s.subject_authority_record_id,
            'subject_record', CASE WHEN r.id IS NULL THEN NULL ELSE jsonb_build_object(
                'id', r.id, 'session_type', r.session_type, 'subject_id', r.subject_id, 'status', r.status,
                'expires_at', floor(extract(epoch FROM r.expires_at))::bigint) END))
         FROM wanted w
         JOIN sessions s ON s.zone_id = $1 AND s.id = w.id
         LEFT JOIN authority_records r ON r.zone_id = $1 AND r.id = s.subject_authority_record_id), '[]') AS sessions,
        coalesce((SELECT jsonb_agg(jsonb_build_object(
            'id', l.id, 'source_session_id', l.source_session_id, 'target_session_id', l.target_session_id,
            'issuer_application_id', l.issuer_application_id,
            'receiver_application_id', l.receiver_application_id, 'parent_edge_id', l.parent_edge_id,
            'resource_id', l.resource_id, 'scopes', to_jsonb(l.scopes), 'constraints', l.constraints_json,
            'status', l.status, 'expires_at', floor(extract(epoch FROM l.expires_at))::bigint,
            'edge_version', l.edge_version, 'is_revoked', l.revoked_at IS NOT NULL) ORDER BY l.hop DESC)
         FROM lineage l), '[]') AS lineage";
