//! Is this request from one of our gateways?

use axum::extract::Request;
use axum::response::Response;
use caracal_chassis::server::read_body;
use caracal_wire::answer_mac;
use caracal_wire::error::ErrorCode;
use caracal_wire::gateway_signature::{self, NONCE, Presented, SIGNATURE, SignatureError, TIMESTAMP};
use http::request::Parts;
use http::{HeaderMap, StatusCode};

use super::answer::error;
use crate::limit::nonce::NonceRefused;
use crate::state::Sts;

/// Why a signed request is not believed. The sender is not told which.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotOurGateway {
    #[error("no gateway key is configured")]
    NoKey,
    #[error("gateway_request_id is not the X-Request-Id header")]
    RequestId,
    #[error(transparent)]
    Signature(#[from] SignatureError),
    #[error(transparent)]
    Nonce(#[from] NonceRefused),
}

/// Whether any of the three headers is there, so that the request claims to come from a gateway.
pub(super) fn claims_to_be(headers: &HeaderMap) -> bool {
    [TIMESTAMP, NONCE, SIGNATURE]
        .iter()
        .any(|name| !text(headers, name).is_empty())
}

/// The head of a request without a form, whose target is signed with its query.
///
/// # Errors
/// The answer to whoever is none of our gateways and asks for `what`.
pub(super) async fn signed(sts: &Sts, request: Request, what: &str) -> Result<Parts, Response> {
    let (parts, body) = request.into_parts();
    let body = read_body(body, 1_024).await.unwrap_or_default();
    let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
    verify(sts, &parts.headers, parts.method.as_str(), target, &body).map_err(|reason| {
        tracing::warn!(%reason, what, "refused a request that is not signed by a gateway");
        error(
            StatusCode::UNAUTHORIZED,
            ErrorCode::AccessDenied,
            "invalid gateway signature",
            None,
        )
    })?;
    Ok(parts)
}

/// Verifies the signature over exactly these bytes and spends its nonce. Cost: one SHA-256 and one HMAC.
///
/// # Errors
/// [`NotOurGateway`].
pub(super) fn verify(
    sts: &Sts,
    headers: &HeaderMap,
    method: &str,
    path: &str,
    body: &[u8],
) -> Result<(), NotOurGateway> {
    let key = sts.gateway_key.as_ref().ok_or(NotOurGateway::NoKey)?;
    let presented = Presented {
        timestamp: text(headers, TIMESTAMP),
        nonce: text(headers, NONCE),
        signature: text(headers, SIGNATURE),
    };
    let now = sts.clock.unix_seconds();
    gateway_signature::verify(key.expose(), &presented, method, path, body, now)?;
    let signed_at = presented.timestamp.parse().or(Err(SignatureError::Malformed))?;
    Ok(sts.nonces.spend(presented.nonce, signed_at, now)?)
}

/// The signature of a proven gateway's call, when it asks for a MAC over it and the answer with the key that makes it. One
/// with another key, as while the key is replaced, gets a signature and is counted.
pub(super) fn asked_mac<'h>(sts: &Sts, headers: &'h HeaderMap) -> Option<&'h str> {
    let macs = sts.macs.as_ref()?;
    let question = text(headers, answer_mac::HEADER);
    if question.is_empty() {
        return None;
    }
    let signature = text(headers, SIGNATURE);
    if macs.answer.is_question(signature, question) {
        return Some(signature);
    }
    if sts.metrics.mac_questions_unproven.get() == 0 {
        tracing::warn!(
            "a gateway has another MANDATE_MAC_KEY: answers to it are signed; further ones are counted only"
        );
    }
    sts.metrics.mac_questions_unproven.inc();
    None
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}
