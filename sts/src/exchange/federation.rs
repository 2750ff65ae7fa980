//! A user of another issuer signs in: its ID token becomes a reusable mandate of the user (docs/contract/federation.md).
//!
//! One ID token gives one mandate in a zone, on whichever replica it comes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use caracal_bus::Undecided;
use caracal_model::{ApplicationId, UnixSeconds};
use caracal_storage::authority_record::{self, NewAuthorityRecord};
use caracal_storage::zone_model::SubjectIssuerRow;
use caracal_token::id_token::{IdTokenError, IdTokenRules, Identity, UnverifiedIdToken};
use caracal_token::{Actor, Claims, SubjectType, Use};
use caracal_wire::sts::TokenResponse;
use serde_json::json;

use super::client::{Caller, Via};
use super::evidence::{Known, Origin};
use super::mint;
use super::possession;
use super::refusal::Refusal;
use super::release;
use super::request::{ExchangeRequest, SubjectToken, SubjectTokenKind};
use crate::issuer_keys::NoKeys;
use crate::state::Sts;
use crate::zone::ZoneModel;

/// How far an issuer's clock may be from ours, in seconds.
const LEEWAY_SECONDS: i64 = 60;
/// Longest time from now to the end of an ID token, in seconds: so long is its use remembered.
const LIFE_MAX_SECONDS: i64 = 30 * 86_400;

/// Why an ID token signs nobody in. The texts are shown to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotSignedIn {
    #[error("issuer is not configured")]
    NoIssuer,
    #[error("issuer keys unavailable")]
    NoKeys,
    #[error(transparent)]
    Token(#[from] IdTokenError),
    /// The user calls itself as an application of the zone is called.
    #[error("subject is the id of an application")]
    ApplicationId,
    #[error("token was used already")]
    Used,
    /// Whoever remembers the uses has lost those of the time when the token was made.
    #[error("token is older than the memory of used tokens")]
    Forgotten,
}

impl NotSignedIn {
    /// Whether a newer configuration could change that.
    pub(super) const fn may_be_outdated(self) -> bool {
        match self {
            Self::NoIssuer
            | Self::NoKeys
            | Self::Token(IdTokenError::Audience | IdTokenError::UnknownKey)
            | Self::ApplicationId => true,
            Self::Token(_) | Self::Used | Self::Forgotten => false,
        }
    }
}

/// What uses of ID tokens are called where they are remembered.
const ID_TOKEN_USES: &str = "id_token";

/// The ID token of a request that is a sign-in.
pub(super) fn id_token(request: &ExchangeRequest) -> Option<&SubjectToken> {
    request
        .subject_token
        .as_ref()
        .filter(|token| token.kind == SubjectTokenKind::IdToken)
}

/// Exchanges an ID token. Cost: one round trip to the event bus, one INSERT, one or two signature operations, and an HTTPS
/// request when the issuer's keys are not in memory.
///
/// # Errors
/// The first in this order: [`Refusal::SubjectToken`] to a gateway, which speaks for holders of mandates only;
/// [`Refusal::FederationFields`]; those of a proof of possession; [`Refusal::Federation`] for what is wrong with the token; the lifetime's refusals;
/// [`Refusal::EvidenceUnavailable`] while there is no room for evidence; [`Refusal::Federation`] when it was used before and [`Refusal::SignInStoreUnavailable`] when nobody can tell;
/// [`Refusal::RecordStoreUnavailable`].
pub(super) async fn sign_in(
    sts: &Sts,
    origin: &Origin,
    request: &ExchangeRequest,
    caller: &Caller,
    known: &mut Known,
    token: &SubjectToken,
    now: UnixSeconds,
) -> Result<TokenResponse, Refusal> {
    if caller.via() == Via::Gateway {
        return Err(Refusal::SubjectToken);
    }
    refuse_other_fields(request)?;
    let shown = possession::prove(sts, request, caller, now).await?;
    let zone = caller.zone();
    let unverified = UnverifiedIdToken::parse(token.expose()).map_err(untrusted)?;
    let issuer = zone
        .subject_issuer(unverified.unverified_issuer())
        .ok_or(Refusal::Federation(NotSignedIn::NoIssuer))?;
    known.user_issuer = Some(Arc::clone(issuer));
    let identity = prove(sts, zone, issuer, &unverified, now).await?;
    let lifetime = mint::asked_lifetime(request, mint::TTL_MAX_SECONDS)?;
    let mut claims = claims(sts, caller, &identity, lifetime, now)?;
    claims.cnf = shown.confirmation();
    let keys = mint::zone_with_keys(sts, zone).await?;
    let key = keys.keys.signing(now).ok_or(Refusal::Issuance)?;
    if !sts.spool.stats().has_room() {
        // Else each try would leave a record of a user who got nothing.
        return Err(Refusal::EvidenceUnavailable);
    }
    take(sts, zone, &identity, token).await?;
    let issued = async {
        record(sts, &claims, issuer).await?;
        let minted = mint::sign(sts, &zone.id, key, request, claims)?;
        release(sts, origin, request, known, minted, BTreeMap::new(), &[]).await
    };
    let issued = issued.await;
    if let Err(Refusal::RecordStoreUnavailable | Refusal::EvidenceUnavailable) = issued {
        // The answer says to come back, and no mandate left.
        give_back(sts, zone, &identity, token).await;
    }
    issued
}

/// A sign-in asks for nothing but the user's mandate.
fn refuse_other_fields(request: &ExchangeRequest) -> Result<(), Refusal> {
    let has_more = !request.resources.is_empty()
        || !request.scope.is_empty()
        || request.session_id.is_some()
        || request.agent_session_id.is_some()
        || request.delegation_edge_id.is_some()
        || request.approval_id.is_some()
        || request.challenge.is_some();
    if has_more {
        return Err(Refusal::FederationFields);
    }
    Ok(())
}

/// Verifies the token, once more with newer keys when it names one that is not known.
async fn prove(
    sts: &Sts,
    zone: &ZoneModel,
    issuer: &SubjectIssuerRow,
    token: &UnverifiedIdToken<'_>,
    now: UnixSeconds,
) -> Result<Identity, Refusal> {
    let rules = IdTokenRules {
        issuer: &issuer.issuer,
        audience: &issuer.audience,
        leeway_seconds: LEEWAY_SECONDS,
        life_max_seconds: LIFE_MAX_SECONDS,
    };
    let fetched = sts
        .issuer_keys
        .keys(issuer)
        .await
        .map_err(|error| no_keys(issuer, &error))?;
    let verified = match token.verify(&fetched.keys, &rules, now) {
        Err(IdTokenError::UnknownKey) => {
            let newer = sts.issuer_keys.newer(issuer, &fetched).await;
            match newer.map_err(|error| no_keys(issuer, &error))? {
                Some(newer) => token.verify(&newer.keys, &rules, now),
                None => Err(IdTokenError::UnknownKey),
            }
        }
        verified => verified,
    };
    let identity = verified.map_err(untrusted)?;
    let as_application = ApplicationId::try_from(identity.subject.as_str()).ok();
    if as_application.is_some_and(|id| zone.application(&id, now).is_some()) {
        return Err(Refusal::Federation(NotSignedIn::ApplicationId));
    }
    Ok(identity)
}

fn no_keys(issuer: &SubjectIssuerRow, error: &NoKeys) -> Refusal {
    tracing::warn!(
        issuer.id = %issuer.id,
        error = error as &dyn std::error::Error,
        "the keys of an issuer are not known"
    );
    Refusal::Federation(NotSignedIn::NoKeys)
}

fn untrusted(error: IdTokenError) -> Refusal {
    Refusal::Federation(error.into())
}

/// Makes a token good again that [`take`] used up. Where that fails it stays used.
async fn give_back(sts: &Sts, zone: &ZoneModel, identity: &Identity, token: &SubjectToken) {
    let fingerprint = hex::encode(identity.fingerprint);
    let parts = [zone.id.as_str(), &fingerprint];
    match sts.single_use.give_back(ID_TOKEN_USES, &parts).await {
        Ok(()) => token.is_used.store(false, Ordering::Relaxed),
        Err(error) => tracing::warn!(
            zone.id = zone.id.as_str(),
            error = &error as &dyn std::error::Error,
            "an ID token stays used although nothing came of it"
        ),
    }
}

/// Uses the token up, in this zone: once for a request, however often the request is looked at. By what was signed, because
/// not every issuer gives its tokens ids.
async fn take(sts: &Sts, zone: &ZoneModel, identity: &Identity, token: &SubjectToken) -> Result<(), Refusal> {
    if token.is_used.load(Ordering::Relaxed) {
        return Ok(());
    }
    let fingerprint = hex::encode(identity.fingerprint);
    let parts = [zone.id.as_str(), &fingerprint];
    let until = identity.expires_at + LEEWAY_SECONDS;
    match sts
        .single_use
        .take(ID_TOKEN_USES, &parts, identity.issued_at, until)
        .await
    {
        Ok(true) => {
            token.is_used.store(true, Ordering::Relaxed);
            Ok(())
        }
        Ok(false) => Err(Refusal::Federation(NotSignedIn::Used)),
        Err(Undecided::Forgotten) => Err(Refusal::Federation(NotSignedIn::Forgotten)),
        Err(error @ Undecided::Bus(_)) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "uses of ID tokens cannot be remembered"
            );
            Err(Refusal::SignInStoreUnavailable)
        }
    }
}

fn claims(
    sts: &Sts,
    caller: &Caller,
    identity: &Identity,
    lifetime: i64,
    now: UnixSeconds,
) -> Result<Claims, Refusal> {
    let sid: caracal_model::AuthorityRecordId = mint::fresh(sts)?;
    let application = &caller.application().id;
    Ok(Claims {
        iss: sts.issuer.clone(),
        sub: identity.subject.clone(),
        aud: vec![sts.issuer.clone()],
        exp: now.0.saturating_add(lifetime),
        iat: now.0,
        jti: mint::fresh(sts)?,
        zone_id: caller.zone().id.clone(),
        client_id: application.clone(),
        scope: None,
        root_sid: sid.clone(),
        sid,
        r#use: Use::Session,
        sub_type: SubjectType::User,
        target: Vec::new(),
        agent_session_id: None,
        delegation_edge_id: None,
        source_session_id: None,
        target_session_id: None,
        delegation_path: Vec::new(),
        delegation_chain: Vec::new(),
        act: Actor::of_chain([application]),
        cnf: None,
        hop_count: 0,
        delegation_graph_epoch: 0,
    })
}

/// The record names the issuer and the application, so that either can take its users with it.
async fn record(sts: &Sts, claims: &Claims, issuer: &SubjectIssuerRow) -> Result<(), Refusal> {
    let record = NewAuthorityRecord {
        claims: Some(json!({"iss": issuer.issuer, "client_id": claims.client_id})),
        ..mint::record_of(claims)
    };
    match authority_record::insert_of_user(&sts.database, &record, issuer).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(Refusal::Federation(NotSignedIn::NoIssuer)),
        Err(error) => Err(mint::not_recorded(&error)),
    }
}
