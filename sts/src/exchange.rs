//! One token exchange (RFC 8693), from the parsed request to the answer.
//!
//! [`exchange`] is the order; each file is one step. Every step takes what the steps before it have proved.

pub(crate) mod approval;
pub(crate) mod authorize;
pub(crate) mod client;
pub(crate) mod control_key;
mod credential;
mod directive;
pub(crate) mod evidence;
pub(crate) mod federation;
mod mint;
pub(crate) mod possession;
mod references;
pub(crate) mod refusal;
pub(crate) mod request;
mod resources;
pub(crate) mod shadow;
pub(crate) mod subject_token;

use std::collections::BTreeMap;
use std::sync::Arc;

use caracal_model::UnixSeconds;
use caracal_token::{Possession, Use};
use caracal_wire::sts::{NO_TOKEN, TokenResponse, Upstream};

use self::client::Via;
use self::evidence::{ApprovalFact, Known, Origin};
use self::mint::Minted;
use self::refusal::Refusal;
use self::request::ExchangeRequest;
use self::resources::Basis;
use crate::metrics::Stage;
use crate::state::Sts;
use crate::zone::Resource;

/// Exchanges what the caller has proved for a mandate. `known` collects what became known, for the evidence of a refusal.
///
/// Steady state: no SQL, no round trip; one signature, one policy decision for each resource, one append. A reusable mandate
/// also costs one INSERT; what the sign-in of a user costs is said there. A request that needs a human's yes costs a few SQL
/// statements more.
///
/// # Errors
/// [`Refusal`], the first in the order of the contract.
pub(crate) async fn exchange(
    sts: &Sts,
    origin: &Origin,
    request: &ExchangeRequest,
    via: Via,
    known: &mut Known,
) -> Result<TokenResponse, Refusal> {
    if !sts.is_fresh() {
        return Err(Refusal::RevocationStale);
    }
    let now = UnixSeconds(sts.clock.unix_seconds());
    let stages = &sts.metrics.stages;
    let timer = stages.timer(Stage::Client);
    let caller = client::authenticate(sts, origin.source, request, via, now).await?;
    timer.observe_duration();
    known.caller = Some(caller.clone());
    if let Some(token) = federation::id_token(request) {
        let signing_in = federation::sign_in(sts, origin, request, &caller, known, token, now);
        return Box::pin(signing_in).await;
    }
    if request.resources.is_empty() {
        return Err(Refusal::NoResource);
    }
    let control_key = caller
        .application()
        .control_key
        .as_ref()
        .filter(|key| key.allows(request, &sts.settings.control_audience, now));
    let shown = match control_key {
        // What it gets is bound to nobody, whatever its application is set to.
        Some(_key) if request.sender.proof.is_some() => return Err(Refusal::ControlKeyBound),
        Some(_key) => Possession::default(),
        None => possession::prove(sts, request, &caller, now).await?,
    };
    let presented = subject_token::present(sts, request, &caller, &shown, now)?;
    known.presented.clone_from(&presented);
    let agreed = approval::present(sts, origin, request, &caller, presented.as_ref()).await?;
    let references = Arc::new(references::resolve(sts, request, &caller, presented.as_ref(), now).await?);
    known.references = Arc::clone(&references);
    let basis = Basis {
        sts,
        request,
        request_id: &origin.request_id,
        caller: &caller,
        presented: presented.as_ref(),
        references: &references,
        shown,
        is_agreed: agreed.is_some(),
        control_key,
        now,
    };
    let timer = stages.timer(Stage::Policy);
    resources::decide_all(&basis, &mut known.verdicts).await?;
    timer.observe_duration();
    let credentials = credential::obtain_all(&basis, &mut known.verdicts, origin.wait).await?;
    let agreed = match agreed {
        Some(agreed) => Some(agreed),
        None => approval::gate(&basis, &known.verdicts, &mut known.approval).await?,
    };
    if let Some(agreed) = &agreed {
        approval::hold_to(&mut known.verdicts, agreed)?;
    }
    let granted = authorize::conclude(&known.verdicts)?;
    if presented.is_some() && via == Via::Client {
        return Err(Refusal::NotThroughGateway);
    }
    let lifetime = mint::lifetime(&basis)?;
    let upstreams = match via {
        Via::Gateway => directive::directives(&caller, &granted, &credentials)?,
        Via::Client => BTreeMap::new(),
    };
    let is_seen = upstreams.values().any(Upstream::sees_mandate);
    let timer = stages.timer(Stage::Mint);
    let minted = mint::mint(&basis, &granted, lifetime, agreed.as_ref(), is_seen).await?;
    timer.observe_duration();
    known.approval = agreed.as_ref().map(ApprovalFact::of_use);
    release(sts, origin, request, known, minted, upstreams, &granted).await
}

/// Lets the token out: not revoked since the checks, and recorded.
async fn release(
    sts: &Sts,
    origin: &Origin,
    request: &ExchangeRequest,
    known: &Known,
    minted: Minted,
    upstreams: BTreeMap<String, Upstream>,
    granted: &[Arc<Resource>],
) -> Result<TokenResponse, Refusal> {
    evidence::record_issue(sts, origin, request, known, &minted)
        .await
        .or(Err(Refusal::EvidenceUnavailable))?;
    if sts.revocations.is_revoked(&minted.claims.anchors()).is_some() {
        // What was recorded stays true: the token existed. Nobody gets it, and it would be refused everywhere.
        return Err(Refusal::Reference(
            caracal_model::delegation::ReferenceError::RecordInactive,
        ));
    }
    if minted.claims.r#use != Use::Resource {
        sts.minted
            .remember(&minted.token, &minted.kid, Arc::clone(&minted.claims));
    }
    sts.metrics.minted(minted.claims.r#use);
    Ok(TokenResponse {
        expires_in: minted.expires_in(),
        token_type: if minted.token.is_empty() {
            NO_TOKEN
        } else {
            possession::token_type(&minted.claims)
        }
        .to_owned(),
        access_token: minted.token,
        scope: minted.claims.scope.clone(),
        issued_token_type: request.requested.issued_type().to_owned(),
        target_resources: granted
            .iter()
            .map(|resource| resource.identifier.to_string())
            .collect(),
        upstreams,
    })
}
