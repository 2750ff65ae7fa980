//! How is authority taken back? With everything that was narrowed from it. docs/contract/sessions-and-delegations.md, "Revoke a delegation".

use caracal_model::{DelegationId, ZoneId};
use caracal_storage::outbox::Producer;
use caracal_storage::revocation_cascade::{self, Root};
use caracal_storage::{ZoneScope, delegation};
use serde_json::{Value, json};

use crate::auth::Caller;
use crate::record::{self, Change};
use crate::refusal::Refusal;
use crate::state::Coordinator;

const REASON: &str = "delegation_revoked";

/// Revokes a delegation and every one derived from it. The sessions at its ends go on, without what it gave them.
///
/// # Errors
/// 403 `issuer_ownership_required`; 404 `delegation_not_found` when it is missing or not active.
pub(crate) async fn revoke(
    coordinator: &Coordinator,
    caller: &Caller,
    zone: &ZoneId,
    id: &DelegationId,
    request_id: &str,
) -> Result<Value, Refusal> {
    let mut tx = coordinator.database.write(ZoneScope::Zone(zone)).await?;
    // Before any row: whoever starts a session or delegates holds this, shared, while it waits for rows.
    revocation_cascade::lock_out(&mut tx, zone).await?;
    let not_found = || Refusal::not_found("delegation_not_found");
    let edge = delegation::lock(&mut tx, zone, id.as_str())
        .await?
        .ok_or_else(not_found)?;
    if !caller.may_end(&edge.issuer_application_id, "coordinator.delegate_from") {
        return Err(Refusal::forbidden("issuer_ownership_required"));
    }
    let ended =
        revocation_cascade::revoke(&mut tx, Producer::Coordinator, zone, Root::Delegation(id), REASON)
            .await?;
    // Ended before, by somebody else or by its own time.
    if !ended.delegations.contains(id) {
        return Err(not_found());
    }
    let change = Change {
        zone,
        request_id,
        method: "PATCH",
        path: format!("/zones/{zone}/delegations/{id}/revoke"),
        entity_type: "delegations",
        entity_id: id.as_str(),
        status: 200,
    };
    record::append(coordinator, &mut tx, caller, &change).await?;
    tx.commit().await?;
    Ok(json!({
        "revoked_edges": ended.delegations.len(),
        "affected_sessions": ended.authority_records.len(),
        "terminated_sessions": ended.sessions.len(),
        "terminated_agents": ended.sessions.len(),
    }))
}
