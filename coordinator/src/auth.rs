//! Who is calling? An application with its lifecycle mandate, or the operator with its token.
//!
//! docs/contract/sessions-and-delegations.md, "Authentication".

use std::convert::Infallible;

use axum::extract::{FromRequestParts, OriginalUri};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use caracal_chassis::server::Peer;
use caracal_model::{AuthorityRecordId, ScopeSet, UnixSeconds, ZoneId};
use caracal_storage::ZoneScope;
use caracal_storage::session::{self, Identity};
use caracal_token::client_certificate::{self, CLIENT_CERT_HEADER, CertificateFault};
use caracal_token::dpop::{PROOF_HEADER, Proof, ProofRules, Target};
use caracal_token::sender::{self, PROOF_AGE_MAX_SECONDS, ProofFault, Scheme, SenderFault, Shown};
use caracal_token::{Claims, Possession, Rules, UnverifiedToken, Use, verify};

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
    /// The keys the caller has shown, if its mandate is bound to any.
    pub(crate) shown: Possession,
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

/// What was asked, and by whom: everything a mandate may be bound to. Nothing of it is proven.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) headers: HeaderMap,
    method: Method,
    /// The whole path, as sent.
    path: String,
    peer: Peer,
}

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        let OriginalUri(uri) = OriginalUri::from_request_parts(parts, state).await?;
        Ok(Self {
            headers: parts.headers.clone(),
            method: parts.method.clone(),
            path: uri.path().to_owned(),
            peer: Peer::from_request_parts(parts, state).await?,
        })
    }
}

impl Asked {
    fn values(&self, name: &'static str) -> impl Iterator<Item = &[u8]> {
        self.headers.get_all(name).iter().map(HeaderValue::as_bytes)
    }

    /// The addresses by which a client may know this request: under the public URLs, or, where none is configured, at the host
    /// it asked for. TLS ends before this service, so then it may have been either scheme.
    fn targets(&self, public_urls: &[String]) -> Vec<Target> {
        if !public_urls.is_empty() {
            return Target::under(public_urls, &self.path);
        }
        let host = self.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let schemes = host
            .into_iter()
            .flat_map(|host| ["http", "https"].map(|scheme| format!("{scheme}://{host}")));
        Target::under(schemes, &self.path)
    }
}

/// Proves the caller of a route of `zone`. One round trip to the event bus for a mandate that is bound to the key of proofs.
///
/// # Errors
/// 401 `missing_token`, `invalid_token`, `invalid_dpop_proof`, `identity_revoked`; 403 `missing_scope`, `zone_mismatch`; 503 when a store or
/// the STS is away.
pub(crate) async fn authenticate(
    coordinator: &Coordinator,
    zone: &ZoneId,
    asked: &Asked,
    audience: Audience,
) -> Result<Caller, Refusal> {
    let (scheme, mandate) = presented(&asked.headers)?;
    if audience == Audience::Everybody
        && scheme == Scheme::Bearer
        && coordinator
            .operator_token
            .as_ref()
            .is_some_and(|token| token.matches(mandate.as_bytes()))
    {
        return Ok(operator());
    }
    let claims = prove(coordinator, mandate).await?;
    let shown = shown(coordinator, asked, scheme, mandate, &claims)?;
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
    drop(tx);
    // Last, so that what is refused fills no table: a proof costs its sender nothing.
    if let Some(proof) = shown.as_ref().and_then(Shown::proof) {
        use_up(coordinator, &claims, proof).await?;
    }
    Ok(Caller {
        subject: claims.sub.as_str().to_owned(),
        client_id: claims.client_id.as_str().to_owned(),
        scopes,
        record: Some(claims.sid),
        is_operator: false,
        shown: shown.map(|shown| *shown.keys()).unwrap_or_default(),
    })
}

/// The token of `Authorization`, and how it is sent.
fn presented(headers: &HeaderMap) -> Result<(Scheme, &str), Refusal> {
    headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .and_then(|(scheme, token)| Some((Scheme::parse(scheme)?, token.trim())))
        .filter(|(_, token)| !token.is_empty() && token.len() <= BEARER_BYTES_MAX)
        .ok_or_else(|| Refusal::unauthorized("missing_token"))
}

fn operator() -> Caller {
    Caller {
        subject: "caracal-operator".to_owned(),
        client_id: "caracal-operator".to_owned(),
        scopes: ScopeSet::parse(ADMIN_SCOPE),
        record: None,
        is_operator: true,
        shown: Possession::default(),
    }
}

/// The keys the caller has shown: all that its mandate is bound to (docs/contract/sender-constraint.md).
fn shown(
    coordinator: &Coordinator,
    asked: &Asked,
    scheme: Scheme,
    mandate: &str,
    claims: &Claims,
) -> Result<Option<Shown>, Refusal> {
    let now = UnixSeconds(coordinator.clock.unix_seconds());
    let proof = || {
        let rules = ProofRules {
            method: asked.method.as_str(),
            targets: &asked.targets(&coordinator.public_urls),
            access_token: Some(mandate),
            age_max_seconds: PROOF_AGE_MAX_SECONDS,
            leeway_seconds: LEEWAY_SECONDS,
        };
        sender::prove(asked.values(PROOF_HEADER), &rules, now)
    };
    let certificate = || {
        let terminators = &coordinator.certificate_proxies;
        if !asked.peer.ip().is_some_and(|peer| terminators.contain(peer)) {
            return Err(CertificateFault::Missing);
        }
        client_certificate::presented(asked.values(CLIENT_CERT_HEADER))
    };
    sender::check(claims.cnf.as_ref(), scheme, proof, certificate)
        .map_err(|fault| not_the_sender(claims, fault))
}

fn not_the_sender(claims: &Claims, fault: SenderFault) -> Refusal {
    tracing::info!(
        zone.id = %claims.zone_id,
        application.id = %claims.client_id,
        reason = %fault,
        "a mandate is refused from this sender"
    );
    Refusal::not_the_sender(fault)
}

/// Nobody takes the proof a second time.
async fn use_up(coordinator: &Coordinator, claims: &Claims, proof: &Proof) -> Result<(), Refusal> {
    let key = proof.jkt.to_string();
    match coordinator
        .single_use
        .take_proof((&key, &proof.jti), proof.made_at, proof.until)
        .await
    {
        Ok(true) => Ok(()),
        Ok(false) => Err(not_the_sender(claims, ProofFault::Used.into())),
        Err(error) => Err(Refusal::Unavailable(error.into())),
    }
}

/// Signature by a key of the zone the token names, then issuer, audience, time and use. Whether its sender may send it is for the
/// caller of this to decide, by `cnf`.
pub(crate) async fn prove(coordinator: &Coordinator, mandate: &str) -> Result<Claims, Refusal> {
    let invalid = || Refusal::unauthorized("invalid_token");
    let unverified = UnverifiedToken::parse(mandate).map_err(|_malformed| invalid())?;
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
    verify(unverified, &fetched.keys, &rules, now).map_err(|refused| {
        tracing::info!(%refused, "a mandate is refused");
        invalid()
    })
}
