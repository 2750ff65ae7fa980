//! Stage 4: may this caller make exactly this call, and with which credential? One call to the STS, and one HMAC over its
//! answer, or one signature check of the mandate in it.

mod known;

use std::fmt;
use std::sync::Arc;

use caracal_chassis::Secret;
use caracal_model::UnixSeconds;
use caracal_token::sender::Shown;
use caracal_token::{Possession, Rules, Thumbprint, UnverifiedToken, Use, VerifyError, verify};
use caracal_wire::form;
use caracal_wire::gateway_signature::MAX_SKEW_SECONDS;
use caracal_wire::sts::{ACCESS_TOKEN_TYPE, TOKEN_EXCHANGE_GRANT, TokenResponse, Upstream, field};
use serde::Deserialize;
use url::Url;

use super::authenticate::LEEWAY_S;
use super::operation;
use super::revocation::Standing;
use super::route::{Route, Straight};
use crate::Gateway;
use crate::context::Observation;
use crate::denial::{Denial, Relayed};
use crate::snapshot::keys::KeysError;
use crate::snapshot::operations::declared_path;
use crate::sts_client::{StsError, TokenAnswer};

use self::known::Granted;
pub(crate) use self::known::KnownAnswers;

/// Longest description taken over from the STS.
const DESCRIPTION_CHARS_MAX: usize = 512;

/// Proof that the STS grants this call, by the MAC of its answer or the signature of its mandate; and where and with what
/// to go on.
pub(crate) struct Credential {
    mandate: Secret,
    granted: Arc<Granted>,
}

impl Credential {
    /// The resource mandate; empty when the upstream does not see it.
    pub(crate) fn mandate(&self) -> &Secret {
        &self.mandate
    }

    /// What the STS says about the upstream.
    pub(crate) fn upstream(&self) -> &Upstream {
        &self.granted.upstream
    }

    /// Where the upstream is.
    pub(crate) fn url(&self) -> &Url {
        &self.granted.url
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Credential")
            .field("granted", &self.granted)
            .finish_non_exhaustive()
    }
}

/// Exchanges the presented mandate for authority to make this one call.
///
/// # Errors
/// Whatever the STS refused with, or [`Denial::StsCircuitOpen`], [`Denial::StsTimeout`], [`Denial::StsUnreachable`],
/// [`Denial::StsInvalid`], [`Denial::ClockSkew`], [`Denial::NoUpstream`].
pub(crate) async fn redeem(
    gateway: &Gateway,
    route: &Straight,
    standing: &Standing,
    seen: &Observation,
) -> Result<Credential, Denial> {
    let route = route.route();
    let form = request_form(route, standing, seen);
    let answer = gateway
        .sts
        .exchange(&form, seen.request_id.as_str())
        .await
        .map_err(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "the exchange failed");
            match error {
                StsError::CircuitOpen => Denial::StsCircuitOpen,
                StsError::Timeout => Denial::StsTimeout,
                StsError::Unreachable(_) => Denial::StsUnreachable,
                StsError::Status(_) | StsError::Unreadable(_) => Denial::StsInvalid("not an answer"),
            }
        })?;
    if answer.is_by_channel {
        gateway.metrics.channel_answers.inc();
    }
    if is_granted(&answer)
        && answer.is_sealed
        && let Some(granted) = gateway.answers.get(&answer.body, route.resource())
    {
        note_sealed(gateway);
        let mandate = Secret::new(String::new());
        return Ok(Credential { mandate, granted });
    }
    let mut response =
        granted(&answer).inspect_err(|denial| operation::learn(gateway, standing.caller(), denial))?;
    if answer.is_sealed {
        note_sealed(gateway);
    } else {
        // Large, and not needed where MACs prove answers.
        Box::pin(prove(gateway, route, standing, &response.access_token)).await?;
    }
    let upstream = response
        .upstreams
        .remove(route.resource())
        .filter(|upstream| !upstream.url.is_empty());
    let upstream = upstream.ok_or(Denial::NoUpstream)?;
    if upstream.sees_mandate() && response.access_token.is_empty() {
        return Err(Denial::StsInvalid("no token"));
    }
    let url = Url::parse(&upstream.url).map_err(|_error| Denial::UpstreamBlocked)?;
    let granted = Arc::new(Granted {
        resource: route.resource().into(),
        upstream,
        url,
    });
    if answer.is_sealed && response.access_token.is_empty() {
        gateway.answers.remember(&answer.body, &granted);
    }
    Ok(Credential {
        mandate: Secret::new(response.access_token),
        granted,
    })
}

/// The answer's MAC proves that it answers our call, which named zone, client and resource.
fn note_sealed(gateway: &Gateway) {
    gateway.metrics.sealed_answers.inc();
    // It need not show a time. But the STS seals only what it takes, and takes no call whose time is not its own, by HTTP or on a channel.
    const { assert!(MAX_SKEW_SECONDS <= LEEWAY_S) };
    gateway.skew.agree();
}

fn is_granted(answer: &TokenAnswer) -> bool {
    answer.status == 200 && answer.is_json
}

fn request_form(route: &Route, standing: &Standing, seen: &Observation) -> String {
    let claims = standing.caller().claims();
    let path = declared_path(route.path());
    let shown = standing.caller().shown().map(Shown::keys);
    let shown = |key: fn(&Possession) -> Option<Thumbprint>| shown.and_then(key).map(|key| key.to_string());
    let (jkt, x5t) = (shown(|keys| keys.jkt), shown(|keys| keys.x5t_s256));
    let mut fields = vec![
        (field::APPLICATION_ID, claims.client_id.as_str()),
        (field::GATEWAY_REQUEST_ID, seen.request_id.as_str()),
        (field::GRANT_TYPE, TOKEN_EXCHANGE_GRANT),
        (field::REQUEST_METHOD, &seen.method),
        (field::REQUEST_PATH, &path),
        (field::RESOURCE, route.resource()),
        (field::SUBJECT_TOKEN, standing.caller().bearer()),
        (field::SUBJECT_TOKEN_TYPE, ACCESS_TOKEN_TYPE),
        (field::ZONE_ID, claims.zone_id.as_str()),
    ];
    fields.extend(jkt.as_deref().map(|jkt| (field::SENDER_JKT, jkt)));
    fields.extend(x5t.as_deref().map(|x5t| (field::SENDER_X5T, x5t)));
    form::encode(&fields)
}

/// Reads a success, or takes over a refusal.
fn granted(answer: &TokenAnswer) -> Result<TokenResponse, Denial> {
    match answer.status {
        200 if is_granted(answer) => {
            let malformed = Denial::StsInvalid("not a token response");
            let text = std::str::from_utf8(&answer.body).or(Err(malformed.clone()))?;
            let response: TokenResponse = serde_json::from_str(text).or(Err(malformed))?;
            if response.access_token.is_empty() && !answer.is_sealed {
                return Err(Denial::StsInvalid("no token"));
            }
            Ok(response)
        }
        200 => Err(Denial::StsInvalid("not JSON")),
        400..=599 => Err(Denial::StsRefused(Box::new(refused(answer)))),
        _ => Err(Denial::StsInvalid("status")),
    }
}

#[derive(Deserialize)]
struct RefusalBody {
    error: String,
    #[serde(default)]
    error_description: String,
}

fn refused(answer: &TokenAnswer) -> Relayed {
    let status = answer.status;
    let body = serde_json::from_slice(&answer.body)
        .ok()
        .filter(|body: &RefusalBody| !body.error.is_empty());
    let body = body.unwrap_or_else(|| {
        let reason = http::StatusCode::from_u16(status)
            .ok()
            .and_then(|status| status.canonical_reason());
        let error_description = reason.unwrap_or_default().to_owned();
        RefusalBody {
            error: "sts_unavailable".to_owned(),
            error_description,
        }
    });
    let description = body
        .error_description
        .chars()
        .take(DESCRIPTION_CHARS_MAX)
        .collect();
    Relayed {
        status,
        code: body.error,
        description,
        retry_after_s: answer.retry_after_s,
    }
}

/// Checks the token in the answer before anything is done with it: signed by the zone, for this resource and caller,
/// for use at a resource, and valid now.
async fn prove(gateway: &Gateway, route: &Route, standing: &Standing, token: &str) -> Result<(), Denial> {
    let presented = standing.caller().claims();
    let token = UnverifiedToken::parse(token).map_err(|_malformed| Denial::StsInvalid("malformed token"))?;
    let keys = gateway
        .keys
        .of(&presented.zone_id, token.unverified_kid())
        .await
        .map_err(|error| match error {
            KeysError::Unavailable => Denial::KeysUnavailable,
            KeysError::UnknownKey | KeysError::UnknownZone => Denial::StsInvalid("unknown key"),
        })?;
    let rules = Rules {
        issuer: &gateway.config.issuer_url,
        audience: route.resource(),
        leeway_seconds: LEEWAY_S,
        uses: &[Use::Resource],
    };
    let now = UnixSeconds(gateway.clock.unix_seconds());
    let granted = verify(token, &keys, &rules, now).map_err(|error| match error {
        VerifyError::Expired | VerifyError::NotYetValid => {
            gateway.skew.suspect();
            Denial::ClockSkew
        }
        VerifyError::UnknownKey | VerifyError::Signature => Denial::StsInvalid("signature"),
        VerifyError::Issuer => Denial::StsInvalid("issuer"),
        VerifyError::Audience => Denial::StsInvalid("audience"),
        VerifyError::Use => Denial::StsInvalid("use"),
    })?;
    if granted.zone_id != presented.zone_id || granted.client_id != presented.client_id {
        return Err(Denial::StsInvalid("another caller"));
    }
    if !granted.allows_target(route.resource()) {
        return Err(Denial::StsInvalid("target"));
    }
    gateway.skew.agree();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn answer(status: u16, is_json: bool, body: &'static str) -> Denial {
        granted(&TokenAnswer {
            is_sealed: false,
            is_by_channel: false,
            status,
            is_json,
            retry_after_s: (status == 429).then_some(3),
            body: Bytes::from_static(body.as_bytes()),
        })
        .unwrap_err()
    }

    #[test]
    fn refusals_of_the_sts_are_taken_over() {
        let relayed = |status, code: &str, description: &str| {
            Denial::StsRefused(Box::new(Relayed {
                status,
                code: code.into(),
                description: description.into(),
                retry_after_s: (status == 429).then_some(3),
            }))
        };
        let body = r#"{"error":"access_denied","error_description":"policy denied","requestId":"theirs"}"#;
        assert_eq!(
            answer(403, true, body),
            relayed(403, "access_denied", "policy denied")
        );
        assert_eq!(
            answer(500, false, "oops"),
            relayed(500, "sts_unavailable", "Internal Server Error")
        );
        assert_eq!(
            answer(429, true, r#"{"error":""}"#),
            relayed(429, "sts_unavailable", "Too Many Requests")
        );
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for (status, is_json, body) in [
            (200, false, r#"{"access_token":"x"}"#),
            (200, true, "not json"),
            (
                200,
                true,
                r#"{"access_token":"","token_type":"Bearer","expires_in":1,"issued_token_type":"x"}"#,
            ),
            (302, true, "{}"),
            (204, true, ""),
        ] {
            assert!(
                matches!(answer(status, is_json, body), Denial::StsInvalid(_)),
                "{status} {body}"
            );
        }
    }
}
