//! The standard OAuth endpoints of a zone: what they have in common.
//!
//! Their addresses name the zone, clients authenticate as RFC 6749 section 2.3.1 says, and refusals carry the codes of RFC 6749
//! section 5.2 (`docs/contract/oauth-surface.md`).

mod evidence;
pub(super) mod introspect;
pub(super) mod metadata;
mod problem;
pub(super) mod revoke;

use std::net::{IpAddr, Ipv4Addr};

use axum::extract::Request;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use caracal_chassis::Secret;
use caracal_chassis::server::{BodyError, Peer, RequestId, read_body};
use caracal_model::{ResourceId, UnixSeconds, ZoneId};
use caracal_wire::form::{self, Form, FormError};
use caracal_wire::sts::{FORM_MEDIA_TYPE, field};
use http::{HeaderMap, header};

pub(super) use self::evidence::{Attempt, record_failure};
pub(super) use self::problem::Problem;
use crate::exchange::client::{self, Caller, ClientAssertion, Credentials, Proof};
use crate::exchange::refusal::Refusal;
use crate::exchange::request;
use crate::limit::lockout::Suspect;
use crate::limit::mint_rate::Rate;
use crate::state::Sts;

const BODY_BYTES_MAX: usize = 65_536;
/// What a client wants with a token. Each has a budget of its own, so that asking about tokens never keeps anybody from
/// ending one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Management {
    Introspection,
    Revocation,
}

impl Management {
    /// Names the budget among those of resources, and the endpoint in evidence; ids of rows are UUIDs.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Introspection => "oauth:introspection",
            Self::Revocation => "oauth:revocation",
        }
    }
}

/// Who a client says it is, and its proof.
pub(super) struct ClientName {
    pub(super) application_id: String,
    pub(super) secret: Secret,
    pub(super) assertion: Option<ClientAssertion>,
}

/// A form whose sender has proved who it is.
pub(super) struct Authenticated {
    pub(super) form: Form,
    pub(super) caller: Caller,
}

/// Reads the form of a management request for `zone` and authenticates its sender, within his budget.
///
/// # Errors
/// [`Problem`].
pub(super) async fn authenticated(
    sts: &Sts,
    zone: &str,
    peer: Peer,
    request_id: &RequestId,
    management: Management,
    request: Request,
) -> Result<Authenticated, Problem> {
    let (parts, body) = request.into_parts();
    if parts.uri.query().is_some() {
        return Err(Problem::invalid_request("query parameters are not allowed"));
    }
    let content_type = parts.headers.get(header::CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok());
    let media_type = content_type
        .and_then(|text| text.split(';').next())
        .map(str::trim);
    if !media_type.is_some_and(|media_type| media_type.eq_ignore_ascii_case(FORM_MEDIA_TYPE)) {
        return Err(Problem::invalid_request(
            "application/x-www-form-urlencoded content type is required",
        ));
    }
    let body = read_body(body, BODY_BYTES_MAX)
        .await
        .map_err(|error| match error {
            BodyError::TooLarge(_) => Problem::from(&Refusal::BodyTooLarge),
            BodyError::Broken(_) => Problem::invalid_request("malformed request body"),
        })?;
    let form = form::parse(&body, &[]).map_err(|error| match error {
        FormError::Malformed => Problem::invalid_request("malformed request body"),
        FormError::Duplicate(name) => Problem::invalid_request(format!("duplicate form field: {name}")),
    })?;
    let name = client_name(&parts.headers, &form)?;
    let source = peer.ip().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let caller = match authenticate(sts, zone, &name, source).await {
        Ok(caller) => caller,
        Err(refusal) => {
            let attempt = Attempt {
                zone,
                application_id: &name.application_id,
                source,
                request_id: request_id.as_str(),
                endpoint: management.name(),
            };
            record_failure(sts, &attempt, &refusal).await;
            return Err(Problem::from(&refusal));
        }
    };
    let budget = ResourceId::try_from(management.name()).or(Err(Problem::from(&Refusal::Issuance)))?;
    let key = (caller.zone().id.clone(), budget, caller.application().id.clone());
    let rate = Rate::per_minute(sts.settings.token_management_per_minute);
    match sts.mint_rate.admit(key, rate, sts.clock.unix_micros()) {
        Ok(()) => Ok(Authenticated { form, caller }),
        Err(spent) => Err(Problem::too_many(spent.retry_after_s)),
    }
}

/// Who the client says it is: by HTTP Basic (RFC 6749 section 2.3.1, both halves form-encoded), or in the form. `client_id`
/// and `application_id` are the same; naming two clients, or proving twice, is refused.
///
/// # Errors
/// [`Problem`].
pub(super) fn client_name(headers: &HeaderMap, form: &Form) -> Result<ClientName, Problem> {
    let text = |name: &str| form.get(name).map(str::trim).filter(|text| !text.is_empty());
    let named = match (text("client_id"), text(field::APPLICATION_ID)) {
        (Some(one), Some(other)) if one != other => {
            return Err(Problem::invalid_request("client_id and application_id differ"));
        }
        (one, other) => one.or(other),
    };
    let secret = form.get(field::CLIENT_SECRET);
    let assertion = request::client_assertion(form).map_err(|refusal| Problem::from(&refusal))?;
    let Some(basic) = basic(headers)? else {
        // RFC 7521 section 4.2: the assertion names the client, client_id only repeats it.
        let subject = || assertion.as_ref()?.unverified_subject();
        let application_id = named.map(str::to_owned).or_else(subject);
        return Ok(ClientName {
            application_id: application_id.unwrap_or_default(),
            secret: Secret::from(secret.unwrap_or_default()),
            assertion,
        });
    };
    if secret.is_some() || assertion.is_some() {
        return Err(Problem::invalid_request(
            "a client authenticates in one way, not in two",
        ));
    }
    if named.is_some_and(|named| named != basic.application_id) {
        return Err(Problem::invalid_request(
            "client_id is not the authenticated client",
        ));
    }
    Ok(basic)
}

/// Who the client says it is by HTTP Basic; `None` without credentials.
///
/// # Errors
/// [`Problem`] for credentials that cannot be read.
pub(super) fn basic(headers: &HeaderMap) -> Result<Option<ClientName>, Problem> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let malformed = || Problem::invalid_request("malformed Authorization header");
    if values.next().is_some() {
        return Err(malformed());
    }
    let value = value.to_str().ok().ok_or_else(malformed)?;
    let (scheme, credentials) = value.split_once(' ').ok_or_else(malformed)?;
    if !scheme.eq_ignore_ascii_case("Basic") {
        return Err(malformed());
    }
    let decoded = STANDARD.decode(credentials.trim()).ok().ok_or_else(malformed)?;
    let decoded = String::from_utf8(decoded).ok().ok_or_else(malformed)?;
    let (id, secret) = decoded.split_once(':').ok_or_else(malformed)?;
    // Each half is a form value; reading them as a form undoes exactly that encoding.
    let form = form::parse(format!("i={id}&s={secret}").as_bytes(), &[]).or(Err(malformed()))?;
    let half = |name: &str| form.get(name).map(str::to_owned).ok_or_else(malformed);
    Ok(Some(ClientName {
        application_id: half("i")?,
        secret: Secret::from(half("s")?),
        assertion: None,
    }))
}

/// Authenticates a client under the same lock-out as the token endpoint, and like there on the present configuration.
///
/// # Errors
/// As [`client::authenticate_client`]; [`Refusal::LockedOut`].
pub(super) async fn authenticate(
    sts: &Sts,
    zone: &str,
    name: &ClientName,
    source: IpAddr,
) -> Result<Caller, Refusal> {
    let suspect = unlocked(sts, name, source)?;
    let credentials = Credentials {
        zone_id: zone,
        application_id: &name.application_id,
        proof: match &name.assertion {
            Some(assertion) => Proof::Assertion(assertion),
            None => Proof::Secret(&name.secret),
        },
        source,
    };
    let now = UnixSeconds(sts.clock.unix_seconds());
    let seen = zone_id_of(zone).and_then(|zone| sts.zones.served_version(&zone));
    let mut outcome = client::authenticate_client(sts, credentials, now).await;
    if outcome.as_ref().is_err_and(|refusal| *refusal == Refusal::Client)
        && let Some(zone) = zone_id_of(zone)
        && sts.zones.catch_up(&zone, seen).await
    {
        outcome = client::authenticate_client(sts, credentials, now).await;
    }
    outcome.map_err(|refusal| {
        let is_failure = refusal == Refusal::Client;
        if is_failure && sts.lockout.count_failure(suspect, sts.clock.unix_micros()) {
            return Refusal::LockedOut;
        }
        refusal
    })
}

/// The suspect a client is, for whoever has to pay before it can be authenticated.
///
/// # Errors
/// [`Refusal::LockedOut`].
pub(super) fn unlocked(sts: &Sts, name: &ClientName, source: IpAddr) -> Result<Suspect, Refusal> {
    let suspect = Suspect::new(&name.application_id, source);
    if sts.lockout.is_blocked(suspect, sts.clock.unix_micros()) {
        return Err(Refusal::LockedOut);
    }
    Ok(suspect)
}

fn zone_id_of(text: &str) -> Option<ZoneId> {
    ZoneId::try_from(text).ok()
}
