//! What does the policy say, and what follows from all verdicts together?

use std::sync::Arc;

use caracal_policy::{
    Action, ActionKind, Decision, Edge, Input, PolicyError, Principal, PrincipalType, SubjectClaims,
};

use super::client::Via;
use super::refusal::Refusal;
use super::resources::{Basis, Outcome, Verdict};
use crate::limit::evaluation::NotEvaluated;
use crate::state::Sts;
use crate::zone::{NoUsablePolicy, Resource, ZoneModel};

/// Why the policy gave no decision.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Undecided {
    #[error(transparent)]
    NoPolicy(#[from] NoUsablePolicy),
    #[error("the policy cannot be evaluated")]
    Evaluation(#[from] PolicyError),
    #[error("the policy was not evaluated to the end")]
    NotEvaluated(#[from] NotEvaluated),
}

/// Asks the zone's policy about one resource, as [`ask`].
///
/// # Errors
/// [`Undecided`]: nothing may be granted then.
pub(super) async fn decide(basis: &Basis<'_>, resource: &Resource) -> Result<Decision, Undecided> {
    ask(basis.sts, basis.caller.zone(), || input(basis, resource)).await
}

/// Asks the zone's policy about `input`. Memory only; about a microsecond unless a document or a decision policy reads
/// `input`, which is then interpreted on the pool for that.
///
/// # Errors
/// [`Undecided`]: nothing may be granted then.
pub(crate) async fn ask<'a>(
    sts: &Sts,
    zone: &ZoneModel,
    input: impl Fn() -> Input<'a>,
) -> Result<Decision, Undecided> {
    let bundle = zone.policy.bundle()?;
    let _timer = sts.metrics.policy_seconds.start_timer();
    let Some(question) = caracal_policy::question(bundle, &input())? else {
        return Ok(caracal_policy::decide(bundle, &input(), zone.regime)?);
    };
    let answer = sts.evaluations.run(&zone.id, move || question.answer());
    let answer = Box::pin(answer).await??;
    Ok(caracal_policy::decide_answered(&answer, &input(), zone.regime)?)
}

/// The facts of the request, borrowed.
pub(super) fn input<'a>(basis: &'a Basis<'a>, resource: &'a Resource) -> Input<'a> {
    let (request, application) = (basis.request, basis.caller.application());
    let is_gateway = basis.caller.via() == Via::Gateway;
    let session = basis.references.session();
    let session_id = session.map(|known| known.session.id.as_str());
    let claims = basis.presented.map(super::subject_token::Presented::claims);
    Input {
        principal: Principal {
            kind: PrincipalType::Application,
            id: application.id.as_str(),
            zone_id: basis.caller.zone().id.as_str(),
            registration_method: Some(&application.registration_method),
            lifecycle: session.map(|known| known.session.state.lifecycle),
            labels: session.map(|known| known.labels.as_slice()).unwrap_or_default(),
        },
        resource: caracal_policy::Resource {
            id: resource.id.as_str(),
            identifier: resource.identifier.as_str(),
            scopes: &resource.scopes,
        },
        action: Action {
            kind: ActionKind::TokenExchange,
            method: is_gateway.then_some(request.unverified_method.as_str()),
            path: is_gateway.then_some(request.unverified_path.as_str()),
        },
        authority_record_id: basis.references.record.as_ref().map(AsRef::as_ref),
        agent_session_id: session_id,
        delegation_edge: edge(basis),
        subject_claims: claims.map(|claims| SubjectClaims {
            r#use: Some(claims.r#use.as_str()),
            delegation_edge_id: claims.delegation_edge_id.as_ref().map(AsRef::as_ref),
            scope: claims.scope.as_deref(),
            target: &claims.target,
            complete: claims,
        }),
        trace_id: basis.request_id,
        challenge_resolved: basis.is_agreed,
        requested_scopes: &request.scopes,
    }
}

fn edge<'a>(basis: &Basis<'a>) -> Option<Edge<'a>> {
    let (edge, details) = basis.references.edge()?;
    let chain = basis.references.chain()?;
    Some(Edge {
        id: edge.id.as_str(),
        source_session_id: edge.source_session_id.as_str(),
        target_session_id: edge.target_session_id.as_str(),
        issuer_application_id: edge.issuer_application_id.as_str(),
        receiver_application_id: edge.receiver_application_id.as_str(),
        resource_id: edge.resource_id.as_ref().map(AsRef::as_ref),
        scopes: &edge.scopes,
        version: details.version,
        path: &chain.path,
        graph_epoch: basis.references.epoch,
        constraints: details.constraints.as_deref(),
    })
}

/// What is granted, once every resource has its verdict.
///
/// # Errors
/// [`Refusal::RateLimited`] when nothing is granted and a budget is spent; [`Refusal::PolicyDenied`] when nothing else is
/// granted, with the first reason a policy gave.
pub(crate) fn conclude(verdicts: &[Verdict]) -> Result<Vec<Arc<Resource>>, Refusal> {
    let decisions = || {
        verdicts.iter().filter_map(|verdict| match &verdict.outcome {
            Outcome::Decided(decision) => Some(decision),
            Outcome::ControlKey | Outcome::Refused(_) | Outcome::Spent(_) => None,
        })
    };
    let granted: Vec<Arc<Resource>> = verdicts
        .iter()
        .filter_map(|verdict| verdict.granted().map(Arc::clone))
        .collect();
    if granted.is_empty()
        && let Some(wait) = longest_wait(verdicts)
    {
        return Err(Refusal::RateLimited(wait));
    }
    if granted.is_empty() {
        return Err(Refusal::PolicyDenied(
            decisions().find_map(Decision::first_reason),
        ));
    }
    Ok(granted)
}

/// When all spent budgets have earned a mint again, in seconds.
fn longest_wait(verdicts: &[Verdict]) -> Option<u32> {
    let waits = verdicts.iter().filter_map(|verdict| match &verdict.outcome {
        Outcome::Spent(spent) => Some(spent.retry_after_s),
        Outcome::Decided(_) | Outcome::ControlKey | Outcome::Refused(_) => None,
    });
    waits.max()
}
