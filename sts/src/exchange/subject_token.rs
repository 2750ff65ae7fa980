//! Which mandate is presented as subject token, and does it still hold?

use std::sync::Arc;

use caracal_model::delegation::ReferenceError;
use caracal_model::{Anchors, UnixSeconds};
use caracal_token::{Claims, Possession, Rules, UnverifiedToken, Use, verify};

use super::client::{Caller, Via};
use super::refusal::Refusal;
use super::request::ExchangeRequest;
use crate::state::Sts;

/// How far a clock may be from ours, in seconds, when a token's times are checked.
pub(crate) const LEEWAY_SECONDS: i64 = 60;

/// A verified mandate of the caller that is not revoked.
#[derive(Debug, Clone)]
pub(crate) struct Presented {
    claims: Arc<Claims>,
}

impl Presented {
    pub(crate) fn claims(&self) -> &Claims {
        &self.claims
    }
}

/// Verifies the presented access token. Cost: one SHA-256 for a token this process minted, else one decode and one
/// signature check; at most four map reads for its anchors.
///
/// # Errors
/// [`Refusal::SubjectToken`] for a token that is not a mandate of the class this exchange takes, [`Refusal::SenderKey`] for
/// one that is bound to a key its sender has not shown, and
/// [`Refusal::Reference`] for one that is revoked, is not the caller's or does not fit the form.
pub(crate) fn present(
    sts: &Sts,
    request: &ExchangeRequest,
    caller: &Caller,
    shown: &Possession,
    now: UnixSeconds,
) -> Result<Option<Presented>, Refusal> {
    let Some(subject_token) = &request.subject_token else {
        return Ok(None);
    };
    let rules = Rules {
        issuer: &sts.issuer,
        audience: &sts.issuer,
        leeway_seconds: LEEWAY_SECONDS,
        uses: accepted_uses(sts, caller.via()),
    };
    let claims = prove(sts, subject_token.expose(), caller, &rules, now).ok_or(Refusal::SubjectToken)?;
    if claims.cnf.as_ref().is_some_and(|asked| !asked.is_met_by(shown)) {
        return Err(Refusal::SenderKey);
    }
    check_record(sts, request, caller, &claims)?;
    check_bindings(request, &claims)?;
    Ok(Some(Presented { claims }))
}

/// A gateway presents one-shot mandates, and reusable ones where that is allowed; a client may only present its own
/// reusable one.
fn accepted_uses(sts: &Sts, via: Via) -> &'static [Use] {
    match via {
        Via::Client => &[Use::Session],
        Via::Gateway if sts.settings.ambient_at_gateway => &[Use::Gateway, Use::Session],
        Via::Gateway => &[Use::Gateway],
    }
}

fn prove(
    sts: &Sts,
    token: &str,
    caller: &Caller,
    rules: &Rules<'_>,
    now: UnixSeconds,
) -> Option<Arc<Claims>> {
    let zone = caller.zone();
    let published = zone.keys.published(now).ok()?;
    if let Some(minted) = sts.minted.find(token, &zone.id)
        && published.keys.contains(minted.kid.as_str())
    {
        sts.metrics.subject_token_known.inc();
        return rules
            .check(&minted.claims, now)
            .is_ok()
            .then(|| Arc::clone(&minted.claims));
    }
    sts.metrics.subject_token_verified.inc();
    let unverified = UnverifiedToken::parse(token).ok()?;
    let claims = verify(unverified, &published.keys, rules, now).ok()?;
    (claims.zone_id == zone.id).then(|| Arc::new(claims))
}

fn check_record(
    sts: &Sts,
    request: &ExchangeRequest,
    caller: &Caller,
    claims: &Claims,
) -> Result<(), Refusal> {
    if request
        .session_id
        .as_deref()
        .is_some_and(|record| record != claims.sid.as_str())
    {
        return Err(Refusal::Reference(ReferenceError::RecordMismatch));
    }
    // The session and the delegation of the token are looked at together with what they hang from.
    let records = Anchors {
        session: None,
        delegation: None,
        ..claims.anchors()
    };
    if sts.revocations.is_revoked(&records).is_some() {
        return Err(Refusal::Reference(ReferenceError::RecordInactive));
    }
    if claims.client_id != caller.application().id {
        return Err(Refusal::Reference(ReferenceError::RecordClientMismatch));
    }
    Ok(())
}

/// The form may repeat what the token is bound to, not change it.
fn check_bindings(request: &ExchangeRequest, claims: &Claims) -> Result<(), Refusal> {
    let differs = |form: Option<&str>, bound: Option<&str>| matches!((form, bound), (Some(form), Some(bound)) if form != bound);
    let session = claims.agent_session_id.as_ref().map(AsRef::as_ref);
    if differs(request.agent_session_id.as_deref(), session) {
        return Err(Refusal::Reference(ReferenceError::SessionMismatch));
    }
    let delegation = claims.delegation_edge_id.as_ref().map(AsRef::as_ref);
    if differs(request.delegation_edge_id.as_deref(), delegation) {
        return Err(Refusal::Reference(ReferenceError::DelegationMismatch));
    }
    Ok(())
}
