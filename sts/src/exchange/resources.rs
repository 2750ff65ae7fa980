//! For which of the requested resources may authority be granted?
//!
//! Every resource is decided on its own, in sorted order; one that is refused is dropped, and the token covers the rest.
//! A few refusals end the whole exchange.

use std::sync::Arc;

use caracal_model::UnixSeconds;
use caracal_policy::Decision;
use caracal_token::{Possession, Use};
use caracal_wire::audit::status;

use super::authorize;
use super::client::{Caller, Via};
use super::control_key::ControlKey;
use super::references::References;
use super::refusal::Refusal;
use super::request::ExchangeRequest;
use super::shadow::{self, Difference};
use super::subject_token::Presented;
use crate::limit::mint_rate::Spent;
use crate::state::Sts;
use crate::zone::Resource;

/// What was decided about one requested resource.
#[derive(Debug, Clone)]
pub(crate) struct Verdict {
    /// The resource as it was asked for.
    pub(crate) asked: String,
    pub(crate) resource: Option<Arc<Resource>>,
    pub(crate) outcome: Outcome,
    /// What a policy on trial decided differently.
    pub(crate) shadow: Option<Difference>,
}

/// How a resource came out.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// The policy decided, one way or the other.
    Decided(Decision),
    /// The application's traits grant it; no policy was asked.
    ControlKey,
    /// It was refused before the policy was asked; the word is the evidence's status.
    Refused(&'static str),
    /// Its budget of mints is spent.
    Spent(Spent),
}

impl Verdict {
    /// The resource, if authority for it was granted.
    pub(crate) fn granted(&self) -> Option<&Arc<Resource>> {
        match &self.outcome {
            Outcome::Decided(decision) if decision.allow() => self.resource.as_ref(),
            Outcome::ControlKey => self.resource.as_ref(),
            Outcome::Decided(_) | Outcome::Refused(_) | Outcome::Spent(_) => None,
        }
    }
}

/// Everything a decision about a resource depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Basis<'a> {
    pub(crate) sts: &'a Sts,
    pub(crate) request: &'a ExchangeRequest,
    pub(crate) request_id: &'a str,
    pub(crate) caller: &'a Caller,
    pub(crate) presented: Option<&'a Presented>,
    pub(crate) references: &'a References,
    /// The caller, when it asks with a control key for nothing but the control endpoint.
    pub(crate) control_key: Option<&'a ControlKey>,
    /// The keys the sender has shown.
    pub(crate) shown: Possession,
    /// Whether a human has agreed to exactly this.
    pub(crate) is_agreed: bool,
    pub(crate) now: UnixSeconds,
}

/// Decides on every requested resource, into `verdicts`, so that what was decided before a refusal that ends the exchange
/// is known as evidence. Memory only: a few map reads and one policy decision each.
///
/// # Errors
/// [`Refusal::OperationNotPermitted`], [`Refusal::ControlResource`], [`Refusal::SubjectToken`] for a reusable mandate that
/// is not bound to the resource, and [`Refusal::PolicyEvaluation`].
pub(crate) async fn decide_all(basis: &Basis<'_>, verdicts: &mut Vec<Verdict>) -> Result<(), Refusal> {
    for asked in &basis.request.resources {
        let resource = basis.caller.zone().resource(asked).map(Arc::clone);
        let mut verdict = Verdict {
            asked: asked.clone(),
            resource: resource.clone(),
            outcome: Outcome::Refused(status::RESOURCE_NOT_FOUND),
            shadow: None,
        };
        let decided = match &resource {
            None => Ok(Outcome::Refused(status::RESOURCE_NOT_FOUND)),
            Some(resource) => decide(basis, resource).await,
        };
        match decided {
            Ok(outcome) => {
                if let (Outcome::Decided(decision), Some(resource)) = (&outcome, &resource) {
                    verdict.shadow = shadow::compare(basis, resource, decision);
                }
                verdict.outcome = outcome;
            }
            Err(refusal) => {
                verdict.outcome =
                    Outcome::Refused(refusal.evaluation_status().unwrap_or(status::EXCHANGE_DENIED));
                verdicts.push(verdict);
                return Err(refusal);
            }
        }
        verdicts.push(verdict);
    }
    Ok(())
}

async fn decide(basis: &Basis<'_>, resource: &Arc<Resource>) -> Result<Outcome, Refusal> {
    if !resource.declares(&basis.request.scopes) {
        return Ok(Outcome::Refused(status::SCOPE_MISMATCH));
    }
    if basis
        .references
        .chain()
        .is_some_and(|chain| !chain.reaches(&resource.id, &resource.identifier))
    {
        return Ok(Outcome::Refused(status::RESOURCE_OUTSIDE_DELEGATION));
    }
    check_binding(basis, resource)?;
    check_operation(basis, resource)?;
    if let Err(spent) = count_mint(basis, resource) {
        return Ok(Outcome::Spent(spent));
    }
    if resource.identifier.as_str() == basis.sts.settings.control_audience {
        return match basis.control_key {
            Some(_) => Ok(Outcome::ControlKey),
            None => Err(Refusal::ControlResource),
        };
    }
    if basis.caller.via() == Via::Gateway && !has_provider(basis, resource) {
        return Ok(Outcome::Refused(status::PROVIDER_UNAVAILABLE));
    }
    let decision = authorize::decide(basis, resource).await.map_err(|error| {
        tracing::error!(
            zone.id = %basis.caller.zone().id, error = &error as &dyn std::error::Error, "a policy cannot be evaluated"
        );
        basis.sts.metrics.policy_errors.inc();
        Refusal::PolicyEvaluation
    })?;
    Ok(Outcome::Decided(decision))
}

/// A reusable mandate passes the gateway only where its client is bound to the resource.
fn check_binding(basis: &Basis<'_>, resource: &Resource) -> Result<(), Refusal> {
    let Some(claims) = basis.presented.map(Presented::claims) else {
        return Ok(());
    };
    let is_reusable = basis.caller.via() == Via::Gateway && claims.r#use == Use::Session;
    if is_reusable && !basis.caller.zone().binds(&resource.identifier, &claims.client_id) {
        return Err(Refusal::SubjectToken);
    }
    Ok(())
}

/// Where operations are enforced, the one the gateway reports must be declared for a scope the mandate carries.
fn check_operation(basis: &Basis<'_>, resource: &Resource) -> Result<(), Refusal> {
    if basis.caller.via() != Via::Gateway {
        return Ok(());
    }
    let presented = basis.presented.map(Presented::claims);
    let carries = |scope: &str| presented.is_some_and(|claims| claims.carries_scope(scope));
    let request = basis.request;
    if resource.permits_operation(&request.unverified_method, &request.unverified_path, carries) {
        Ok(())
    } else {
        Err(Refusal::OperationNotPermitted)
    }
}

/// A governed request counts once: at its direct mint, or, under a reusable mandate, each time the gateway presents it.
fn count_mint(basis: &Basis<'_>, resource: &Resource) -> Result<(), Spent> {
    let is_one_shot = basis
        .presented
        .is_some_and(|presented| presented.claims().r#use == Use::Gateway);
    if is_one_shot {
        return Ok(());
    }
    let zone = basis.caller.zone();
    let key = (
        zone.id.clone(),
        resource.id.clone(),
        basis.caller.application().id.clone(),
    );
    let rate = zone.mint_rate(resource, basis.sts.settings.mints_per_minute);
    basis
        .sts
        .mint_rate
        .admit(key, rate, basis.sts.clock.unix_micros())
}

fn has_provider(basis: &Basis<'_>, resource: &Resource) -> bool {
    resource
        .provider_id
        .as_ref()
        .is_none_or(|provider| basis.caller.zone().provider(provider).is_some())
}
