//! Who is calling? An application with its lifecycle mandate, or the operator with its token.
//!
//! docs/contract/sessions-and-delegations.md, "Authentication".

use axum::http::{HeaderMap, header};
use caracal_model::{AuthorityRecordId, ScopeSet, UnixSeconds, ZoneId};
use caracal_storage::ZoneScope;
use caracal_storage::session::{self, Identity};
use caracal_token::{Claims, Rules, UnverifiedToken, Use, verify};

use crate::refusal::Refusal;
use crate::state::Coordinator;

/// Clock difference granted to mandates, in seconds.
const LEEWAY_SECONDS: i64 = 60;
/// Longest bearer that is looked at, in bytes.
const BEARER_BYTES_MAX: usize = 16 << 10;
/// The scope that lets a caller see and end everything in its zone.
const ADMIN_SCOPE: &str = "coordinator.admin";

/// A proven caller.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) subject: String,
    /// The application, or `caracal-operator`.
    pub(crate) client_id: String,
    pub(crate) scopes: ScopeSet,
    /// The authority record the mandate rests on; the operator has none.
    pub(crate) record: Option<AuthorityRecordId>,
    pub(crate) is_operator: bool,
}

impl Caller {
    /// Whether the caller may act for `application`: it is that application, or holds `privilege:application`.
    pub(crate) fn may_act_for(&self, application: &str, privilege: &str) -> bool {
        self.owns(application) || self.scopes.contains(&format!("{privilege}:{application}"))
    }

    /// Whether the caller may end what belongs to `application`: it may act for it, or administers the zone.
    pub(crate) fn may_end(&self, application: &str, privilege: &str) -> bool {
        self.may_act_for(application, privilege) || self.is_admin()
    }

    /// Whether the caller may look at what belongs to `application`.
    pub(crate) fn may_see(&self, application: &str) -> bool {
        self.owns(application) || self.is_admin()
    }

    /// Whether the caller is `application` itself.
    pub(crate) fn owns(&self, application: &str) -> bool {
        !self.is_operator && self.client_id == application
    }

    /// Whether the caller administers the zone.
    pub(crate) fn is_admin(&self) -> bool {
        self.scopes.contains(ADMIN_SCOPE)
    }
}

/// Whether the operator's token is accepted on a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audience {
    /// Applications only.
    Applications,
    /// Applications and the operator.
    Everybody,
}

/// Proves the caller of a route of `zone`.
///
/// # Errors
/// 401 `missing_token`, `invalid_token`, `identity_revoked`; 403 `missing_scope`, `zone_mismatch`; 503 when a store or the STS is away.
pub(crate) async fn authenticate(
    coordinator: &Coordinator,
    zone: &ZoneId,
    headers: &HeaderMap,
    audience: Audience,
) -> Result<Caller, Refusal> {
    let bearer = bearer(headers)?;
    if audience == Audience::Everybody
        && coordinator
            .operator_token
            .as_ref()
            .is_some_and(|token| token.matches(bearer.as_bytes()))
    {
        return Ok(operator());
    }
    let claims = prove(coordinator, bearer).await?;
    let scopes = claims.scopes();
    if !scopes.contains(&coordinator.required_scope) {
        return Err(Refusal::forbidden("missing_scope"));
    }
    if claims.zone_id != *zone {
        return Err(Refusal::forbidden("zone_mismatch"));
    }
    let identity = Identity {
        zone_id: zone,
        application_id: &claims.client_id,
        authority_record_id: &claims.sid,
        session_id: claims.agent_session_id.as_ref(),
        delegation_id: claims.delegation_edge_id.as_ref(),
    };
    let mut tx = coordinator.database.read_in(ZoneScope::Zone(zone)).await?;
    if !session::identity_is_live(&mut tx, &identity).await? {
        return Err(Refusal::unauthorized("identity_revoked"));
    }
    Ok(Caller {
        subject: claims.sub.as_str().to_owned(),
        client_id: claims.client_id.as_str().to_owned(),
        scopes,
        record: Some(claims.sid),
        is_operator: false,
    })
}

fn bearer(headers: &HeaderMap) -> Result<&str, Refusal> {
    headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .map(str::trim)
        .filter(|token| !token.is_empty() && token.len() <= BEARER_BYTES_MAX)
        .ok_or_else(|| Refusal::unauthorized("missing_token"))
}

fn operator() -> Caller {
    Caller {
        subject: "caracal-operator".to_owned(),
        client_id: "caracal-operator".to_owned(),
        scopes: ScopeSet::parse(ADMIN_SCOPE),
        record: None,
        is_operator: true,
    }
}

/// Signature by a key of the zone the token names, then issuer, audience, time and use. One that is bound to a key is never
/// taken from whoever has it (RFC 9449 section 7.2), and nothing here takes a proof of the key.
pub(crate) async fn prove(coordinator: &Coordinator, bearer: &str) -> Result<Claims, Refusal> {
    let invalid = || Refusal::unauthorized("invalid_token");
    let unverified = UnverifiedToken::parse(bearer).map_err(|_malformed| invalid())?;
    let zone = unverified.unverified_claims().zone_id.clone();
    let fetched = coordinator
        .keys
        .of(&zone, unverified.unverified_kid())
        .await
        .map_err(|error| Refusal::Unavailable(error.into()))?;
    let rules = Rules {
        issuer: &coordinator.issuer,
        audience: &coordinator.issuer,
        leeway_seconds: LEEWAY_SECONDS,
        uses: &[Use::Session],
    };
    let now = UnixSeconds(coordinator.clock.unix_seconds());
    let claims = verify(unverified, &fetched.keys, &rules, now).map_err(|refused| {
        tracing::info!(%refused, "a mandate is refused");
        invalid()
    })?;
    if claims.cnf.is_some() {
        tracing::info!("a mandate that is bound to a key is refused");
        return Err(invalid());
    }
    Ok(claims)
}
