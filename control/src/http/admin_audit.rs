//! `/v1/zones/{zone}/admin-audit`

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use caracal_model::ZoneId;
use caracal_storage::ZoneScope;
use caracal_storage::audit_read::{self, AdminAuditEvent, AdminAuditFilter};
use serde_json::{Value, json};

use super::answer::list as list_answer;
use super::evidence::redacted;
use super::extract::{Ids, Query};
use super::view::position;
use crate::control::Control;
use crate::refusal::Refusal;
use crate::timestamp::Timestamp;

fn view(event: &AdminAuditEvent) -> Value {
    json!({
        "id": event.id,
        "request_id": event.request_id,
        "actor_id": event.actor_id,
        "actor_name": event.actor_name,
        "actor_scope": event.actor_scope,
        "action": event.action,
        "method": event.method,
        "path": event.path,
        "entity_type": event.entity_type,
        "entity_id": event.entity_id,
        "status_code": event.status_code,
        "payload_json": redacted(event.payload_json.as_ref()),
        "occurred_at": Timestamp(event.occurred_at),
        "chain_seq": event.chain_seq,
        "signed": event.signed,
    })
}

pub(super) async fn list(
    State(control): State<Arc<Control>>,
    Ids(zone): Ids<ZoneId>,
    query: Query,
) -> Result<Response, Refusal> {
    let filter = AdminAuditFilter {
        since: query.time("since")?,
        until: query.time("until")?,
        actor_id: query.text("actor_id", 128)?,
        entity_type: query.text("entity_type", 64)?,
        entity_id: query.text("entity_id", 128)?,
        method: query.text("method", 16)?,
    };
    query.word("format", &["json"])?;
    let page = query.event_page()?;
    let mut tx = control.database.read_in(ZoneScope::Zone(&zone)).await?;
    let events = audit_read::admin_events(&mut tx, &zone, &filter, &page).await?;
    Ok(list_answer(
        &events,
        &page,
        |event| position(event.occurred_at, &event.id),
        view,
    ))
}
