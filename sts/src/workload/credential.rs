//! May a workload have the credential of one binding, and which is it?

use std::sync::Arc;

use caracal_chassis::Secret;
use caracal_model::ScopeSet;
use caracal_policy::{Action, ActionKind, Decision, Input, Principal, PrincipalType};
use serde_json::{Map, Value, json};

use super::authenticate::{Workload, authenticate};
use super::binding::Binding;
use super::evidence::{self, Facts};
use super::refusal::RunRefusal;
use super::{Claim, approval};
use crate::exchange::authorize;
use crate::exchange::evidence::ApprovalFact;
use crate::state::Sts;
use crate::upstream_credential::Source;
use crate::zone::{Credential, Provider, Resource, ZoneModel};

/// Which credential is asked for.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// The environment variable of the binding.
    pub(crate) env: String,
    pub(crate) approval_id: Option<String>,
}

/// One credential, asked for by a workload that has proved itself.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub(super) workload: &'a Workload,
    pub(super) binding: &'a Binding,
    /// The scopes of the binding.
    pub(super) scopes: &'a ScopeSet,
    pub(super) resource: &'a Resource,
}

/// The credential of a binding; recorded before it is given. A refusal stands on the present configuration only: when memory
/// turns out to be behind the database, it is asked once more.
///
/// # Errors
/// [`RunRefusal`], the first in the order of the contract.
pub(crate) async fn credential(sts: &Sts, claim: &Claim, wanted: &Wanted) -> Result<Secret, RunRefusal> {
    let mut workload = authenticate(sts, claim, "credential").await?;
    let binding = workload
        .bindings()?
        .into_iter()
        .find(|binding| binding.env == wanted.env)
        .ok_or(RunRefusal::NoSuchBinding)?;
    let mut facts = Facts::default();
    let mut outcome = grant(sts, claim, wanted, &workload, &binding, &mut facts).await;
    if let Err(refusal) = &outcome
        && refusal.may_be_outdated()
        && let Some(zone) = newer(sts, &workload.zone).await
    {
        workload.zone = zone;
        facts = Facts::default();
        outcome = grant(sts, claim, wanted, &workload, &binding, &mut facts).await;
    }
    let about = metadata(&binding);
    match outcome {
        Ok(secret) => {
            evidence::injected(sts, claim, &workload.zone, &facts, about).await?;
            Ok(secret)
        }
        Err(refusal) => {
            evidence::not_injected(sts, claim, &workload.zone, &facts, about, &refusal).await;
            Err(refusal)
        }
    }
}

async fn newer(sts: &Sts, zone: &ZoneModel) -> Option<Arc<ZoneModel>> {
    crate::introspection::newer(sts, zone).await
}

async fn grant(
    sts: &Sts,
    claim: &Claim,
    wanted: &Wanted,
    workload: &Workload,
    binding: &Binding,
    facts: &mut Facts,
) -> Result<Secret, RunRefusal> {
    let zone = &workload.zone;
    let resource = zone
        .resource(&binding.resource)
        .ok_or(RunRefusal::ResourceNotFound)?;
    let provider = resource.provider_id.as_ref().ok_or(RunRefusal::NoProvider)?;
    let provider = zone.provider(provider).ok_or(RunRefusal::ProviderUnavailable)?;
    let credential = injectable(provider)?;
    let asked = Asked {
        workload,
        binding,
        scopes: &binding.scopes.iter().collect(),
        resource,
    };
    let presented = match &wanted.approval_id {
        Some(id) => Some(approval::present(sts, &asked, id).await?),
        None => None,
    };
    let decided = decide(sts, claim, &asked, presented.is_some()).await?;
    let decided = facts.decided.insert(decided);
    if !decided.allow() {
        return Err(RunRefusal::PolicyDenied(decided.first_reason()));
    }
    let tiers = decided.step_up_tiers();
    let agreed = match presented {
        Some(agreed) => {
            approval::hold_to(&agreed, tiers)?;
            Some(agreed)
        }
        None => approval::gate(sts, &asked, tiers, &mut facts.approval).await?,
    };
    let secret = match credential {
        Injectable::Stored(secret) => secret.clone(),
        Injectable::Fetched(source) => {
            let held = sts.upstream_credentials.obtain(source, claim.wait).await;
            held.map_err(RunRefusal::Credential)?.token.clone()
        }
    };
    if let Some(agreed) = agreed {
        approval::consume(sts, &asked, &agreed).await?;
        facts.approval = Some(ApprovalFact::used(&agreed));
    }
    Ok(secret)
}

/// A credential that may leave the gateway's custody.
enum Injectable<'z> {
    Stored(&'z Secret),
    Fetched(Source),
}

fn injectable(provider: &Provider) -> Result<Injectable<'_>, RunRefusal> {
    let credential = provider
        .credential
        .as_ref()
        .or(Err(RunRefusal::ProviderUnavailable))?;
    match credential {
        Credential::Secret(secret) if provider.is_injectable => Ok(Injectable::Stored(&secret.value)),
        Credential::Client(oauth) if provider.is_injectable => Ok(Injectable::Fetched(Source::client(oauth))),
        Credential::None
        | Credential::Mandate
        | Credential::Secret(_)
        | Credential::Client(_)
        | Credential::Connection(_)
        | Credential::Aws { .. } => Err(RunRefusal::InjectionDenied),
    }
}

async fn decide(
    sts: &Sts,
    claim: &Claim,
    asked: &Asked<'_>,
    is_agreed: bool,
) -> Result<Decision, RunRefusal> {
    let zone = &asked.workload.zone;
    let input = || Input {
        principal: Principal {
            kind: PrincipalType::Workload,
            id: &asked.workload.id,
            zone_id: zone.id.as_str(),
            registration_method: None,
            lifecycle: None,
            labels: &[],
        },
        resource: caracal_policy::Resource {
            id: asked.resource.id.as_str(),
            identifier: asked.resource.identifier.as_str(),
            scopes: &asked.resource.scopes,
        },
        action: Action {
            kind: ActionKind::CredentialInjection,
            method: None,
            path: None,
        },
        authority_record_id: None,
        agent_session_id: None,
        delegation_edge: None,
        subject_claims: None,
        trace_id: &claim.request_id,
        challenge_resolved: is_agreed,
        requested_scopes: asked.scopes,
    };
    authorize::ask(sts, zone, input).await.map_err(|error| {
        tracing::error!(
            zone.id = %zone.id, error = &error as &dyn std::error::Error, "a policy cannot be evaluated"
        );
        sts.metrics.policy_errors.inc();
        RunRefusal::PolicyEvaluation
    })
}

fn metadata(binding: &Binding) -> Map<String, Value> {
    let members = [
        ("action", json!("credential_injection")),
        ("env", json!(binding.env)),
        ("resource", json!(binding.resource)),
        ("requested_scopes", json!(binding.scopes)),
        ("subject_kind", json!("workload")),
    ];
    members
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}
