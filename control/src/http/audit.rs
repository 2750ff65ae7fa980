//! `/v1/zones/{zone}/audit`

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use caracal_model::{RequestId, ZoneId};
use caracal_storage::ZoneScope;
use caracal_storage::audit_read::{self, AuditEvent, AuditFilter};
use serde_json::{Value, json};

use super::answer::{list as list_answer, ok};
use super::evidence::redacted;
use super::extract::{Ids, Query};
use super::view::position;
use crate::control::Control;
use crate::refusal::{Code, Refusal};
use crate::timestamp::Timestamp;

/// Most kinds of events asked for at once.
const EVENT_TYPES_MAX: usize = 16;
/// Most events shown of one request.
const REQUEST_EVENTS_MAX: i64 = 1000;

fn view(event: &AuditEvent) -> Value {
    json!({
        "id": event.id,
        "zone_id": event.zone_id,
        "event_type": event.event_type,
        "request_id": event.request_id,
        "decision": event.decision,
        "policy_set_id": event.policy_set_id,
        "policy_set_version_id": event.policy_set_version_id,
        "manifest_sha": event.manifest_sha,
        "evaluation_status": event.evaluation_status,
        "determining_policies_json": event.determining_policies_json,
        "diagnostics_json": event.diagnostics_json,
        "metadata_json": redacted(event.metadata_json.as_ref()),
        "occurred_at": Timestamp(event.occurred_at),
        "ingested_at": Timestamp(event.ingested_at),
    })
}

pub(super) async fn list(
    State(control): State<Arc<Control>>,
    Ids(zone): Ids<ZoneId>,
    query: Query,
) -> Result<Response, Refusal> {
    let filter = AuditFilter {
        since: query.time("since")?,
        until: query.time("until")?,
        request_id: query.text("request_id", 128)?,
        decision: query
            .word("decision", &["allow", "deny", "partial", "approved", "rejected"])?
            .map(str::to_owned),
        event_types: event_types(&query)?,
        application_id: query.text("application_id", 128)?,
        agent_session_id: query.text("session_id", 128)?,
        authority_record_id: query.text("authority_record_id", 128)?,
        label: query.text("label", 64)?,
    };
    query.word("format", &["json"])?;
    let page = query.event_page()?;
    let mut tx = control.database.read_in(ZoneScope::Zone(&zone)).await?;
    let events = audit_read::events(&mut tx, &zone, &filter, &page).await?;
    Ok(list_answer(
        &events,
        &page,
        |event| position(event.occurred_at, &event.id),
        view,
    ))
}

pub(super) async fn by_request(
    State(control): State<Arc<Control>>,
    Ids((zone, request)): Ids<(ZoneId, RequestId)>,
) -> Result<Response, Refusal> {
    let mut tx = control.database.read_in(ZoneScope::Zone(&zone)).await?;
    let events = audit_read::events_of_request(&mut tx, &zone, request.as_str(), REQUEST_EVENTS_MAX).await?;
    if events.is_empty() {
        return Err(Code::RequestNotFound.into());
    }
    Ok(ok(events.iter().map(view).collect::<Vec<Value>>()))
}

fn event_types(query: &Query) -> Result<Vec<String>, Refusal> {
    let Some(text) = query.text("event_type", 2048)? else {
        return Ok(Vec::new());
    };
    let types: Vec<String> = text
        .split(',')
        .map(str::trim)
        .filter(|t| !t.is_empty())
        .map(str::to_owned)
        .collect();
    if types.is_empty() || types.len() > EVENT_TYPES_MAX {
        return Err(Refusal::because(
            Code::InvalidQuery,
            "event_type names 1 to 16 kinds of events",
        ));
    }
    Ok(types)
}
