//! `/v1/zones/{zone}/sessions`

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use caracal_model::ZoneId;
use caracal_storage::ZoneScope;
use caracal_storage::audit_read::{self, Session, SessionFilter};
use serde_json::{Value, json};

use super::answer::list as list_answer;
use super::extract::{Ids, Query};
use super::view::position;
use crate::control::Control;
use crate::refusal::Refusal;
use crate::timestamp::Timestamp;

pub(super) fn view(session: &Session) -> Value {
    json!({
        "session_id": session.id,
        "application_id": session.application_id,
        "parent_session_id": session.parent_id,
        "status": session.status,
        "lifecycle": session.lifecycle,
        "labels": session.labels,
        "depth": session.depth,
        "child_count": session.child_count,
        "subject_authority_record_id": session.subject_authority_record_id,
        "subject_id": session.subject_id,
        "federated_user_id": session.federated_user_id,
        "federated_user_issuer": session.federated_user_issuer,
        "started_at": Timestamp(session.started_at),
        "last_active_at": Timestamp(session.last_active_at),
        "terminated_at": session.terminated_at.map(Timestamp),
        "termination_reason": session.termination_reason,
        "ttl_seconds": session.ttl_seconds,
    })
}

pub(super) async fn list(
    State(control): State<Arc<Control>>,
    Ids(zone): Ids<ZoneId>,
    query: Query,
) -> Result<Response, Refusal> {
    let filter = SessionFilter {
        status: query.word("status", &["active", "suspended", "terminated", "expired"])?,
        lifecycle: query.word("lifecycle", &["task", "service"])?,
        application_id: query.text("application_id", 128)?,
        parent_session_id: query.text("parent_session_id", 128)?,
        subject_id: query.text("subject_id", 512)?,
        label: query.text("label", 64)?,
    };
    let page = query.event_page()?;
    let mut tx = control.database.read_in(ZoneScope::Zone(&zone)).await?;
    let sessions = audit_read::sessions(&mut tx, &zone, &filter, &page).await?;
    Ok(list_answer(
        &sessions,
        &page,
        |session| position(session.started_at, &session.id),
        view,
    ))
}
