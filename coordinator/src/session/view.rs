//! How does a session look to a caller? docs/contract/sessions-and-delegations.md, "The session object".

use caracal_storage::session::Session;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::macros::format_description;

/// The answer of a start.
pub(crate) fn started(session: &Session, delegation: Option<&str>) -> Value {
    json!({
        "agent_session_id": session.id,
        "zone_id": session.zone_id,
        "application_id": session.application_id,
        "parent_id": session.parent_id,
        "subject_authority_record_id": session.subject_authority_record_id,
        "lifecycle": session.lifecycle,
        "labels": session.labels,
        "status": session.status,
        "depth": session.depth,
        "ttl_seconds": session.ttl_seconds,
        "started_at": instant(session.started_at),
        "last_heartbeat_at": session.last_heartbeat_at.map(instant),
        "heartbeat_deadline_at": session.heartbeat_deadline_at.map(instant),
        "lease_generation": session.lease_generation,
        "delegation_edge_id": delegation,
    })
}

/// A session as it is read later.
pub(crate) fn item(session: &Session) -> Value {
    json!({
        "agent_session_id": session.id,
        "zone_id": session.zone_id,
        "application_id": session.application_id,
        "parent_id": session.parent_id,
        "subject_authority_record_id": session.subject_authority_record_id,
        "lifecycle": session.lifecycle,
        "labels": session.labels,
        "status": session.status,
        "depth": session.depth,
        "ttl_seconds": session.ttl_seconds,
        "metadata": session.metadata_json,
        "started_at": instant(session.started_at),
        "terminated_at": session.terminated_at.map(instant),
        "termination_reason": session.termination_reason,
        "last_heartbeat_at": session.last_heartbeat_at.map(instant),
        "heartbeat_deadline_at": session.heartbeat_deadline_at.map(instant),
        "lease_generation": session.lease_generation,
    })
}

/// A time on the wire: RFC 3339 in UTC with milliseconds.
pub(crate) fn instant(at: OffsetDateTime) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
    at.to_offset(time::UtcOffset::UTC)
        .format(&format)
        .unwrap_or_default()
}
