//! Which application asks, and how is that proved?

mod assertion;
pub(crate) mod home;

use std::net::IpAddr;
use std::sync::Arc;

use caracal_chassis::Secret;
use caracal_model::{ApplicationId, UnixSeconds, ZoneId};
use caracal_storage::zone_model;

pub(crate) use self::assertion::ClientAssertion;
use super::control_key;
use super::refusal::Refusal;
use super::request::ExchangeRequest;
use crate::state::Sts;
use crate::zone::{Application, ZoneError, ZoneModel};

/// How the request reached the token endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    /// A client asks for itself and must prove it with its secret.
    Client,
    /// A gateway, whose signature was verified, asks for the holder of a mandate.
    Gateway,
}

/// An application that has proved who it is, or for which a gateway speaks, in a zone that exists.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    zone: Arc<ZoneModel>,
    application: Arc<Application>,
    via: Via,
}

impl Caller {
    pub(crate) fn zone(&self) -> &Arc<ZoneModel> {
        &self.zone
    }

    pub(crate) fn application(&self) -> &Arc<Application> {
        &self.application
    }

    pub(crate) fn via(&self) -> Via {
        self.via
    }
}

/// How a client says who it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Credentials<'a> {
    /// Text of the zone's id.
    pub(crate) zone_id: &'a str,
    /// Text of the application's id.
    pub(crate) application_id: &'a str,
    pub(crate) proof: Proof<'a>,
    /// Where the request came from.
    pub(crate) source: IpAddr,
}

/// How a client proves it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Proof<'a> {
    /// What only it and we know.
    Secret(&'a Secret),
    /// A token it signed with its own key (RFC 7523).
    Assertion(&'a ClientAssertion),
}

impl<'a> Credentials<'a> {
    fn of(request: &'a ExchangeRequest, source: IpAddr) -> Self {
        let proof = match &request.client_assertion {
            Some(assertion) => Proof::Assertion(assertion),
            None => Proof::Secret(&request.client_secret),
        };
        Self {
            zone_id: &request.zone_id,
            application_id: &request.application_id,
            proof,
            source,
        }
    }
}

/// Authenticates the caller of an exchange. Cost when its secret is known: one map read and one SHA-256.
///
/// # Errors
/// As [`authenticate_client`]; [`Refusal::Client`] also to a gateway that presents no mandate.
pub(crate) async fn authenticate(
    sts: &Sts,
    source: IpAddr,
    request: &ExchangeRequest,
    via: Via,
    now: UnixSeconds,
) -> Result<Caller, Refusal> {
    if request.zone_id.is_empty() && via == Via::Client {
        return Box::pin(without_zone(sts, source, request, now)).await;
    }
    let credentials = Credentials::of(request, source);
    match via {
        Via::Client => authenticate_client(sts, credentials, now).await,
        Via::Gateway if request.subject_token.is_some() => {
            let (zone, application) = find(sts, credentials, now).await?.ok_or(Refusal::Client)?;
            Ok(Caller {
                zone,
                application,
                via,
            })
        }
        Via::Gateway => Err(Refusal::Client),
    }
}

/// Authenticates a client. Cost when its secret is known: one map read and one SHA-256.
///
/// # Errors
/// [`Refusal::Client`] for every failure alike, after the same work; [`Refusal::ZoneInvalid`] to the owner of an
/// application of another zone, once it has proved that.
pub(crate) async fn authenticate_client(
    sts: &Sts,
    credentials: Credentials<'_>,
    now: UnixSeconds,
) -> Result<Caller, Refusal> {
    if let Some((zone, application)) = find(sts, credentials, now).await? {
        match credentials.proof {
            Proof::Secret(secret) => {
                verify(sts, credentials.source, secret, application.secret_hash.as_ref()).await?;
            }
            Proof::Assertion(assertion) => {
                Box::pin(assertion::prove(sts, &zone.id, &application, assertion, now)).await?;
            }
        }
        return Ok(Caller {
            zone,
            application,
            via: Via::Client,
        });
    }
    let Proof::Secret(secret) = credentials.proof else {
        return Err(Refusal::Client);
    };
    let zone_id = ZoneId::try_from(credentials.zone_id);
    let application_id = ApplicationId::try_from(credentials.application_id);
    let (Ok(zone_id), Ok(application_id)) = (zone_id, application_id) else {
        // Ids that cannot exist cost as much as ids that do not.
        verify(sts, credentials.source, secret, None).await?;
        return Err(Refusal::Client);
    };
    let telling = elsewhere(sts, credentials.source, secret, zone_id, &application_id);
    Err(Box::pin(telling).await)
}

/// A control key may leave its zone unsaid when it asks for the control endpoint only. One statement, off the path of governed
/// requests.
async fn without_zone(
    sts: &Sts,
    source: IpAddr,
    request: &ExchangeRequest,
    now: UnixSeconds,
) -> Result<Caller, Refusal> {
    let found = match ApplicationId::try_from(request.application_id.as_str()) {
        Ok(id) if control_key::is_pure(request, &sts.settings.control_audience) => {
            control_application(sts, &id, now).await?
        }
        _ => None,
    };
    match (Credentials::of(request, source).proof, &found) {
        (Proof::Secret(secret), found) => {
            let stored = found
                .as_ref()
                .and_then(|(_, application)| application.secret_hash.as_ref());
            verify(sts, source, secret, stored).await?;
        }
        (Proof::Assertion(assertion), Some((zone, application))) => {
            assertion::prove(sts, &zone.id, application, assertion, now).await?;
        }
        (Proof::Assertion(_), None) => {}
    }
    let (zone, application) = found.ok_or(Refusal::Client)?;
    Ok(Caller {
        zone,
        application,
        via: Via::Client,
    })
}

async fn control_application(
    sts: &Sts,
    id: &ApplicationId,
    now: UnixSeconds,
) -> Result<Option<(Arc<ZoneModel>, Arc<Application>)>, Refusal> {
    let Some(zone) = home::stored_zone(sts, id).await? else {
        return Ok(None);
    };
    let zone = match sts.zones.model(&zone).await {
        Ok(zone) => zone,
        Err(ZoneError::Unknown) => return Ok(None),
        Err(ZoneError::Unavailable) => return Err(Refusal::ZoneUnavailable),
    };
    let application = zone
        .application(id, now)
        .filter(|application| application.control_key.is_some())
        .map(Arc::clone);
    Ok(application.map(|application| (zone, application)))
}

/// The zone and the application, if both exist.
async fn find(
    sts: &Sts,
    credentials: Credentials<'_>,
    now: UnixSeconds,
) -> Result<Option<(Arc<ZoneModel>, Arc<Application>)>, Refusal> {
    let zone_id = ZoneId::try_from(credentials.zone_id);
    let application_id = ApplicationId::try_from(credentials.application_id);
    let (Ok(zone_id), Ok(application_id)) = (zone_id, application_id) else {
        return Ok(None);
    };
    let zone = match sts.zones.model(&zone_id).await {
        Ok(zone) => zone,
        Err(ZoneError::Unknown) => return Ok(None),
        Err(ZoneError::Unavailable) => return Err(Refusal::ZoneUnavailable),
    };
    let application = zone.application(&application_id, now).map(Arc::clone);
    Ok(application.map(|application| (zone, application)))
}

async fn verify(
    sts: &Sts,
    source: IpAddr,
    secret: &Secret,
    stored: Option<&Arc<str>>,
) -> Result<(), Refusal> {
    if stored.is_some_and(|stored| sts.secrets.knows(secret, stored)) {
        return Ok(());
    }
    let place = sts.secrets.enter(source).ok_or(Refusal::VerifierBusy)?;
    if Box::pin(sts.secrets.derive(&place, secret, stored)).await {
        Ok(())
    } else {
        Err(Refusal::Client)
    }
}

/// The application is not in the zone it asked. Tells its owner where it is, and everybody else nothing. Only who has a
/// place in the queue of derivations costs a statement.
async fn elsewhere(
    sts: &Sts,
    source: IpAddr,
    secret: &Secret,
    asked: ZoneId,
    application: &ApplicationId,
) -> Refusal {
    let Some(place) = sts.secrets.enter(source) else {
        return Refusal::VerifierBusy;
    };
    let (actual, stored) = match find_elsewhere(sts, application).await {
        Some((zone, stored)) if zone != asked => (Some(zone), stored.map(Arc::from)),
        _ => (None, None),
    };
    let is_owner = sts.secrets.derive(&place, secret, stored.as_ref()).await;
    match actual {
        Some(actual) if is_owner => Refusal::ZoneInvalid { asked, actual },
        _ => Refusal::Client,
    }
}

/// A database that cannot be read only costs the friendlier answer.
async fn find_elsewhere(sts: &Sts, application: &ApplicationId) -> Option<(ZoneId, Option<String>)> {
    let mut tx = sts.database.read().await.ok()?;
    zone_model::application_zone(&mut tx, application).await.ok()?
}
