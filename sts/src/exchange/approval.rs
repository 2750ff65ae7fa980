//! Must a human agree first, and has one agreed to exactly this?
//!
//! Only a direct mint can wait: the policy names tiers of approval on its grants, everything they say is merged into one
//! approval, and that approval is bound to the request by a hash. What was agreed to is used once
//! (`docs/contract/approvals.md`).

pub(crate) mod hold;
pub(crate) mod terms;

use std::sync::Arc;

use caracal_model::{ApprovalState, AuthorityRecordId, SessionId, TokenId};
use caracal_policy::{ApprovalTier, CONTRACT_VERSION, contract_sha256};
use caracal_storage::approval::{self, Approval, Consumption, NewApproval};
use caracal_storage::{StorageError, ZoneScope};
use caracal_wire::approval::{Binding, binding_hash};
use caracal_wire::audit::status;
use serde_json::{Value, json};
use time::Duration;

use self::hold::{Fresh, find, names_the_same, unavailable, usable};
use self::terms::{ClassConflict, Terms};
use super::client::Caller;
use super::evidence::{ApprovalFact, Origin};
use super::refusal::Refusal;
use super::request::{Challenge, ExchangeRequest};
use super::resources::{Basis, Outcome, Verdict};
use super::subject_token::Presented;
use crate::limit::lockout::Suspect;
use crate::state::Sts;

/// Who comes sooner after the use of an approval is a rival: a client whose answer was lost finds out by a timeout.
const REISSUE_AFTER: Duration = Duration::seconds(2);
/// How long after its use the same token is given again.
const REISSUE_WITHIN: Duration = Duration::seconds(120);

/// A human has agreed to exactly this request.
#[derive(Debug)]
pub(crate) enum Agreed {
    /// The approval is there to be used.
    Usable(Box<Approval>),
    /// It was used a moment ago, by this same request whose answer was lost: the same token is given again.
    Used(Box<Approval>, Reissue),
}

impl Agreed {
    fn usable(approval: Approval) -> Self {
        Self::Usable(Box::new(approval))
    }
}

/// The token an approval was used for.
#[derive(Debug)]
pub(crate) struct Reissue {
    pub(crate) sid: AuthorityRecordId,
    pub(crate) jti: TokenId,
    /// The keys it is bound to, as JSON; `null` when there are none.
    pub(crate) cnf: Value,
    /// Unix seconds.
    pub(crate) issued_at: i64,
    /// Unix seconds.
    pub(crate) expires_at: i64,
    /// The ids of the resources the approval was for.
    granted: Vec<String>,
}

/// Looks at the approval a request presents, before anything else is decided; `None` when it presents none. One or two
/// SQL statements.
///
/// # Errors
/// [`Refusal::ApprovalUnknown`] when it is not of this request; then by its state: [`Refusal::ApprovalConsumed`],
/// [`Refusal::ApprovalRejected`], [`Refusal::ApprovalExpired`], [`Refusal::Hold`]. [`Refusal::ChallengeInvalid`] and
/// [`Refusal::ChallengeCooldown`] for a challenge.
pub(crate) async fn present(
    sts: &Sts,
    origin: &Origin,
    request: &ExchangeRequest,
    caller: &Caller,
    presented: Option<&Presented>,
) -> Result<Option<Agreed>, Refusal> {
    if let Some(challenge) = &request.challenge {
        let answering = answer_challenge(sts, request, caller, presented, challenge);
        return Box::pin(answering).await.map(Some);
    }
    let Some(id) = &request.approval_id else {
        return Ok(None);
    };
    let looking = look_at(sts, origin, request, caller, presented, id);
    Box::pin(looking).await.map(Some)
}

async fn look_at(
    sts: &Sts,
    origin: &Origin,
    request: &ExchangeRequest,
    caller: &Caller,
    presented: Option<&Presented>,
    id: &str,
) -> Result<Agreed, Refusal> {
    let binding = binding_of(request, caller, presented);
    let found = find(sts, &caller.zone().id, id).await?;
    let found = found.filter(|found| is_of(found, request, caller, presented, &binding));
    let found = found.ok_or(Refusal::ApprovalUnknown)?;
    match found.state() {
        ApprovalState::Consumed => reissue(sts, origin, caller, &found).await,
        _ => usable(found, &binding).map(Agreed::usable),
    }
}

/// The step-up routes: whoever holds the secret may use the approval, once and without a second chance.
async fn answer_challenge(
    sts: &Sts,
    request: &ExchangeRequest,
    caller: &Caller,
    presented: Option<&Presented>,
    challenge: &Challenge,
) -> Result<Agreed, Refusal> {
    let suspect = Suspect::principal(&caller.zone().id, principal(caller, presented));
    if sts.challenges.is_blocked(suspect, sts.clock.unix_micros()) {
        return Err(Refusal::ChallengeCooldown);
    }
    let binding = binding_of(request, caller, presented);
    let found = find(sts, &caller.zone().id, &challenge.id).await?;
    let found = found.filter(|found| is_of(found, request, caller, presented, &binding));
    let found = found.filter(|found| {
        let expected = found.challenge_secret_hash.as_deref().unwrap_or_default();
        aws_lc_rs::constant_time::verify_slices_are_equal(
            expected,
            &caracal_token::digest(challenge.response.expose().as_bytes()),
        )
        .is_ok()
    });
    match found {
        Some(found) if found.state() != ApprovalState::Consumed => {
            usable(found, &binding).map(Agreed::usable)
        }
        Some(_) | None if sts.challenges.count_failure(suspect, sts.clock.unix_micros()) => {
            Err(Refusal::ChallengeCooldown)
        }
        Some(_) | None => Err(Refusal::ChallengeInvalid),
    }
}

/// Whether the approval was raised by a request for the same thing.
fn is_of(
    found: &Approval,
    request: &ExchangeRequest,
    caller: &Caller,
    presented: Option<&Presented>,
    binding: &str,
) -> bool {
    found.zone_id == caller.zone().id
        && found.principal_id.as_deref() == Some(principal(caller, presented))
        && found.session_id.as_deref() == record(request, presented)
        && found.resource_set_hash.as_deref().map(hex::encode).as_deref() == Some(binding)
        && names_the_same(found, &names(request))
}

/// The same token again, for a client whose answer was lost: within two minutes, while its record is active, and not to
/// a rival, who came before or together with the request that used it, however long he was kept waiting.
async fn reissue(sts: &Sts, origin: &Origin, caller: &Caller, found: &Approval) -> Result<Agreed, Refusal> {
    let (Some(consumed_at), Some(record)) = (found.consumed_at, &found.consumed_authority_record_id) else {
        return Err(Refusal::ApprovalConsumed);
    };
    // The database's clock gives the age; ours only measures how long this request has been here.
    let age = found.read_at - consumed_at;
    let age_at_arrival = age.saturating_sub(origin.arrived_at.elapsed().try_into().unwrap_or(Duration::MAX));
    if age_at_arrival < REISSUE_AFTER || age > REISSUE_WITHIN {
        return Err(Refusal::ApprovalConsumed);
    }
    let zone = &caller.zone().id;
    let mut tx = sts
        .database
        .read_in(ZoneScope::Zone(zone))
        .await
        .map_err(unavailable)?;
    let used = Consumption::find(&mut tx, zone, record)
        .await
        .map_err(unavailable)?
        .ok_or(Refusal::ApprovalConsumed)?;
    let jti = used
        .claims_json
        .as_ref()
        .and_then(|claims| claims.get("jti")?.as_str());
    let reissue = Reissue {
        sid: used
            .id
            .as_str()
            .try_into()
            .map_err(|_malformed| Refusal::ApprovalConsumed)?,
        jti: jti
            .and_then(|jti| jti.try_into().ok())
            .ok_or(Refusal::ApprovalConsumed)?,
        cnf: used
            .claims_json
            .as_ref()
            .and_then(|claims| claims.get("cnf").cloned())
            .unwrap_or_default(),
        issued_at: used.issued_at,
        expires_at: used.expires_at,
        granted: granted_then(found),
    };
    Ok(Agreed::Used(Box::new(found.clone()), reissue))
}

/// What the policy asks for, when nothing was presented: `None` when it asks for nothing, else the approval when it was
/// given meanwhile. Four SQL statements when it asks.
///
/// # Errors
/// [`Refusal::Hold`] while nobody has decided, [`Refusal::ApprovalRejected`], and [`Refusal::ApprovalClass`] when the tiers
/// exclude each other.
pub(crate) async fn gate(
    basis: &Basis<'_>,
    verdicts: &[Verdict],
    fact: &mut Option<ApprovalFact>,
) -> Result<Option<Agreed>, Refusal> {
    let tiers = tiers(verdicts);
    if tiers.is_empty() {
        return Ok(None);
    }
    Box::pin(ask(basis, verdicts, &tiers, fact)).await.map(Some)
}

async fn ask(
    basis: &Basis<'_>,
    verdicts: &[Verdict],
    tiers: &[&Arc<ApprovalTier>],
    fact: &mut Option<ApprovalFact>,
) -> Result<Agreed, Refusal> {
    let terms = Terms::merge(tiers).map_err(|ClassConflict| Refusal::ApprovalClass)?;
    let binding = binding_of(basis.request, basis.caller, basis.presented);
    let fresh = Fresh::new()?;
    let raised = raise(basis, verdicts, &terms, &binding, &fresh)
        .await
        .map_err(unavailable)?;
    if !names_the_same(&raised.approval, &names(basis.request)) {
        return Err(Refusal::ApprovalUnknown);
    }
    *fact = raised.is_new.then(|| ApprovalFact::raised(&raised.approval));
    hold::raised(raised, &binding, Some(fresh.secret)).map(Agreed::usable)
}

/// The tiers of everything the policy grants.
fn tiers(verdicts: &[Verdict]) -> Vec<&Arc<ApprovalTier>> {
    let allowed = verdicts.iter().filter_map(|verdict| match &verdict.outcome {
        Outcome::Decided(decision) if decision.allow() => Some(decision.step_up_tiers()),
        Outcome::Decided(_) | Outcome::Refused(_) | Outcome::Spent(_) | Outcome::ControlKey => None,
    });
    allowed.flatten().collect()
}

/// Holds what the policy says now to what was agreed to: a resource that was not granted when the approval was raised is
/// not granted by it, whatever became of it since.
///
/// # Errors
/// [`Refusal::ApprovalUnknown`] when the policy asks for other tiers, or for somebody else to decide, than it did then.
pub(crate) fn hold_to(verdicts: &mut [Verdict], agreed: &Agreed) -> Result<(), Refusal> {
    let granted = match agreed {
        Agreed::Usable(found) => granted_then(found),
        Agreed::Used(_, reissue) => reissue.granted.clone(),
    };
    for verdict in verdicts.iter_mut() {
        let is_new = verdict
            .granted()
            .is_some_and(|resource| !granted.iter().any(|id| id == resource.id.as_str()));
        if is_new {
            verdict.outcome = Outcome::Refused(status::APPROVAL_INVALID);
        }
    }
    let (Agreed::Usable(found), tiers) = (agreed, tiers(verdicts)) else {
        return Ok(());
    };
    hold_to_terms(found, &tiers)
}

/// Whether the approval is one that satisfies `tiers`, which is what the policy asks for now.
///
/// # Errors
/// [`Refusal::ApprovalUnknown`] when the policy asks for other tiers, or for somebody else to decide, than it did when the
/// approval was raised; [`Refusal::ApprovalClass`] when the tiers exclude each other.
pub(crate) fn hold_to_terms(found: &Approval, tiers: &[&Arc<ApprovalTier>]) -> Result<(), Refusal> {
    if tiers.is_empty() {
        return Ok(());
    }
    let terms = Terms::merge(tiers).map_err(|ClassConflict| Refusal::ApprovalClass)?;
    let is_the_same =
        found.tier.as_deref() == Some(terms.tier.as_str()) && found.approver_class == terms.approver.as_str();
    if is_the_same {
        Ok(())
    } else {
        Err(Refusal::ApprovalUnknown)
    }
}

/// The ids of the resources that were granted when the approval was raised.
fn granted_then(found: &Approval) -> Vec<String> {
    let ids = found.metadata_json.get("granted").and_then(Value::as_array);
    ids.into_iter()
        .flatten()
        .filter_map(|id| id.as_str().map(str::to_owned))
        .collect()
}

async fn raise(
    basis: &Basis<'_>,
    verdicts: &[Verdict],
    terms: &Terms,
    binding: &str,
    fresh: &Fresh,
) -> Result<approval::Raised, StorageError> {
    let record = record(basis.request, basis.presented).and_then(|record| record.try_into().ok());
    let metadata = metadata(basis, verdicts);
    let new = NewApproval {
        id: &fresh.id,
        zone_id: &basis.caller.zone().id,
        session_id: record.as_ref(),
        principal_id: principal(basis.caller, basis.presented),
        application_id: Some(&basis.caller.application().id),
        agent_session_id: basis.references.session().map(|known| &known.session.id),
        binding: &hex::decode(binding).unwrap_or_default(),
        secret_hash: &fresh.secret_hash(),
        tier: &terms.tier,
        approver_class: terms.approver.as_str(),
        privacy_mode: terms.privacy.as_str(),
        window_seconds: terms.window_seconds,
        metadata: &metadata,
    };
    approval::raise(&basis.sts.database, &new).await
}

/// What was asked for, for whoever decides.
fn metadata(basis: &Basis<'_>, verdicts: &[Verdict]) -> Value {
    let granted = verdicts.iter().filter_map(|verdict| Some(&verdict.granted()?.id));
    let policy = basis.caller.zone().policy.identity();
    let known = basis.references.session();
    let session: Option<&SessionId> = known.map(|known| &known.session.id);
    json!({
        "requested_scopes": basis.request.scopes.iter().collect::<Vec<_>>(),
        "resources": basis.request.resources,
        "granted": granted.collect::<Vec<_>>(),
        "agent_session_id": session,
        "agent_labels": known.map(|known| known.labels.as_slice()).unwrap_or_default(),
        "delegation_edge_id": basis.references.edge().map(|(edge, _)| &edge.id),
        "policy_set_version_id": policy.version_id,
        "policy_manifest_sha": policy.manifest_sha256,
        "decision_contract_version": CONTRACT_VERSION,
        "decision_contract_sha": contract_sha256(),
    })
}

/// The hash of everything the approval is for. The policy is the one that decides on this very request.
fn binding_of(request: &ExchangeRequest, caller: &Caller, presented: Option<&Presented>) -> String {
    let resources = names(request);
    let scopes: Vec<&str> = request.scopes.iter().collect();
    let policy = caller.zone().policy.identity();
    let contract = contract_sha256();
    binding_hash(&Binding {
        resources: &resources,
        scopes: &scopes,
        principal: principal(caller, presented),
        authority_record: record(request, presented).unwrap_or_default(),
        session: request.agent_session_id.as_deref().unwrap_or_default(),
        delegation: request.delegation_edge_id.as_deref().unwrap_or_default(),
        application: caller.application().id.as_str(),
        policy_set_version: policy.version_id.as_ref().map_or("", |id| id.as_str()),
        policy_manifest: &policy.manifest_sha256,
        decision_contract_version: CONTRACT_VERSION,
        decision_contract_sha: &contract,
    })
}

/// The resources as they were asked for.
fn names(request: &ExchangeRequest) -> Vec<&str> {
    request.resources.iter().map(String::as_str).collect()
}

fn principal<'a>(caller: &'a Caller, presented: Option<&'a Presented>) -> &'a str {
    presented.map_or_else(
        || caller.application().id.as_str(),
        |presented| presented.claims().sub.as_str(),
    )
}

fn record<'a>(request: &'a ExchangeRequest, presented: Option<&'a Presented>) -> Option<&'a str> {
    match presented {
        Some(presented) => Some(presented.claims().sid.as_str()),
        None => request.session_id.as_deref(),
    }
}
