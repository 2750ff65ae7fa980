//! Must an operator agree first, and has one agreed to exactly this?
//!
//! The approvals of applications (`docs/contract/approvals.md`), bound to a workload instead: no application, no session and no
//! record stands in the binding, so only operators can decide, and a lost answer is lost.

use std::sync::Arc;

use caracal_policy::{ApprovalTier, Approver, CONTRACT_VERSION, contract_sha256};
use caracal_storage::approval::{self, Approval, NewApproval};
use caracal_wire::approval::{Binding, binding_hash};
use serde_json::json;

use super::credential::Asked;
use super::refusal::RunRefusal;
use crate::exchange::approval::hold::{self, Fresh};
use crate::exchange::approval::hold_to_terms;
use crate::exchange::approval::terms::{ClassConflict, Terms};
use crate::exchange::evidence::ApprovalFact;
use crate::exchange::refusal::Refusal;
use crate::state::Sts;

/// Looks at the approval the workload presents. One statement.
///
/// # Errors
/// [`Refusal::ApprovalUnknown`] when it is not of this request; then by its state.
pub(super) async fn present(sts: &Sts, asked: &Asked<'_>, id: &str) -> Result<Approval, RunRefusal> {
    let binding = binding_of(asked);
    let found = hold::find(sts, &asked.workload.zone.id, id).await?;
    let found = found.filter(|found| is_of(found, asked, &binding));
    Ok(hold::usable(found.ok_or(Refusal::ApprovalUnknown)?, &binding)?)
}

/// What the policy asks for when nothing was presented: `None` when it asks for nothing, else the approval when it was given
/// meanwhile. Four statements when it asks.
///
/// # Errors
/// [`Refusal::Hold`] while nobody has decided, [`Refusal::ApprovalRejected`], and [`Refusal::ApprovalClass`] when a user would
/// have to decide.
pub(super) async fn gate(
    sts: &Sts,
    asked: &Asked<'_>,
    tiers: &[Arc<ApprovalTier>],
    fact: &mut Option<ApprovalFact>,
) -> Result<Option<Approval>, RunRefusal> {
    if tiers.is_empty() {
        return Ok(None);
    }
    let tiers: Vec<&Arc<ApprovalTier>> = tiers.iter().collect();
    let terms = Terms::merge(&tiers).map_err(|ClassConflict| Refusal::ApprovalClass)?;
    if terms.approver == Approver::Subject {
        return Err(Refusal::ApprovalClass.into());
    }
    let binding = binding_of(asked);
    let fresh = Fresh::new()?;
    let new = NewApproval {
        id: &fresh.id,
        zone_id: &asked.workload.zone.id,
        session_id: None,
        principal_id: &asked.workload.id,
        application_id: None,
        agent_session_id: None,
        binding: &hex::decode(&binding).unwrap_or_default(),
        secret_hash: &fresh.secret_hash(),
        tier: &terms.tier,
        approver_class: terms.approver.as_str(),
        privacy_mode: terms.privacy.as_str(),
        window_seconds: terms.window_seconds,
        metadata: &metadata(asked),
    };
    let raised = approval::raise(&sts.database, &new).await;
    let raised = raised.map_err(hold::unavailable)?;
    if !is_of(&raised.approval, asked, &binding) {
        return Err(Refusal::ApprovalUnknown.into());
    }
    *fact = raised.is_new.then(|| ApprovalFact::raised(&raised.approval));
    Ok(Some(hold::raised(raised, &binding, None)?))
}

/// Holds what the policy says now to what was agreed to.
///
/// # Errors
/// As [`hold_to_terms`].
pub(super) fn hold_to(agreed: &Approval, tiers: &[Arc<ApprovalTier>]) -> Result<(), RunRefusal> {
    let tiers: Vec<&Arc<ApprovalTier>> = tiers.iter().collect();
    Ok(hold_to_terms(agreed, &tiers)?)
}

/// Uses the approval. One statement, of which one of any number of callers gets the yes.
///
/// # Errors
/// [`Refusal::ApprovalConsumed`].
pub(super) async fn consume(sts: &Sts, asked: &Asked<'_>, agreed: &Approval) -> Result<(), RunRefusal> {
    let zone = &asked.workload.zone.id;
    let consumed = approval::consume_without_record(&sts.database, zone, &agreed.id).await;
    if consumed.map_err(hold::unavailable)? {
        Ok(())
    } else {
        Err(Refusal::ApprovalConsumed.into())
    }
}

fn is_of(found: &Approval, asked: &Asked<'_>, binding: &str) -> bool {
    found.zone_id == asked.workload.zone.id
        && found.principal_id.as_deref() == Some(&asked.workload.id)
        && found.application_id.is_none()
        && found.session_id.is_none()
        && found.resource_set_hash.as_deref().map(hex::encode).as_deref() == Some(binding)
        && hold::names_the_same(found, &[asked.resource.identifier.as_str()])
}

fn metadata(asked: &Asked<'_>) -> serde_json::Value {
    let policy = asked.workload.zone.policy.identity();
    json!({
        "workload_id": asked.workload.id,
        "env": asked.binding.env,
        "requested_scopes": asked.scopes.iter().collect::<Vec<_>>(),
        "resources": [asked.resource.identifier],
        "granted": [asked.resource.id],
        "policy_set_version_id": policy.version_id,
        "policy_manifest_sha": policy.manifest_sha256,
        "decision_contract_version": CONTRACT_VERSION,
        "decision_contract_sha": contract_sha256(),
    })
}

/// The policy is the one that decides on this very request, so another one voids the approval.
fn binding_of(asked: &Asked<'_>) -> String {
    let policy = asked.workload.zone.policy.identity();
    let scopes: Vec<&str> = asked.scopes.iter().collect();
    binding_hash(&Binding {
        resources: &[asked.resource.identifier.as_str()],
        scopes: &scopes,
        principal: &asked.workload.id,
        policy_set_version: policy.version_id.as_ref().map_or("", |id| id.as_str()),
        policy_manifest: &policy.manifest_sha256,
        decision_contract_version: CONTRACT_VERSION,
        decision_contract_sha: &contract_sha256(),
        ..Binding::default()
    })
}
