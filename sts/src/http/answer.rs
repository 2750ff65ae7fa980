//! Refusals as HTTP answers.

use axum::response::{IntoResponse, Response};
use caracal_wire::error::{ErrorBody, ErrorCode};
use http::{HeaderValue, StatusCode, header};

use crate::exchange::approval::hold::Hold;
use crate::exchange::refusal::Refusal;

/// What tokens and refusals say to caches (RFC 6749 section 5.1).
pub(super) const NO_STORE: [(header::HeaderName, HeaderValue); 2] = [
    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (header::PRAGMA, HeaderValue::from_static("no-cache")),
];

/// The answer to a refused exchange.
pub(super) fn refused(refusal: &Refusal, request_id: &str) -> Response {
    if let Refusal::Hold(hold) = refusal {
        return held(hold, Some(request_id));
    }
    let answer = refusal.answer();
    let mut response = error(answer.status, answer.code, &answer.description, Some(request_id));
    if let Some(seconds) = refusal.retry_after_seconds() {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The answer to a request that waits for a human (docs/contract/approvals.md).
pub(super) fn held(hold: &Hold, request_id: Option<&str>) -> Response {
    let challenge = HeaderValue::from_static("Bearer error=\"interaction_required\"");
    let headers = [(header::WWW_AUTHENTICATE, challenge)];
    let body = axum::Json(hold.body(request_id));
    (StatusCode::UNAUTHORIZED, headers, NO_STORE, body).into_response()
}

/// An error in the common envelope.
pub(super) fn error(
    status: StatusCode,
    code: ErrorCode,
    description: &str,
    request_id: Option<&str>,
) -> Response {
    let body = ErrorBody::new(code, description);
    let body = match request_id {
        Some(id) => body.with_request_id(id),
        None => body,
    };
    let content_type = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    (status, content_type, NO_STORE, body.to_json()).into_response()
}
