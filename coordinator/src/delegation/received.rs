//! What has a session received? docs/contract/sessions-and-delegations.md, "What a session received".

use caracal_model::{DelegationId, SessionId, ZoneId};
use caracal_storage::delegation::{self, Edge};
use caracal_storage::{ReadTx, ZoneScope, session};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::auth::Caller;
use crate::refusal::Refusal;
use crate::session::view::instant;
use crate::state::Coordinator;

const LIMIT_DEFAULT: i64 = 100;
const LIMIT_MAX: i64 = 500;

/// Which part of the list.
#[derive(Debug, Deserialize)]
pub(crate) struct PageQuery {
    limit: Option<i64>,
    cursor: Option<String>,
}

/// Delegations that pointed at the session, newest first, whatever became of them.
///
/// # Errors
/// 400 `invalid_query`, `invalid_cursor`; 404 `session_not_found` for a session that is not the caller's.
pub(crate) async fn page(
    coordinator: &Coordinator,
    caller: &Caller,
    zone: &ZoneId,
    session: &SessionId,
    query: &PageQuery,
) -> Result<Value, Refusal> {
    let limit = query.limit.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(Refusal::bad_request("invalid_query"));
    }
    let before = query
        .cursor
        .as_deref()
        .map(str::parse::<DelegationId>)
        .transpose()
        .map_err(|_invalid| Refusal::bad_request("invalid_cursor"))?;
    let mut tx = coordinator.database.read_in(ZoneScope::Zone(zone)).await?;
    check_visible(&mut tx, caller, zone, session).await?;
    // One more than asked for says whether there is a next page.
    let mut edges = delegation::inbound_page(&mut tx, zone, session, before.as_ref(), limit + 1).await?;
    let asked_for = usize::try_from(limit).unwrap_or_default();
    let has_more = edges.len() > asked_for;
    edges.truncate(asked_for);
    let next_cursor = edges.last().filter(|_| has_more).map(|edge| edge.id.as_str());
    Ok(json!({"items": edges.iter().map(item).collect::<Vec<_>>(), "next_cursor": next_cursor}))
}

/// One delegation that is live and points at the session.
///
/// # Errors
/// 404 `session_not_found`, `delegation_not_found`.
pub(crate) async fn one(
    coordinator: &Coordinator,
    caller: &Caller,
    zone: &ZoneId,
    session: &SessionId,
    id: &DelegationId,
) -> Result<Value, Refusal> {
    let mut tx = coordinator.database.read_in(ZoneScope::Zone(zone)).await?;
    check_visible(&mut tx, caller, zone, session).await?;
    let edge = delegation::find_live_inbound(&mut tx, zone, session, id).await?;
    edge.map(|edge| item(&edge))
        .ok_or_else(|| Refusal::not_found("delegation_not_found"))
}

async fn check_visible(
    tx: &mut ReadTx,
    caller: &Caller,
    zone: &ZoneId,
    session: &SessionId,
) -> Result<(), Refusal> {
    session::find(tx, zone, session.as_str())
        .await?
        .filter(|session| caller.may_see(&session.application_id))
        .map(drop)
        .ok_or_else(|| Refusal::not_found("session_not_found"))
}

fn item(edge: &Edge) -> Value {
    json!({
        "id": edge.id,
        "zone_id": edge.zone_id,
        "source_session_id": edge.source_session_id,
        "target_session_id": edge.target_session_id,
        "issuer_application_id": edge.issuer_application_id,
        "receiver_application_id": edge.receiver_application_id,
        "parent_edge_id": edge.parent_edge_id,
        "resource_id": edge.resource_id,
        "scopes": edge.scopes,
        "constraints_json": edge.constraints_json,
        "status": edge.status,
        "expires_at": instant(edge.expires_at),
        "edge_version": edge.edge_version,
        "revoked_at": edge.revoked_at.map(instant),
        "created_at": instant(edge.created_at),
    })
}
