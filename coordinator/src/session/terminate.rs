//! How does a session end? With everything below it. docs/contract/sessions-and-delegations.md, "End a session".

use caracal_model::{SessionId, ZoneId};
use caracal_storage::outbox::Producer;
use caracal_storage::revocation_cascade::{self, Root};
use caracal_storage::{ZoneScope, session};

use crate::auth::Caller;
use crate::record::{self, Change};
use crate::refusal::Refusal;
use crate::state::Coordinator;

/// Longest reason, in characters.
const REASON_CHARS_MAX: usize = 256;

/// Ends a session and its descendants, and the delegations that touch them.
///
/// # Errors
/// 400 `invalid_query`, `lease_generation_required`; 403 `application_ownership_required`; 404 `session_not_found`; 409 `session_lease_fenced`.
pub(crate) async fn terminate(
    coordinator: &Coordinator,
    caller: &Caller,
    zone: &ZoneId,
    id: &SessionId,
    reason: &str,
    lease_generation: Option<i64>,
    request_id: &str,
) -> Result<(), Refusal> {
    if reason.is_empty() || reason.chars().count() > REASON_CHARS_MAX || reason.chars().any(char::is_control)
    {
        return Err(Refusal::bad_request("invalid_query"));
    }
    let mut tx = coordinator.database.write(ZoneScope::Zone(zone)).await?;
    // Before any row: whoever starts a session or delegates holds this, shared, while it waits for rows.
    revocation_cascade::lock_out(&mut tx, zone).await?;
    let not_found = || Refusal::not_found("session_not_found");
    let ending = session::lock(&mut tx, zone, id.as_str())
        .await?
        .ok_or_else(not_found)?;
    if !caller.may_end(&ending.application_id, "coordinator.spawn_for") {
        return Err(Refusal::forbidden("application_ownership_required"));
    }
    if matches!(ending.status.as_str(), "terminated" | "expired") {
        return Err(not_found());
    }
    if ending.lifecycle == "service" && !caller.is_admin() {
        let generation = lease_generation.ok_or_else(|| Refusal::bad_request("lease_generation_required"))?;
        if generation != ending.lease_generation {
            return Err(Refusal::conflict("session_lease_fenced"));
        }
    }
    let ended =
        revocation_cascade::revoke(&mut tx, Producer::Coordinator, zone, Root::Session(id), reason).await?;
    if !ended.sessions.contains(id) {
        return Err(not_found());
    }
    let change = Change {
        zone,
        request_id,
        method: "DELETE",
        path: format!("/zones/{zone}/agents/{id}"),
        entity_type: "sessions",
        entity_id: id.as_str(),
        status: 204,
    };
    record::append(coordinator, &mut tx, caller, &change).await?;
    Ok(tx.commit().await?)
}
