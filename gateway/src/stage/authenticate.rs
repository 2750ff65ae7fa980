//! Stage 2: who asks? One decode of the bearer and one signature check; keys from memory.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use caracal_bus::revocation::Held;
use caracal_model::{Anchors, ApplicationId, UnixSeconds, ZoneId};
use caracal_token::sender::{Scheme, Shown};
use caracal_token::{Claims, Proof, Rules, UnverifiedToken, Use, VerifyError, admit, verify as verify_token};
use http::header::AUTHORIZATION;
use serde::Deserialize;

use super::possession;
use super::revocation::Fresh;
use super::route::Straight;
use crate::Gateway;
use crate::context::Inbound;
use crate::denial::Denial;
use crate::snapshot::keys::KeysError;

/// A mandate must be good for this much longer, so that it does not expire on the way.
const PREFLIGHT_S: i64 = 35;

/// Clock difference granted to issue and expiry times, in seconds (docs/contract/mandate.md).
pub(crate) const LEEWAY_S: i64 = 60;

/// A bearer in the shape of a mandate, with time left. Nothing of it is proven.
#[derive(Debug)]
pub(crate) struct Presented<'a> {
    scheme: Scheme,
    bearer: &'a str,
    token: Result<UnverifiedToken<'a>, ClaimFault>,
    fresh: Fresh,
}

/// A claim without which no keys can be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClaimFault {
    Zone,
    Client,
}

/// Looks at the bearer without trusting it.
///
/// # Errors
/// [`Denial::MissingBearer`], [`Denial::BearerTooLarge`], [`Denial::MalformedBearer`], [`Denial::Expiring`].
pub(crate) fn present<'a>(
    gateway: &Gateway,
    fresh: Fresh,
    request: &Inbound<'a>,
) -> Result<Presented<'a>, Denial> {
    let (scheme, bearer) = bearer(request).ok_or(Denial::MissingBearer)?;
    if bearer.len() > gateway.config.bearer_bytes_max {
        return Err(Denial::BearerTooLarge);
    }
    let (token, exp) = match UnverifiedToken::parse(bearer) {
        Ok(token) => {
            let exp = token.unverified_claims().exp;
            (Ok(token), exp)
        }
        Err(_) => diagnose(bearer).map(|(fault, exp)| (Err(fault), exp))?,
    };
    if exp.saturating_sub(gateway.clock.unix_seconds()) < PREFLIGHT_S {
        return Err(Denial::Expiring);
    }
    Ok(Presented {
        scheme,
        bearer,
        token,
        fresh,
    })
}

/// The token of `Authorization: Bearer` or `DPoP`. Two such headers are none: whoever reads the other one would see
/// another caller.
fn bearer<'a>(request: &Inbound<'a>) -> Option<(Scheme, &'a str)> {
    let mut values = request.headers().get_all(AUTHORIZATION).iter();
    let value = values.next().filter(|_value| values.next().is_none())?;
    let (scheme, token) = value.to_str().ok()?.trim().split_once(' ')?;
    let token = token.trim();
    let scheme = Scheme::parse(scheme)?;
    (!token.is_empty()).then_some((scheme, token))
}

/// The claims named in refusals of their own.
#[derive(Deserialize)]
struct Skeleton {
    exp: i64,
    #[serde(default)]
    zone_id: serde_json::Value,
    #[serde(default)]
    client_id: serde_json::Value,
}

/// Says why a bearer that is no mandate is none: not a token at all, or a token whose zone or client is missing.
fn diagnose(bearer: &str) -> Result<(ClaimFault, i64), Denial> {
    let mut segments = bearer.split('.');
    let (Some(_), Some(payload), Some(_), None) =
        (segments.next(), segments.next(), segments.next(), segments.next())
    else {
        return Err(Denial::MalformedBearer);
    };
    let payload = URL_SAFE_NO_PAD
        .decode(payload)
        .map_err(|_error| Denial::MalformedBearer)?;
    let skeleton: Skeleton = serde_json::from_slice(&payload).map_err(|_error| Denial::MalformedBearer)?;
    if skeleton.exp == 0 {
        return Err(Denial::MalformedBearer);
    }
    if skeleton
        .zone_id
        .as_str()
        .is_none_or(|text| ZoneId::try_from(text).is_err())
    {
        return Ok((ClaimFault::Zone, skeleton.exp));
    }
    if skeleton
        .client_id
        .as_str()
        .is_none_or(|text| ApplicationId::try_from(text).is_err())
    {
        return Ok((ClaimFault::Client, skeleton.exp));
    }
    Err(Denial::MalformedBearer)
}

/// A bearer that says which zone and client it is of.
#[derive(Debug)]
pub(crate) struct Claimed<'a> {
    scheme: Scheme,
    bearer: &'a str,
    token: UnverifiedToken<'a>,
    fresh: Fresh,
}

impl<'a> Presented<'a> {
    /// The text of the bearer: for a fingerprint, never for a log.
    pub(crate) fn bearer(&self) -> &'a str {
        self.bearer
    }

    /// Insists on zone and client.
    ///
    /// # Errors
    /// [`Denial::MissingZone`], [`Denial::MissingClient`].
    pub(crate) fn identified(self) -> Result<Claimed<'a>, Denial> {
        match self.token {
            Ok(token) => Ok(Claimed {
                scheme: self.scheme,
                bearer: self.bearer,
                token,
                fresh: self.fresh,
            }),
            Err(ClaimFault::Zone) => Err(Denial::MissingZone),
            Err(ClaimFault::Client) => Err(Denial::MissingClient),
        }
    }
}

/// Proof that a mandate is genuine, unexpired, meant for this gateway, and sent by whoever holds the keys it is bound to.
#[derive(Debug)]
pub(crate) struct Caller {
    bearer: Box<str>,
    claims: Claims,
    proof: Proof,
    shown: Option<Box<Shown>>,
    anchors: Anchors,
    held: Arc<Held>,
    fresh: Fresh,
}

impl Caller {
    /// The proven claims.
    pub(crate) fn claims(&self) -> &Claims {
        &self.claims
    }

    /// What the mandate stands on.
    pub(crate) fn anchors(&self) -> &Anchors {
        &self.anchors
    }

    /// Whether any of that is revoked.
    pub(crate) fn held(&self) -> &Arc<Held> {
        &self.held
    }

    /// The mandate itself: for the exchange, and to keep it from the upstream.
    pub(crate) fn bearer(&self) -> &str {
        &self.bearer
    }

    /// The keys its sender has shown, if it is bound to any.
    pub(crate) fn shown(&self) -> Option<&Shown> {
        self.shown.as_deref()
    }

    /// Whether its signature is unproven, because a MAC stood in for it.
    pub(crate) fn is_proven_by_mac(&self) -> bool {
        self.proof == Proof::Mac
    }

    /// Whether the mandate may be used more than once.
    pub(crate) fn is_reusable(&self) -> bool {
        self.claims.r#use == Use::Session
    }

    /// The proof that revocations are known.
    pub(super) fn fresh(&self) -> &Fresh {
        &self.fresh
    }
}

/// Proves the mandate. One HMAC, about a microsecond, or one ES256 check, about 60, where there is no MAC; one more check for one that is bound to a key; one call to the
/// STS when the zone's keys are unknown.
///
/// # Errors
/// [`Denial::Signature`], [`Denial::KeysUnavailable`], [`Denial::WrongSubject`], [`Denial::Expiring`]; for what it is bound
/// to [`Denial::Sender`].
pub(crate) async fn verify(
    gateway: &Gateway,
    route: &Straight,
    request: &Inbound<'_>,
    claimed: Claimed<'_>,
) -> Result<Caller, Denial> {
    let Claimed {
        scheme,
        bearer,
        token,
        fresh,
    } = claimed;
    let zone = token.unverified_claims().zone_id.clone();
    let keys = gateway
        .keys
        .of(&zone, token.unverified_kid())
        .await
        .map_err(|error| match error {
            KeysError::UnknownZone | KeysError::UnknownKey => Denial::Signature,
            KeysError::Unavailable => Denial::KeysUnavailable,
        })?;
    let rules = rules(gateway);
    let now = UnixSeconds(gateway.clock.unix_seconds());
    let proven = match &gateway.mandate_mac {
        Some(mac) => admit(token, mac, &keys, &rules, now),
        None => verify_token(token, &keys, &rules, now).map(|claims| (claims, Proof::Signature)),
    };
    let (claims, proof) = proven.map_err(|error| refusal(gateway, error))?;
    gateway.metrics.proven_by(proof);
    if route.route().zone().is_some_and(|bound| *bound != claims.zone_id) {
        return Err(Denial::WrongSubject("the route is bound to another zone"));
    }
    let shown = possession::check(gateway, request, scheme, bearer, &claims)?;
    let anchors = claims.anchors();
    let held = Arc::new(gateway.revocations.set().hold(&anchors));
    Ok(Caller {
        bearer: bearer.into(),
        claims,
        proof,
        shown,
        anchors,
        held,
        fresh,
    })
}

/// What is known of the signature of a caller's mandate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signature {
    /// It is that of the zone's key over this mandate, which is good now.
    Right,
    /// It is not that of the zone's key over this mandate.
    Wrong,
    /// Its key is not known any more, or the mandate has expired meanwhile.
    Unknown,
}

/// Whether the signature of a caller's mandate is right, too, where a MAC stood in for it. One ES256 check; none for a caller
/// that was proven by it.
pub(super) async fn signature(gateway: &Gateway, caller: &Caller) -> Signature {
    if !caller.is_proven_by_mac() {
        return Signature::Right;
    }
    let Ok(token) = UnverifiedToken::parse(caller.bearer()) else {
        return Signature::Unknown;
    };
    let zone = &caller.claims().zone_id;
    let Ok(keys) = gateway.keys.of(zone, token.unverified_kid()).await else {
        return Signature::Unknown;
    };
    let now = UnixSeconds(gateway.clock.unix_seconds());
    match verify_token(token, &keys, &rules(gateway), now) {
        Ok(_claims) => Signature::Right,
        Err(VerifyError::Signature) => Signature::Wrong,
        Err(_) => Signature::Unknown,
    }
}

/// What is asked of every mandate.
fn rules(gateway: &Gateway) -> Rules<'_> {
    Rules {
        issuer: &gateway.config.issuer_url,
        audience: &gateway.config.issuer_url,
        leeway_seconds: LEEWAY_S,
        uses: &[Use::Gateway, Use::Session],
    }
}

fn refusal(gateway: &Gateway, error: VerifyError) -> Denial {
    match error {
        VerifyError::UnknownKey | VerifyError::Signature => Denial::Signature,
        VerifyError::Expired => Denial::Expiring,
        VerifyError::Issuer => Denial::WrongSubject("issuer"),
        VerifyError::Audience => Denial::WrongSubject("audience"),
        VerifyError::Use => Denial::WrongSubject("use"),
        VerifyError::NotYetValid => {
            gateway.skew.suspect();
            Denial::WrongSubject("issued in the future")
        }
    }
}
