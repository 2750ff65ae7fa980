//! What happened in a zone, who did it, and what is alive in it?
//!
//! The lists behind the evidence pages of the admin API. Each statement holds exactly the conditions that were asked for,
//! so that the planner can choose the index that fits them.

use caracal_model::{AuthorityRecordId, ZoneId};
use serde_json::Value;
use sqlx::{PgExecutor, Postgres, QueryBuilder};
use time::OffsetDateTime;

use crate::error::{StorageError, checked};
use crate::page::Page;
use crate::tx::{ReadTx, WriteTx};

/// A recorded decision or event.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct AuditEvent {
    /// Its id.
    pub id: String,
    /// Its zone.
    pub zone_id: String,
    /// What kind of event.
    pub event_type: String,
    /// Request that caused it.
    pub request_id: Option<String>,
    /// What was decided.
    pub decision: Option<String>,
    /// Policy set that decided.
    pub policy_set_id: Option<String>,
    /// Its version.
    pub policy_set_version_id: Option<String>,
    /// Hash of that version's manifest.
    pub manifest_sha: Option<String>,
    /// How the evaluation ended.
    pub evaluation_status: Option<String>,
    /// Policies that determined the decision.
    pub determining_policies_json: Option<Value>,
    /// What the evaluation had to say.
    pub diagnostics_json: Option<Value>,
    /// Everything else.
    pub metadata_json: Option<Value>,
    /// When it happened.
    pub occurred_at: OffsetDateTime,
    /// When it reached the ledger.
    pub ingested_at: OffsetDateTime,
}

/// Which events are wanted; everything that is `None` or empty does not restrict.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Not before.
    pub since: Option<OffsetDateTime>,
    /// Before.
    pub until: Option<OffsetDateTime>,
    /// Of this request.
    pub request_id: Option<String>,
    /// With this decision.
    pub decision: Option<String>,
    /// Of these kinds.
    pub event_types: Vec<String>,
    /// About this application.
    pub application_id: Option<String>,
    /// About this session.
    pub agent_session_id: Option<String>,
    /// About this authority record.
    pub authority_record_id: Option<String>,
    /// About a session with this label.
    pub label: Option<String>,
}

const AUDIT_COLUMNS: &str = "SELECT id, zone_id, event_type, request_id, decision, policy_set_id,
    policy_set_version_id, manifest_sha, evaluation_status, determining_policies_json, diagnostics_json, metadata_json,
    occurred_at, ingested_at FROM audit_events WHERE zone_id = ";

/// Events of a zone, newest first.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn events<'t>(
    tx: impl PgExecutor<'t>,
    zone: &ZoneId,
    filter: &AuditFilter,
    page: &Page,
) -> Result<Vec<AuditEvent>, StorageError> {
    let mut query = Query::new(AUDIT_COLUMNS, zone);
    query.from(" AND occurred_at >= ", filter.since);
    query.from(" AND occurred_at < ", filter.until);
    query.equal(" AND request_id = ", filter.request_id.as_deref());
    query.equal(" AND decision = ", filter.decision.as_deref());
    query.equal(" AND application_id = ", filter.application_id.as_deref());
    query.equal(" AND agent_session_id = ", filter.agent_session_id.as_deref());
    query.equal(
        " AND authority_record_id = ",
        filter.authority_record_id.as_deref(),
    );
    if !filter.event_types.is_empty() {
        query
            .0
            .push(" AND event_type = ANY(")
            .push_bind(filter.event_types.clone())
            .push(")");
    }
    if let Some(label) = &filter.label {
        query
            .0
            .push(" AND metadata_json -> 'agent_labels' @> ")
            .push_bind(Value::from(vec![label.clone()]));
    }
    query.page("occurred_at", "id", page);
    Ok(query.0.build_query_as().fetch_all(tx).await?)
}

/// Events of one request, oldest first; at most `limit`.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn events_of_request<'t>(
    tx: impl PgExecutor<'t>,
    zone: &ZoneId,
    request_id: &str,
    limit: i64,
) -> Result<Vec<AuditEvent>, StorageError> {
    let mut query = Query::new(AUDIT_COLUMNS, zone);
    query.equal(" AND request_id = ", Some(request_id));
    query.0.push(" ORDER BY occurred_at, id LIMIT ").push_bind(limit);
    Ok(query.0.build_query_as().fetch_all(tx).await?)
}

/// A recorded administrative request.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct AdminAuditEvent {
    /// Its id.
    pub id: String,
    /// The request.
    pub request_id: String,
    /// Who did it.
    pub actor_id: Option<String>,
    /// Their name.
    pub actor_name: Option<String>,
    /// `global` or `zone`.
    pub actor_scope: Option<String>,
    /// `METHOD path`.
    pub action: String,
    /// HTTP method.
    pub method: String,
    /// Path without query.
    pub path: String,
    /// Kind of the changed thing.
    pub entity_type: Option<String>,
    /// Its id.
    pub entity_id: Option<String>,
    /// HTTP status answered.
    pub status_code: i32,
    /// What changed.
    pub payload_json: Option<Value>,
    /// When it happened.
    pub occurred_at: OffsetDateTime,
    /// Position in the zone's chain.
    pub chain_seq: i64,
    /// Whether the link is signed.
    pub signed: bool,
}

/// Which administrative records are wanted.
#[derive(Debug, Clone, Default)]
pub struct AdminAuditFilter {
    /// Not before.
    pub since: Option<OffsetDateTime>,
    /// Before.
    pub until: Option<OffsetDateTime>,
    /// By this actor.
    pub actor_id: Option<String>,
    /// About this kind of thing.
    pub entity_type: Option<String>,
    /// About this thing.
    pub entity_id: Option<String>,
    /// With this HTTP method.
    pub method: Option<String>,
}

/// Administrative records of a zone, newest first.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn admin_events<'t>(
    tx: impl PgExecutor<'t>,
    zone: &ZoneId,
    filter: &AdminAuditFilter,
    page: &Page,
) -> Result<Vec<AdminAuditEvent>, StorageError> {
    let mut query = Query::new(
        "SELECT id, request_id, actor_id, actor_name, actor_scope, action, method, path, entity_type, entity_id,
             status_code, payload_json, occurred_at, chain_seq, coalesce(chain_hmac, '') <> '' AS signed
         FROM admin_audit_events WHERE zone_id = ",
        zone,
    );
    query.from(" AND occurred_at >= ", filter.since);
    query.from(" AND occurred_at < ", filter.until);
    query.equal(" AND actor_id = ", filter.actor_id.as_deref());
    query.equal(" AND entity_type = ", filter.entity_type.as_deref());
    query.equal(" AND entity_id = ", filter.entity_id.as_deref());
    query.equal(" AND method = ", filter.method.as_deref());
    query.page("occurred_at", "id", page);
    Ok(query.0.build_query_as().fetch_all(tx).await?)
}

/// An authority record, as it is listed.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct AuthorityRecord {
    /// Its id, the `sid` of its mandate.
    pub id: String,
    /// Its zone.
    pub zone_id: String,
    /// `application` or `user`.
    pub session_type: String,
    /// Whom it stands for.
    pub subject_id: Option<String>,
    /// Who vouched for a user.
    pub federated_user_issuer: Option<String>,
    /// The record it was derived from.
    pub parent_id: Option<String>,
    /// `active`, `revoked` or `expired`.
    pub status: String,
    /// Its end.
    pub expires_at: OffsetDateTime,
    /// When the subject proved who it is.
    pub authenticated_at: OffsetDateTime,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// When it was revoked.
    pub revoked_at: Option<OffsetDateTime>,
    /// Why it was revoked.
    pub revoked_reason: Option<String>,
}

/// Which authority records are wanted.
#[derive(Debug, Clone, Default)]
pub struct AuthorityRecordFilter {
    /// This one.
    pub authority_record_id: Option<String>,
    /// In this state; a record past its end counts as expired even before it is marked so.
    pub status: Option<&'static str>,
    /// Standing for this subject.
    pub subject_id: Option<String>,
    /// `application` or `user`.
    pub kind: Option<&'static str>,
}

const RECORD_COLUMNS: &str = "SELECT id, zone_id, session_type, subject_id,
    claims_json ->> 'iss' AS federated_user_issuer, parent_id,
    CASE WHEN status = 'active' AND expires_at <= now() THEN 'expired' ELSE status END AS status,
    expires_at, authenticated_at, created_at, revoked_at, revoked_reason
    FROM authority_records WHERE zone_id = ";

/// Authority records of a zone, newest first.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn authority_records<'t>(
    tx: impl PgExecutor<'t>,
    zone: &ZoneId,
    filter: &AuthorityRecordFilter,
    page: &Page,
) -> Result<Vec<AuthorityRecord>, StorageError> {
    let mut query = Query::new(RECORD_COLUMNS, zone);
    query.equal(" AND id = ", filter.authority_record_id.as_deref());
    query.equal(" AND subject_id = ", filter.subject_id.as_deref());
    query.equal(" AND session_type = ", filter.kind);
    match filter.status {
        None => {}
        Some("active") => {
            query.0.push(" AND status = 'active' AND expires_at > now()");
        }
        Some("expired") => {
            query
                .0
                .push(" AND (status = 'expired' OR (status = 'active' AND expires_at <= now()))");
        }
        Some(other) => query.equal(" AND status = ", Some(other)),
    }
    query.page("created_at", "id", page);
    Ok(query.0.build_query_as().fetch_all(tx).await?)
}

/// One authority record.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn authority_record<'t>(
    tx: impl PgExecutor<'t>,
    zone: &ZoneId,
    record: &AuthorityRecordId,
) -> Result<Option<AuthorityRecord>, StorageError> {
    let mut query = Query::new(RECORD_COLUMNS, zone);
    query.equal(" AND id = ", Some(record.as_str()));
    Ok(query.0.build_query_as().fetch_optional(tx).await?)
}

/// A governed session, as it is listed.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Session {
    /// Its id.
    pub id: String,
    /// Whose it is.
    pub application_id: String,
    /// The session it was started from.
    pub parent_id: Option<String>,
    /// `active`, `suspended`, `terminated` or `expired`.
    pub status: String,
    /// `task` or `service`.
    pub lifecycle: String,
    /// Its labels.
    pub labels: Vec<String>,
    /// Its depth below the root session.
    pub depth: i32,
    /// Live sessions started from it.
    pub child_count: i32,
    /// The record it hangs from.
    pub subject_authority_record_id: String,
    /// Whom that record stands for.
    pub subject_id: Option<String>,
    /// The user behind it, when there is one.
    pub federated_user_id: Option<String>,
    /// Who vouched for that user.
    pub federated_user_issuer: Option<String>,
    /// When it started.
    pub started_at: OffsetDateTime,
    /// When it was last heard of.
    pub last_active_at: OffsetDateTime,
    /// When it ended.
    pub terminated_at: Option<OffsetDateTime>,
    /// Why it ended.
    pub termination_reason: Option<String>,
    /// How long a task may live, in seconds.
    pub ttl_seconds: Option<i32>,
}

/// Which sessions are wanted.
#[derive(Debug, Clone, Default)]
pub struct SessionFilter {
    /// In this state.
    pub status: Option<&'static str>,
    /// `task` or `service`.
    pub lifecycle: Option<&'static str>,
    /// Of this application.
    pub application_id: Option<String>,
    /// Started from this session.
    pub parent_session_id: Option<String>,
    /// Standing for this subject.
    pub subject_id: Option<String>,
    /// With this label.
    pub label: Option<String>,
}

/// Sessions of a zone, newest first.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn sessions<'t>(
    tx: impl PgExecutor<'t>,
    zone: &ZoneId,
    filter: &SessionFilter,
    page: &Page,
) -> Result<Vec<Session>, StorageError> {
    let mut query = Query::new(
        "SELECT s.id, s.application_id, s.parent_id, s.status, s.lifecycle, s.labels, s.depth, s.child_count,
             s.subject_authority_record_id, r.subject_id,
             CASE WHEN r.session_type = 'user' THEN r.subject_id END AS federated_user_id,
             r.claims_json ->> 'iss' AS federated_user_issuer,
             s.started_at, s.last_active_at, s.terminated_at, s.termination_reason, s.ttl_seconds
         FROM sessions s
         LEFT JOIN authority_records r ON r.zone_id = s.zone_id AND r.id = s.subject_authority_record_id
         WHERE s.zone_id = ",
        zone,
    );
    query.equal(" AND s.status = ", filter.status);
    query.equal(" AND s.lifecycle = ", filter.lifecycle);
    query.equal(" AND s.application_id = ", filter.application_id.as_deref());
    query.equal(" AND s.parent_id = ", filter.parent_session_id.as_deref());
    query.equal(" AND r.subject_id = ", filter.subject_id.as_deref());
    if let Some(label) = &filter.label {
        // Bound as an array, so that a label with a comma or a brace is one label.
        query.0.push(" AND s.labels @> ").push_bind(vec![label.clone()]);
    }
    query.page("s.started_at", "s.id", page);
    Ok(query.0.build_query_as().fetch_all(tx).await?)
}

/// A statement that grows by the conditions asked for. Only literals are spliced; every value is bound.
struct Query(QueryBuilder<Postgres>);

impl Query {
    fn new(select: &'static str, zone: &ZoneId) -> Self {
        let mut builder = QueryBuilder::new(select);
        builder.push_bind(zone.to_string());
        Self(builder)
    }

    fn equal(&mut self, condition: &'static str, value: Option<&str>) {
        if let Some(value) = value {
            self.0.push(condition).push_bind(value.to_owned());
        }
    }

    fn from(&mut self, condition: &'static str, time: Option<OffsetDateTime>) {
        if let Some(time) = time {
            self.0.push(condition).push_bind(time);
        }
    }

    fn page(&mut self, time: &'static str, id: &'static str, page: &Page) {
        if let Some(after) = &page.after {
            self.0.push(format_args!(" AND ({time}, {id}) < ("));
            self.0
                .push_bind(after.at)
                .push(", ")
                .push_bind(after.id.clone())
                .push(")");
        }
        self.0
            .push(format_args!(" ORDER BY {time} DESC, {id} DESC LIMIT "))
            .push_bind(page.limit);
    }
}

/// Marks up to `batch` overdue records as expired. Answers how many.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn expire_authority_records(tx: &mut WriteTx, batch: i64) -> Result<u64, StorageError> {
    let expired = sqlx::query(
        "UPDATE authority_records SET status = 'expired'
         WHERE id IN (
             SELECT id FROM authority_records WHERE status = 'active' AND expires_at <= now()
             ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED)",
    )
    .bind(batch)
    .execute(tx)
    .await?;
    Ok(expired.rows_affected())
}

/// Live records of applications that are archived, of users they signed in, and of archived zones.
///
/// A token service issues from memory, so for a moment it may issue to an application that was just archived.
///
/// # Errors
/// [`StorageError::Inconsistent`] when a row cannot be read.
pub async fn records_of_archived_applications(
    tx: &mut ReadTx,
    batch: i64,
) -> Result<Vec<(ZoneId, AuthorityRecordId)>, StorageError> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "SELECT r.zone_id, r.id
         FROM authority_records r
         JOIN zones z ON z.id = r.zone_id
         LEFT JOIN applications a ON a.zone_id = r.zone_id AND a.id =
             CASE r.session_type WHEN 'application' THEN r.subject_id ELSE r.claims_json ->> 'client_id' END
         WHERE r.status = 'active' AND r.expires_at > now()
           AND (z.archived_at IS NOT NULL OR a.archived_at IS NOT NULL)
         ORDER BY r.expires_at LIMIT $1",
    )
    .bind(batch)
    .fetch_all(tx)
    .await?;
    rows.into_iter()
        .map(|(zone, id)| {
            let record = checked(id, "authority_records", "id", &zone)?;
            Ok((
                checked(zone, "authority_records", "zone_id", "of an archived application")?,
                record,
            ))
        })
        .collect()
}
