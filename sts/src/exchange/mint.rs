//! Which mandate is issued, for how long, and signed with which key?

use std::sync::Arc;

use caracal_model::{AuthorityRecordId, KeyId, SubjectId, TokenId, UnixSeconds, ZoneId};
use caracal_storage::StorageError;
use caracal_storage::approval::{self, Approval};
use caracal_storage::authority_record::{self, NewAuthorityRecord};
use caracal_token::{Actor, Claims, Hop, SigningKey, SubjectType, Use};
use serde_json::json;

use super::approval::{Agreed, Reissue};
use super::refusal::Refusal;
use super::request::ExchangeRequest;
use super::resources::Basis;
use super::subject_token::Presented;
use crate::state::Sts;
use crate::unique_id::{unique_id, unique_ids};
use crate::zone::{Resource, ZoneModel};

const TTL_DEFAULT_SECONDS: i64 = 900;
pub(super) const TTL_MAX_SECONDS: i64 = 3_600;
const TTL_MAX_WITH_SUBJECT_TOKEN_SECONDS: i64 = 900;

/// A mandate, not yet released.
#[derive(Debug)]
pub(crate) struct Minted {
    /// Empty when it is not signed.
    pub(crate) token: String,
    pub(crate) claims: Arc<Claims>,
    pub(crate) kid: KeyId,
}

impl Minted {
    /// The lifetime in whole seconds.
    pub(crate) fn expires_in(&self) -> i64 {
        self.claims.exp.saturating_sub(self.claims.iat)
    }
}

/// How long the mandate lives, in seconds: what was asked for within the cap, and never longer than what it stands on.
///
/// # Errors
/// [`Refusal::TtlNegative`], [`Refusal::TtlTooLong`], and [`Refusal::DelegationExpired`] or [`Refusal::SubjectToken`] when
/// what it stands on has ended.
pub(crate) fn lifetime(basis: &Basis<'_>) -> Result<i64, Refusal> {
    let cap = if basis.presented.is_some() {
        TTL_MAX_WITH_SUBJECT_TOKEN_SECONDS
    } else {
        TTL_MAX_SECONDS
    };
    let asked = asked_lifetime(basis.request, cap)?;
    let control_max = basis.control_key.and_then(|key| key.ttl_max_seconds);
    let mut lifetime = asked.min(control_max.unwrap_or(i64::MAX));
    if let Some(end) = basis.control_key.and_then(|key| key.expires_at) {
        lifetime = lifetime.min(end.seconds_since(basis.now));
    }
    if let Some(chain) = basis.references.chain() {
        lifetime = lifetime.min(chain.expires_at.seconds_since(basis.now));
        lifetime = lifetime.min(chain.ttl_seconds.unwrap_or(i64::MAX));
        if lifetime <= 0 {
            return Err(Refusal::DelegationExpired);
        }
    }
    if let Some(presented) = basis.presented {
        lifetime = lifetime.min(UnixSeconds(presented.claims().exp).seconds_since(basis.now));
        if lifetime <= 0 {
            return Err(Refusal::SubjectToken);
        }
    }
    Ok(lifetime)
}

/// How long the mandate is to live, in seconds, within `cap`.
///
/// # Errors
/// [`Refusal::TtlNegative`], [`Refusal::TtlTooLong`].
pub(super) fn asked_lifetime(request: &ExchangeRequest, cap: i64) -> Result<i64, Refusal> {
    match request.ttl_seconds {
        0 => Ok(TTL_DEFAULT_SECONDS),
        negative if negative < 0 => Err(Refusal::TtlNegative),
        seconds if seconds > cap => Err(Refusal::TtlTooLong),
        seconds => Ok(seconds),
    }
}

/// Signs the mandate, unless the gateway that asked takes the answer's MAC instead and no upstream sees it (`is_seen`); a reusable one, and one that a human agreed to, is recorded first. Cost: one signature, and for a
/// recorded mandate one statement.
///
/// # Errors
/// [`Refusal::ApprovalConsumed`] when another request used the approval first,
/// [`Refusal::Issuance`] when there is no key or no randomness, [`Refusal::RecordStoreUnavailable`] when a reusable mandate
/// cannot be recorded.
pub(crate) async fn mint(
    basis: &Basis<'_>,
    granted: &[Arc<Resource>],
    lifetime: i64,
    agreed: Option<&Agreed>,
    is_seen: bool,
) -> Result<Minted, Refusal> {
    let mut claims = claims(basis, granted, lifetime)?;
    if let Some(Agreed::Used(_, reissue)) = agreed {
        // Another key would make it another token.
        if json!(claims.cnf) != reissue.cnf {
            return Err(Refusal::ApprovalConsumed);
        }
        repeat(&mut claims, reissue);
    }
    let zone = zone_with_keys(basis.sts, basis.caller.zone()).await?;
    let key = zone.keys.signing(basis.now).ok_or(Refusal::Issuance)?;
    match agreed {
        Some(Agreed::Usable(approval)) => Box::pin(consume(basis, &claims, approval)).await?,
        None if claims.r#use == Use::Session => Box::pin(record(basis, &claims)).await?,
        Some(Agreed::Used(..)) | None => {}
    }
    if claims.r#use == Use::Resource && !is_seen && basis.request.sealed.is_some() {
        return Ok(Minted {
            token: String::new(),
            claims: Arc::new(claims),
            kid: key.kid().clone(),
        });
    }
    sign(basis.sts, &zone.id, key, basis.request, claims)
}

/// The zone with a key to sign with: its first one is made when it has none.
///
/// # Errors
/// [`Refusal::Issuance`].
pub(super) async fn zone_with_keys(sts: &Sts, zone: &Arc<ZoneModel>) -> Result<Arc<ZoneModel>, Refusal> {
    if !zone.keys.is_empty() {
        return Ok(Arc::clone(zone));
    }
    Box::pin(sts.first_signing_key(&zone.id)).await.map_err(|error| {
        tracing::error!(zone.id = %zone.id, error = &error as &dyn std::error::Error, "a zone signing key cannot be made");
        Refusal::Issuance
    })
}

/// Signs the claims, in the shape that was asked for; those for a gateway get a MAC for it. Cost: one signature.
///
/// # Errors
/// [`Refusal::Issuance`].
pub(super) fn sign(
    sts: &Sts,
    zone: &ZoneId,
    key: &SigningKey,
    request: &ExchangeRequest,
    claims: Claims,
) -> Result<Minted, Refusal> {
    let macs = sts.macs.as_ref().filter(|_macs| claims.r#use != Use::Resource);
    let mac = macs.map(|macs| &macs.mandate);
    let token = key
        .sign_as(request.requested.header_type(), &claims, mac)
        .map_err(|error| {
            tracing::error!(zone.id = %zone, error = &error as &dyn std::error::Error, "a mandate cannot be signed");
            Refusal::Issuance
        })?;
    Ok(Minted {
        token,
        claims: Arc::new(claims),
        kid: key.kid().clone(),
    })
}

fn claims(basis: &Basis<'_>, granted: &[Arc<Resource>], lifetime: i64) -> Result<Claims, Refusal> {
    let issuer = &basis.sts.issuer;
    let presented = basis.presented.map(Presented::claims);
    let r#use = class(basis);
    let target: Vec<String> = granted
        .iter()
        .map(|resource| resource.identifier.to_string())
        .collect();
    let [sid, jti] = unique_ids(basis.sts.clock.unix_millis()).or(Err(Refusal::Issuance))?;
    let sid = AuthorityRecordId::try_from(sid).or(Err(Refusal::Issuance))?;
    let jti = TokenId::try_from(jti).or(Err(Refusal::Issuance))?;
    let session = basis.references.session().map(|known| &known.session);
    let chain = basis.references.chain();
    let sub_type = presented.map_or(SubjectType::Application, |claims| claims.sub_type);
    Ok(Claims {
        iss: issuer.clone(),
        sub: presented.map_or_else(
            || SubjectId::from(&basis.caller.application().id),
            |claims| claims.sub.clone(),
        ),
        aud: if r#use == Use::Resource {
            target.clone()
        } else {
            vec![issuer.clone()]
        },
        exp: basis.now.0.saturating_add(lifetime),
        iat: basis.now.0,
        jti,
        zone_id: basis.caller.zone().id.clone(),
        client_id: basis.caller.application().id.clone(),
        scope: scope(basis),
        root_sid: match (presented, session) {
            (Some(presented), _) => presented.root_sid.clone(),
            (None, Some(session)) => session.subject_authority_record_id.clone(),
            (None, None) => sid.clone(),
        },
        sid,
        r#use,
        sub_type,
        target,
        agent_session_id: session.map(|session| session.id.clone()),
        delegation_edge_id: chain.and_then(|chain| chain.path.last().cloned()),
        source_session_id: chain.map(|chain| chain.source_session_id.clone()),
        target_session_id: chain.map(|chain| chain.target_session_id.clone()),
        delegation_path: chain.map(|chain| chain.path.clone()).unwrap_or_default(),
        delegation_chain: chain.map(hops).unwrap_or_default(),
        act: actor(basis, sub_type),
        // What the gateway holds is not held by whoever showed the key.
        cnf: match r#use {
            Use::Resource => None,
            Use::Session | Use::Gateway => basis.shown.confirmation(),
        },
        hop_count: chain.map_or(0, caracal_model::delegation::Chain::hop_count),
        delegation_graph_epoch: basis.references.epoch,
    })
}

/// A direct exchange gives a one-shot mandate for a session under a delegation, else a reusable one; a presented mandate
/// gives a resource mandate, and so does a control key.
fn class(basis: &Basis<'_>) -> Use {
    if basis.control_key.is_some() {
        return Use::Resource;
    }
    match (
        basis.presented,
        basis.references.session(),
        basis.references.chain(),
    ) {
        (Some(_), _, _) => Use::Resource,
        (None, Some(_), Some(_)) => Use::Gateway,
        (None, _, _) => Use::Session,
    }
}

/// Who acts (RFC 8693 section 4.1): the applications of a delegation, the present one outermost; for a user without a
/// delegation the application it signed in to. An application that acts for itself has no actor.
fn actor(basis: &Basis<'_>, sub_type: SubjectType) -> Option<Actor> {
    match (basis.references.chain(), sub_type) {
        (Some(chain), _) => Actor::of_chain(chain.hops.iter().map(|hop| &hop.application_id)),
        (None, SubjectType::User) => Actor::of_chain([&basis.caller.application().id]),
        (None, SubjectType::Application) => None,
    }
}

/// What was asked for, as it was asked for; a gateway asks for what the presented mandate carries.
fn scope(basis: &Basis<'_>) -> Option<String> {
    let asked = Some(basis.request.scope.clone()).filter(|scope| !scope.is_empty());
    asked.or_else(|| {
        basis
            .presented
            .and_then(|presented| presented.claims().scope.clone())
    })
}

pub(super) fn hops(chain: &caracal_model::delegation::Chain) -> Vec<Hop> {
    let hop = |hop: &caracal_model::delegation::ChainHop| Hop {
        application_id: hop.application_id.clone(),
        agent_session_id: Some(hop.session_id.clone()),
        delegation_edge_id: hop.delegation_id.clone(),
    };
    chain.hops.iter().map(hop).collect()
}

/// A new id.
///
/// # Errors
/// [`Refusal::Issuance`] without randomness.
pub(super) fn fresh<T: TryFrom<String>>(sts: &Sts) -> Result<T, Refusal> {
    let id = unique_id(sts.clock.unix_millis()).or(Err(Refusal::Issuance))?;
    T::try_from(id).ok().ok_or(Refusal::Issuance)
}

/// The token that was issued before: the same id, so that it is burned with the first one, and the same end.
fn repeat(claims: &mut Claims, reissue: &Reissue) {
    if claims.root_sid == claims.sid {
        claims.root_sid = reissue.sid.clone();
    }
    claims.sid = reissue.sid.clone();
    claims.jti = reissue.jti.clone();
    claims.iat = reissue.issued_at;
    // Never beyond what it stands on now.
    claims.exp = claims.exp.min(reissue.expires_at);
}

/// Uses the approval and records the mandate, both or neither.
async fn consume(basis: &Basis<'_>, claims: &Claims, approval: &Approval) -> Result<(), Refusal> {
    let mut record = record_of(claims);
    record.claims = Some(json!({"approval_id": approval.id, "jti": claims.jti, "cnf": claims.cnf}));
    match approval::consume(&basis.sts.database, &approval.id, &record).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(Refusal::ApprovalConsumed),
        Err(error) => Err(not_recorded(&error)),
    }
}

async fn record(basis: &Basis<'_>, claims: &Claims) -> Result<(), Refusal> {
    authority_record::insert(&basis.sts.database, &record_of(claims))
        .await
        .map_err(|error| not_recorded(&error))
}

/// What is to be recorded about a mandate.
pub(super) fn record_of(claims: &Claims) -> NewAuthorityRecord<'_> {
    NewAuthorityRecord {
        id: &claims.sid,
        zone_id: &claims.zone_id,
        session_type: claims.sub_type.as_str(),
        subject_id: &claims.sub,
        expires_at: claims.exp,
        authenticated_at: claims.iat,
        claims: None,
    }
}

/// Why a mandate could not be recorded, for the caller.
pub(super) fn not_recorded(error: &StorageError) -> Refusal {
    tracing::warn!(
        error = error as &dyn std::error::Error,
        "an authority record cannot be written"
    );
    if error.is_unavailable() {
        Refusal::RecordStoreUnavailable
    } else {
        Refusal::Issuance
    }
}
