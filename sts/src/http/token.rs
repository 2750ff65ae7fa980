//! `POST /oauth/2/token`: from bytes to a request, and from the outcome to an answer.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::BoxError;
use axum::body::HttpBody;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use caracal_chassis::server::{BodyError, Peer, RequestId, read_body};
use caracal_model::{UnixSeconds, ZoneId};
use caracal_token::dpop::{NONCE_HEADER, PROOF_HEADER};
use caracal_wire::answer_mac;
use caracal_wire::form::Form;
use caracal_wire::header::TIMEOUT_MS;
use caracal_wire::sts::{FORM_MEDIA_TYPE, TokenResponse, field};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::time::Instant;

use super::answer::{NO_STORE, refused};
use super::gateway::{self, NotOurGateway};
use super::standard::{Problem, client_name};
use crate::exchange::client::Via;
use crate::exchange::evidence::{self, Known, Origin};
use crate::exchange::possession::{PresentedCertificate, PresentedProof};
use crate::exchange::refusal::Refusal;
use crate::exchange::request::{self, ExchangeRequest};
use crate::limit::lockout::Suspect;
use crate::state::Sts;

/// Longest form.
pub(super) const BODY_BYTES_MAX: usize = 65_536;

/// The token endpoint, for requests that come by the router.
pub(super) async fn exchange(
    State(sts): State<Arc<Sts>>,
    peer: Peer,
    request_id: RequestId,
    request: Request,
) -> Response {
    answer(&sts, peer, &request_id, request).await
}

/// The token endpoint.
pub(super) async fn answer<B>(
    sts: &Sts,
    peer: Peer,
    request_id: &RequestId,
    request: http::Request<B>,
) -> Response
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let origin = origin(sts, peer, request_id, request.headers());
    let nonce = Nonce::for_answer(sts, request.headers());
    let outcome = token(sts, &origin, peer, request, Naming::InForm).await;
    let response = match &outcome {
        Ok(answer) => issued(sts, answer),
        Err(Refused::Exchange(refusal)) => {
            note(sts, &origin, refusal);
            refused(refusal, &origin.request_id)
        }
        Err(Refused::Client(problem)) => problem.respond(&origin.request_id),
    };
    nonce.put(response)
}

/// The token endpoint of one zone, as its metadata names it: the same exchange, standard client authentication and error
/// codes.
pub(super) async fn exchange_in_zone(
    State(sts): State<Arc<Sts>>,
    Path(zone): Path<String>,
    peer: Peer,
    request_id: RequestId,
    request: Request,
) -> Response {
    let origin = origin(&sts, peer, &request_id, request.headers());
    let nonce = Nonce::for_answer(&sts, request.headers());
    let outcome = token(&sts, &origin, peer, request, Naming::Standard { zone: &zone }).await;
    let response = match &outcome {
        Ok(answer) => issued(&sts, answer),
        Err(Refused::Exchange(refusal)) => {
            note(&sts, &origin, refusal);
            match refusal {
                // What a client needs to wait for the approval and to present it is the same everywhere.
                Refusal::Hold(_) => refused(refusal, &origin.request_id),
                refusal => Problem::from(refusal).respond(&origin.request_id),
            }
        }
        Err(Refused::Client(problem)) => problem.respond(&origin.request_id),
    };
    nonce.put(response)
}

/// The nonce for the next proof (RFC 9449 section 8.2): given to whoever sends proofs, where proofs have to answer one.
struct Nonce(Option<HeaderValue>);

impl Nonce {
    fn for_answer(sts: &Sts, headers: &HeaderMap) -> Self {
        if !headers.contains_key(PROOF_HEADER) {
            return Self(None);
        }
        let nonce = sts.proof_nonces.give(UnixSeconds(sts.clock.unix_seconds()));
        Self(HeaderValue::try_from(nonce).ok())
    }

    fn put(self, mut response: Response) -> Response {
        if let Some(nonce) = self.0 {
            response
                .headers_mut()
                .insert(http::HeaderName::from_static(NONCE_HEADER), nonce);
        }
        response
    }
}

/// How a request names its zone and its client.
#[derive(Debug, Clone, Copy)]
enum Naming<'z> {
    /// By fields of the form.
    InForm,
    /// The zone by the address, the client as RFC 6749 section 2.3.1 says.
    Standard { zone: &'z str },
}

/// What there is to answer.
struct Issued {
    answer: TokenResponse,
    /// The signature of the call, when a MAC is to cover it and the answer.
    sealed: Option<String>,
}

/// Why there is no token.
#[derive(Debug)]
enum Refused {
    Exchange(Refusal),
    /// The client named itself in a way that cannot be read.
    Client(Problem),
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::Exchange(refusal)
    }
}

fn origin(sts: &Sts, peer: Peer, request_id: &RequestId, headers: &HeaderMap) -> Origin {
    Origin {
        request_id: request_id.as_str().to_owned(),
        source: source(peer),
        wait: wait(sts, told(headers)),
        arrived_at: Instant::now(),
    }
}

/// Where a request comes from; the address of this machine over a Unix socket.
pub(super) fn source(peer: Peer) -> IpAddr {
    peer.ip().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

pub(super) fn note(sts: &Sts, origin: &Origin, refusal: &Refusal) {
    sts.metrics.refused(refusal);
    tracing::info!(
        request.id = origin.request_id,
        refusal = refusal.label(),
        "refused a token exchange"
    );
}

/// How long the request may wait for a provider: as the settings say, and less when the caller waits less. What is left
/// of the caller's time is for everything else.
pub(super) fn wait(sts: &Sts, told: Option<Duration>) -> Duration {
    const RESERVE: Duration = Duration::from_millis(250);
    let wait = sts.settings.upstream_credential_wait;
    told.map_or(wait, |told| wait.min(told.saturating_sub(RESERVE)))
}

/// How long the caller says it waits.
pub(super) fn told(headers: &HeaderMap) -> Option<Duration> {
    let told = headers.get(TIMEOUT_MS).and_then(|value| value.to_str().ok());
    told.and_then(|text| text.parse().ok()).map(Duration::from_millis)
}

/// Any method but POST.
pub(super) async fn wrong_method(State(sts): State<Arc<Sts>>, request_id: RequestId) -> Response {
    sts.metrics.refused(&Refusal::Method);
    let mut response = refused(&Refusal::Method, request_id.as_str());
    response
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static("POST"));
    response
}

async fn token<B>(
    sts: &Sts,
    origin: &Origin,
    peer: Peer,
    request: http::Request<B>,
    naming: Naming<'_>,
) -> Result<Issued, Refused>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let (parts, body) = request.into_parts();
    check_head(&parts)?;
    let body = read_form_body(body).await?;
    let form = Arc::new(request::parse_form(&body, &request::REPEATABLE)?);
    let ttl_seconds = request::check_supported(&form)?;
    let via = authenticate_gateway(sts, origin, &parts, &body, &form);
    let mut request = ExchangeRequest::read(&form, ttl_seconds);
    if let Ok(request) = &mut request {
        let address = || format!("{}{}", sts.issuer.trim_end_matches('/'), parts.uri.path());
        request.sender.proof = PresentedProof::of(&parts.headers, address);
        request.sender.certificate =
            PresentedCertificate::of(&parts.headers, peer.ip(), &sts.settings.certificate_proxies);
    }
    if let (Naming::Standard { zone }, Ok(request)) = (naming, &mut request) {
        let client = client_name(&parts.headers, &form).map_err(Refused::Client)?;
        zone.clone_into(&mut request.zone_id);
        request.application_id = client.application_id;
        request.client_secret = client.secret;
        request.client_assertion = client.assertion;
    }
    let (via, mut request) = match (via, request) {
        (Ok(via), Ok(request)) => (via, request),
        (Err(refusal), Ok(request)) => {
            evidence::record_refusal(sts, origin, &request, &Known::default(), &refusal).await;
            return Err(refusal.into());
        }
        (Err(refusal), Err(_)) | (Ok(_), Err(refusal)) => return Err(refusal.into()),
    };
    if via == Via::Gateway {
        request.sealed = gateway::asked_mac(sts, &parts.headers).map(str::to_owned);
    }
    let _timer = sts.metrics.exchange_timer(via, &request);
    let answer = guarded(sts, origin, &request, via).await?;
    Ok(Issued {
        answer,
        sealed: request.sealed,
    })
}

/// The body of a form, within the limit of all forms.
///
/// # Errors
/// [`Refusal::BodyTooLarge`] and [`Refusal::MalformedBody`].
pub(super) async fn read_form_body<B>(body: B) -> Result<Bytes, Refusal>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    read_body(body, BODY_BYTES_MAX)
        .await
        .map_err(|error| match error {
            BodyError::TooLarge(_) => Refusal::BodyTooLarge,
            BodyError::Broken(_) => Refusal::MalformedBody,
        })
}

/// URL and media type, before the body is read.
///
/// # Errors
/// [`Refusal::QueryParameters`] and [`Refusal::ContentType`].
pub(super) fn check_head(parts: &Parts) -> Result<(), Refusal> {
    if parts.uri.query().is_some() {
        return Err(Refusal::QueryParameters);
    }
    let content_type = parts
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let media_type = content_type
        .and_then(|text| text.split(';').next())
        .map(str::trim);
    if media_type.is_some_and(|media_type| media_type.eq_ignore_ascii_case(FORM_MEDIA_TYPE)) {
        Ok(())
    } else {
        Err(Refusal::ContentType)
    }
}

fn authenticate_gateway(
    sts: &Sts,
    origin: &Origin,
    parts: &Parts,
    body: &Bytes,
    form: &Form,
) -> Result<Via, Refusal> {
    if !gateway::claims_to_be(&parts.headers) {
        return Ok(Via::Client);
    }
    // By this name both services record the request; a header that is no name was replaced on arrival.
    let verified = if form.get(field::GATEWAY_REQUEST_ID) == Some(origin.request_id.as_str()) {
        gateway::verify(sts, &parts.headers, parts.method.as_str(), parts.uri.path(), body)
    } else {
        Err(NotOurGateway::RequestId)
    };
    verified.map(|()| Via::Gateway).map_err(|reason| {
        tracing::warn!(%reason, "refused an exchange that claims to come from a gateway");
        Refusal::GatewaySignature
    })
}

/// The exchange between the lock-out and the evidence.
pub(super) async fn guarded(
    sts: &Sts,
    origin: &Origin,
    request: &ExchangeRequest,
    via: Via,
) -> Result<TokenResponse, Refusal> {
    let suspect = (via == Via::Client).then(|| Suspect::new(&request.application_id, origin.source));
    let is_locked_out =
        suspect.is_some_and(|suspect| sts.lockout.is_blocked(suspect, sts.clock.unix_micros()));
    let (outcome, known) = if is_locked_out {
        (Err(Refusal::LockedOut), Known::default())
    } else {
        up_to_date(sts, origin, request, via).await
    };
    let mut refusal = match outcome {
        Ok(answer) => return Ok(answer),
        Err(refusal) => refusal,
    };
    if refusal == Refusal::Client
        && suspect.is_some_and(|suspect| sts.lockout.count_failure(suspect, sts.clock.unix_micros()))
    {
        refusal = Refusal::LockedOut;
    }
    evidence::record_refusal(sts, origin, request, &known, &refusal).await;
    Err(refusal)
}

/// Refuses on the present configuration only: when memory turns out to be behind the database, asks once more.
async fn up_to_date(
    sts: &Sts,
    origin: &Origin,
    request: &ExchangeRequest,
    via: Via,
) -> (Result<TokenResponse, Refusal>, Known) {
    let zone: Option<ZoneId> = request.zone_id.as_str().try_into().ok();
    let seen = zone.as_ref().and_then(|zone| sts.zones.served_version(zone));
    let mut known = Known::default();
    let outcome = crate::exchange::exchange(sts, origin, request, via, &mut known).await;
    let zone = match (&outcome, zone) {
        (Err(refusal), Some(zone)) if refusal.may_be_outdated() => zone,
        _ => return (outcome, known),
    };
    if !Box::pin(sts.zones.catch_up(&zone, seen)).await {
        return (outcome, known);
    }
    let mut known_now = Known::default();
    let now = Box::pin(crate::exchange::exchange(
        sts,
        origin,
        request,
        via,
        &mut known_now,
    ))
    .await;
    // The first look may have ended the account, which moves the zone: the second finds none, and could not say why.
    if let (Err(Refusal::CredentialNotRenewable), Err(Refusal::CredentialNotConnected)) = (&outcome, &now) {
        return (outcome, known);
    }
    (now, known_now)
}

fn issued(sts: &Sts, issued: &Issued) -> Response {
    let content_type = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    let Ok(body) = issued.answer.to_json() else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let macs = sts.macs.as_ref().zip(issued.sealed.as_ref());
    let mac = macs.map(|(macs, call)| [(answer_mac::HEADER, macs.answer.seal(call, &body))]);
    let response = (StatusCode::OK, content_type, NO_STORE, body);
    match mac {
        Some(mac) => (mac, response).into_response(),
        None => response.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use caracal_wire::sts::TOKEN_EXCHANGE_GRANT;

    use super::*;
    use crate::rig::{Rig, seed};

    fn wrong(application: &str) -> [(&str, &str); 4] {
        [
            ("grant_type", TOKEN_EXCHANGE_GRANT),
            ("zone_id", "z1"),
            ("application_id", application),
            ("client_secret", "wrong"),
        ]
    }

    #[tokio::test]
    async fn one_wrong_secret_too_many_locks_the_source_out() {
        let rig = Rig::new().await;
        let suspect = Suspect::new("app-1", IpAddr::V4(Ipv4Addr::LOCALHOST));
        for _ in 0..59 {
            assert!(
                !rig.sts
                    .lockout
                    .count_failure(suspect, rig.sts.clock.unix_micros())
            );
        }
        assert_eq!(rig.send(&wrong("app-1"), &[]).await.0, StatusCode::UNAUTHORIZED);
        let (status, body) = rig.send(&wrong("app-1"), &[]).await;
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
        assert!(String::from_utf8_lossy(&body).contains("authentication rate limit exceeded"));
        let mut right = wrong("app-1");
        right[3].1 = seed::SECRET;
        assert_eq!(
            rig.send(&right, &[]).await.0,
            StatusCode::TOO_MANY_REQUESTS,
            "the right secret does not help this source"
        );
        assert_eq!(
            rig.send(&wrong("app-2"), &[]).await.0,
            StatusCode::UNAUTHORIZED,
            "others are not concerned"
        );
    }
}
