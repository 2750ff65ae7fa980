//! `/v1/zones/{zone}/approvals`

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use caracal_model::{ApprovalId, ApprovalState, ZoneId};
use caracal_storage::ZoneScope;
use caracal_storage::approval::{self as rows, Filter, Listed, Verdict};
use caracal_wire::approval::HUMAN_APPROVAL;
use serde_json::{Value, json};

use super::answer::{list as list_answer, ok};
use super::extract::{Ids, Query};
use super::view::position;
use crate::approval::{self, Decision};
use crate::body::Body;
use crate::caller::Caller;
use crate::control::Control;
use crate::refusal::{Code, Refusal};
use crate::timestamp::Timestamp;

fn view(listed: &Listed) -> Value {
    let approval = &listed.approval;
    json!({
        "id": approval.id,
        "zone_id": approval.zone_id,
        "session_id": approval.session_id,
        "principal_id": approval.principal_id,
        "application_id": approval.application_id,
        "approval_type": HUMAN_APPROVAL,
        "tier": approval.tier,
        "approver_class": approval.approver_class,
        "privacy_mode": approval.privacy_mode,
        "subject_anchor": approval.subject_anchor,
        "binding": approval.resource_set_hash.as_ref().map(hex::encode),
        "metadata_json": approval.metadata_json,
        "decision_reason": approval.decision_reason,
        "created_at": Timestamp(approval.created_at),
        "expires_at": Timestamp(approval.expires_at),
        "satisfied_at": approval.satisfied_at.map(Timestamp),
        "rejected_at": approval.rejected_at.map(Timestamp),
        "consumed_at": approval.consumed_at.map(Timestamp),
        "approver_subject_id": approval.approver_subject_id,
        "principal_federated": listed.principal_federated,
        "prior_approved": listed.prior_approved,
        "prior_rejected": listed.prior_rejected,
        "state": approval.state(),
    })
}

pub(super) async fn list(
    State(control): State<Arc<Control>>,
    Ids(zone): Ids<ZoneId>,
    query: Query,
) -> Result<Response, Refusal> {
    let states = ApprovalState::ALL.map(ApprovalState::as_str);
    let state = query.word("state", &states)?;
    let (tier, principal) = (query.text("tier", 64)?, query.text("principal", 128)?);
    let filter = Filter {
        state: state.and_then(|word| {
            ApprovalState::ALL
                .into_iter()
                .find(|state| state.as_str() == word)
        }),
        tier: tier.as_deref(),
        principal: principal.as_deref(),
        since: query.time("since")?,
        until: query.time("until")?,
    };
    let page = query.list_page()?;
    let mut tx = control.database.read_in(ZoneScope::Zone(&zone)).await?;
    let listed = rows::list(&mut tx, &zone, &filter, &page).await?;
    Ok(list_answer(
        &listed,
        &page,
        |listed| position(listed.approval.created_at, &listed.approval.id),
        view,
    ))
}

pub(super) async fn counts(
    State(control): State<Arc<Control>>,
    Ids(zone): Ids<ZoneId>,
) -> Result<Response, Refusal> {
    let mut tx = control.database.read_in(ZoneScope::Zone(&zone)).await?;
    let counts = rows::counts(&mut tx, &zone).await?;
    Ok(ok(json!({
        "pending": counts.pending,
        "approved": counts.approved,
        "rejected": counts.rejected,
        "expired": counts.expired,
        "consumed": counts.consumed,
    })))
}

pub(super) async fn find(
    State(control): State<Arc<Control>>,
    Ids((zone, id)): Ids<(ZoneId, ApprovalId)>,
) -> Result<Response, Refusal> {
    Ok(ok(view(&approval::find(&control, &zone, &id).await?)))
}

pub(super) async fn approve(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids((zone, id)): Ids<(ZoneId, ApprovalId)>,
    body: Body,
) -> Result<Response, Refusal> {
    decide(&control, &caller, &zone, &id, body, Verdict::Approved).await
}

pub(super) async fn reject(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids((zone, id)): Ids<(ZoneId, ApprovalId)>,
    body: Body,
) -> Result<Response, Refusal> {
    decide(&control, &caller, &zone, &id, body, Verdict::Rejected).await
}

async fn decide(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    id: &ApprovalId,
    mut body: Body,
    verdict: Verdict,
) -> Result<Response, Refusal> {
    let reason = body.optional_trimmed("reason", 0..=500);
    if reason
        .as_deref()
        .is_some_and(|reason| reason.chars().any(char::is_control))
    {
        body.problem(&["reason"], "Must not contain control characters");
    }
    body.finish_strict(Code::InvalidApprovalDecision)?;
    let decision = Decision {
        verdict,
        reason: reason.as_deref().filter(|reason| !reason.is_empty()),
        members: body.members(),
    };
    let decided = approval::decide(control, caller, zone, id, decision).await?;
    Ok(ok(json!({
        "id": decided.id,
        "state": decided.state(),
        "satisfied_at": decided.satisfied_at.map(Timestamp),
        "rejected_at": decided.rejected_at.map(Timestamp),
        "approver_subject_id": decided.approver_subject_id,
    })))
}
