//! How is authority passed on? docs/contract/sessions-and-delegations.md, "Create a delegation"; the rules are docs/contract/delegation-rules.md.

mod authority;
mod wanted;

use axum::http::StatusCode;
use caracal_model::delegation::{InboundEdge, would_cycle};
use caracal_model::{DelegationId, ResourceIdentifier, UnixSeconds, ZoneId};
use caracal_storage::delegation::{self, Edge, NewEdge};
use caracal_storage::session::{self, Session};
use caracal_storage::{WriteTx, ZoneScope, revocation_cascade};
use serde_json::{Value, json};
use time::OffsetDateTime;

use self::authority::{Resources, check_resources, parent_of};
pub(crate) use self::wanted::Body;
use self::wanted::Wanted;
use super::announce_created;
use crate::auth::Caller;
use crate::http::{Answer, new_id};
use crate::idempotency::{Guard, Key};
use crate::record::{self, Change};
use crate::refusal::Refusal;
use crate::session::view::instant;
use crate::state::Coordinator;

/// Edges that may follow one another at most.
const HOPS_MAX: u32 = 10;
/// Creates a delegation.
///
/// # Errors
/// As the contract lists them; nothing is stored then.
pub(crate) async fn create(
    coordinator: &Coordinator,
    caller: &Caller,
    zone: &ZoneId,
    body: Body,
    key: Option<Key>,
    request_id: &str,
) -> Result<Answer, Refusal> {
    let now = UnixSeconds(coordinator.clock.unix_seconds());
    let digest = request_digest(caller, &body);
    let mut wanted = Wanted::check(body, now)?;
    authorize(caller, &mut wanted)?;
    let guard = key.map(|key| {
        Guard::new(
            &coordinator.idempotency,
            "delegation.create.v2",
            zone,
            wanted.body.issuer_application_id.as_str(),
            &key,
            &digest,
        )
    });
    let mut tx = coordinator.database.write(ZoneScope::Zone(zone)).await?;
    if let Some(guard) = &guard
        && let Some(receipt) = guard.enter(&mut tx, coordinator.idempotency.receipts_max).await?
    {
        return replay(
            &mut tx,
            zone,
            &receipt.resource_id,
            receipt.response_json.clone(),
            now,
        )
        .await;
    }
    delegation::lock_zone(&mut tx, zone).await?;
    revocation_cascade::hold_off(&mut tx, zone).await?;
    let source = check_ends(&mut tx, zone, &wanted).await?;
    let resources = check_resources(&mut tx, zone, &wanted).await?;
    let received = delegation::inbound(&mut tx, zone, &source.id).await?;
    if received.is_empty() && source.constrained {
        return Err(Refusal::forbidden("parent_delegation_not_active"));
    }
    let parent = parent_of(&mut tx, zone, &wanted, &received, &resources, now).await?;
    check_cycle(&mut tx, zone, &wanted).await?;
    let (edge, epoch) = insert(&mut tx, zone, &wanted, &resources, parent.as_ref()).await?;
    announce_created(&mut tx, zone, &edge, epoch).await?;
    let body = view(&wanted, &edge, &received);
    if let Some(guard) = &guard {
        guard.leave(&mut tx, "delegation", &edge.id, &body).await?;
    }
    let change = Change {
        zone,
        request_id,
        method: "POST",
        path: format!("/zones/{zone}/delegations"),
        entity_type: "delegations",
        entity_id: &edge.id,
        status: 201,
    };
    record::append(coordinator, &mut tx, caller, &change).await?;
    tx.commit().await?;
    Ok(Answer::new(StatusCode::CREATED, body))
}

/// Who may pass on, and whether without naming a resource.
fn authorize(caller: &Caller, wanted: &mut Wanted) -> Result<(), Refusal> {
    let issuer = &wanted.body.issuer_application_id;
    if !caller.may_act_for(issuer.as_str(), "coordinator.delegate_from") {
        return Err(Refusal::forbidden("issuer_ownership_required"));
    }
    if wanted.body.source_session_id == wanted.body.target_session_id {
        return Err(Refusal::bad_request("self_delegation_denied"));
    }
    if wanted.is_broad() {
        let broad = caller.is_admin()
            || caller.scopes.contains("coordinator.delegate_broad")
            || caller
                .scopes
                .contains(&format!("coordinator.delegate_broad:{issuer}"));
        if !broad {
            return Err(Refusal::forbidden("broad_delegation_permission_required"));
        }
        wanted
            .constraints
            .broad_reason
            .get_or_insert_with(|| "resource_null_delegation".to_owned());
        wanted.constraints.policy_approved = Some(true);
    }
    Ok(())
}

fn request_digest(caller: &Caller, body: &Body) -> Value {
    json!({
        "client_id": caller.client_id,
        "subject": caller.subject,
        "source_session_id": body.source_session_id,
        "target_session_id": body.target_session_id,
        "issuer_application_id": body.issuer_application_id,
        "receiver_application_id": body.receiver_application_id,
        "parent_edge_id": body.parent_edge_id,
        "resource_id": body.resource_id,
        "scopes": body.scopes,
        "constraints": body.constraints,
        "constraints_json": body.constraints_json,
        "expires_at": body.expires_at,
        "ttl_seconds": body.ttl_seconds,
    })
}

async fn replay(
    tx: &mut WriteTx,
    zone: &ZoneId,
    id: &str,
    body: Value,
    now: UnixSeconds,
) -> Result<Answer, Refusal> {
    match delegation::lock(tx, zone, id).await? {
        Some(edge) if edge.to_model()?.is_live(zone, now) => Ok(Answer::replayed(StatusCode::CREATED, body)),
        _ => Err(Refusal::conflict("idempotency_result_inactive")),
    }
}

/// Both sessions live, and owned by the applications that are named. Gives the source.
async fn check_ends(tx: &mut WriteTx, zone: &ZoneId, wanted: &Wanted) -> Result<Session, Refusal> {
    let body = &wanted.body;
    let ends = [body.source_session_id.as_str(), body.target_session_id.as_str()];
    let mut source = None;
    let mut target = None;
    for session in session::lock_all_live(tx, zone, &ends).await? {
        if session.id == body.source_session_id.as_str() {
            source = Some(session);
        } else {
            target = Some(session);
        }
    }
    let (Some(source), Some(target)) = (source, target) else {
        return Err(Refusal::not_found("delegation_endpoint_not_found"));
    };
    if source.application_id != body.issuer_application_id.as_str()
        || target.application_id != body.receiver_application_id.as_str()
    {
        return Err(Refusal::conflict("delegation_application_mismatch"));
    }
    Ok(source)
}

async fn check_cycle(tx: &mut WriteTx, zone: &ZoneId, wanted: &Wanted) -> Result<(), Refusal> {
    let pairs = delegation::live_pairs(tx, zone).await?;
    let source = wanted.body.source_session_id.to_string();
    let target = wanted.body.target_session_id.to_string();
    if would_cycle(pairs, &source, &target, HOPS_MAX) {
        return Err(Refusal::conflict("delegation_cycle_denied"));
    }
    Ok(())
}

async fn insert(
    tx: &mut WriteTx,
    zone: &ZoneId,
    wanted: &Wanted,
    resources: &Resources,
    parent: Option<&InboundEdge>,
) -> Result<(Edge, i64), Refusal> {
    let id = new_id::<DelegationId>()?;
    let scopes: Vec<String> = wanted.scopes.iter().map(ToOwned::to_owned).collect();
    let expires_at = OffsetDateTime::from_unix_timestamp(wanted.expires_at.0)
        .map_err(|_range| Refusal::bad_request("invalid_expires_at"))?;
    let new = NewEdge {
        id: &id,
        zone_id: zone,
        source_session_id: wanted.body.source_session_id.as_str(),
        target_session_id: wanted.body.target_session_id.as_str(),
        issuer_application_id: wanted.body.issuer_application_id.as_str(),
        receiver_application_id: wanted.body.receiver_application_id.as_str(),
        parent_edge_id: parent.map(|parent| parent.id.as_str()),
        resource_id: resources.named.as_ref().map(|named| named.id.as_str()),
        scopes: &scopes,
        constraints_json: &wanted.constraints.to_json(),
        expires_at,
    };
    delegation::insert(tx, &new)
        .await?
        .ok_or_else(|| Refusal::bad_request("delegation_expired"))
}

/// The answer: the edge, and why it was allowed.
fn view(wanted: &Wanted, edge: &Edge, received: &[Edge]) -> Value {
    let is_broad = wanted.is_broad();
    let warnings: &[&str] = if is_broad {
        &["resource_null_delegation_broadens_resource_matching"]
    } else {
        &[]
    };
    let reasons = [
        "same_zone_endpoints_active",
        if is_broad {
            "broad_delegation_elevated"
        } else {
            "resource_scope_checked"
        },
        if edge.parent_edge_id.is_some() {
            "parent_authority_narrowed"
        } else {
            "source_authority_root"
        },
        "typed_constraints_validated",
    ];
    json!({
        "delegation_edge_id": edge.id,
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
        "revoked_at": null,
        "created_at": instant(edge.created_at),
        "warnings": warnings,
        "allow_reason": reasons,
        "effective_authority": {
            "source_session_id": edge.source_session_id,
            "target_session_id": edge.target_session_id,
            "parent_edge_id": edge.parent_edge_id,
            "resource_id": edge.resource_id,
            "resources": wanted.constraints.resources.iter().map(ResourceIdentifier::as_str).collect::<Vec<_>>(),
            "scopes": edge.scopes,
            "expires_at": instant(edge.expires_at),
            "max_hops": wanted.constraints.hops(),
            "ttl_seconds": wanted.constraints.ttl_seconds,
            "broad": is_broad,
            "parent_edges_considered": received.iter().map(|edge| edge.id.as_str()).collect::<Vec<_>>(),
        },
    })
}
