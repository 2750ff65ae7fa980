//! `/v1/zones/{zone}/subjects`

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use caracal_model::{SubjectId, ZoneId};
use caracal_storage::subject::{Filter, Subject};
use serde_json::{Value, json};

use super::answer::{list as list_answer, ok};
use super::extract::{Ids, Query};
use super::view::position;
use super::{provider_connections, sessions};
use crate::body::Body;
use crate::caller::Caller;
use crate::control::Control;
use crate::refusal::{Code, Refusal};
use crate::subject::{self, REASON_DEFAULT};
use crate::timestamp::Timestamp;

fn view(subject: &Subject) -> Value {
    json!({
        "subject_id": subject.subject_id,
        "federated": subject.federated,
        "application_name": subject.application_name,
        "total_sessions": subject.total_sessions,
        "active_sessions": subject.active_sessions,
        "revoked_sessions": subject.revoked_sessions,
        "first_seen": Timestamp(subject.first_seen),
        "last_seen": Timestamp(subject.last_seen),
        "last_revoked_at": subject.last_revoked_at.map(Timestamp),
        "issuer": subject.issuer,
    })
}

pub(super) async fn list(
    State(control): State<Arc<Control>>,
    Ids(zone): Ids<ZoneId>,
    query: Query,
) -> Result<Response, Refusal> {
    let search = query.text("search", 512)?;
    let filter = Filter {
        kind: query.word("kind", &["user", "application"])?,
        search: search.as_deref(),
    };
    let page = query.page(100, 200)?;
    let subjects = subject::list(&control, &zone, filter, &page).await?;
    let at = |subject: &Subject| position(subject.last_seen, &subject.subject_id);
    Ok(list_answer(&subjects, &page, at, view))
}

pub(super) async fn overview(
    State(control): State<Arc<Control>>,
    Ids(zone): Ids<ZoneId>,
    query: Query,
) -> Result<Response, Refusal> {
    let subject = query.subject("subject_id")?;
    let overview = subject::overview(&control, &zone, &subject).await?;
    let activity = overview.activity;
    let recent: Vec<Value> = overview.sessions.iter().map(sessions::view).collect();
    let connections: Vec<_> = overview
        .connections
        .iter()
        .map(provider_connections::view)
        .collect();
    Ok(ok(json!({
        "subject": view(&overview.subject),
        "governed": { "active": activity.sessions_active, "total": activity.sessions_total, "recent": recent },
        "approvals": { "pending": activity.approvals_pending, "total": activity.approvals_total },
        "connections": connections,
    })))
}

pub(super) async fn revoke(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids(zone): Ids<ZoneId>,
    mut body: Body,
) -> Result<Response, Refusal> {
    let subject = SubjectId::try_from(body.required_text("subject_id", 1..=512).as_str()).ok();
    if subject.is_none() {
        body.problem(&["subject_id"], "Expected a subject");
    }
    let reason = body.optional_trimmed("reason", 1..=512);
    if reason
        .as_deref()
        .is_some_and(|reason| reason.chars().any(char::is_control))
    {
        body.problem(&["reason"], "Must not contain control characters");
    }
    body.finish_strict(Code::InvalidSubjectRevoke)?;
    let subject = subject.ok_or(Code::InvalidSubjectRevoke)?;
    let reason = reason.as_deref().unwrap_or(REASON_DEFAULT);
    let ended = subject::revoke(&control, &caller, &zone, &subject, reason, body.members()).await?;
    Ok(ok(json!({
        "subject_id": subject,
        "authority_records": ended.authority.authority_records.len(),
        "sessions": ended.authority.sessions.len(),
        "delegations": ended.authority.delegations.len(),
        "connections": ended.connections,
    })))
}
