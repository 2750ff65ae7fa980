//! Refusals in the words of RFC 6749 section 5.2.

use std::borrow::Cow;

use axum::response::{IntoResponse, Response};
use caracal_wire::error::ErrorCode;
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use crate::exchange::refusal::Refusal;
use crate::http::answer::NO_STORE;

/// Why a standard endpoint refuses.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::http) struct Problem {
    pub(in crate::http) status: StatusCode,
    pub(in crate::http) code: &'static str,
    pub(in crate::http) description: Cow<'static, str>,
    retry_after_seconds: Option<u32>,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, description: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            code,
            description: description.into(),
            retry_after_seconds: None,
        }
    }

    /// The request is not what it should be.
    pub(in crate::http) fn invalid_request(description: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", description)
    }

    /// The token is not the caller's.
    pub(in crate::http) fn not_the_holder() -> Self {
        let description = "the token was issued to another client";
        Self::new(StatusCode::BAD_REQUEST, "invalid_grant", description)
    }

    /// The caller has asked too often.
    pub(in crate::http) fn too_many(retry_after_seconds: u32) -> Self {
        Self {
            retry_after_seconds: Some(retry_after_seconds),
            ..Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "temporarily_unavailable",
                "rate limit exceeded",
            )
        }
    }

    /// Something this service needs does not answer now.
    pub(in crate::http) fn unavailable(description: &'static str) -> Self {
        Self {
            retry_after_seconds: Some(1),
            ..Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "temporarily_unavailable",
                description,
            )
        }
    }

    /// The answer. `request_id` is what support asks for.
    pub(in crate::http) fn respond(&self, request_id: &str) -> Response {
        let body = json!({
            "error": self.code,
            "error_description": self.description,
            "requestId": request_id,
        });
        let mut response = (self.status, NO_STORE, axum::Json(body)).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Basic realm=\"caracal-sts\"");
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

/// The refusals of the exchange in standard words: status and code change, the sentence stays.
impl From<&Refusal> for Problem {
    fn from(refusal: &Refusal) -> Self {
        let answer = refusal.answer();
        let (status, code) = match refusal {
            Refusal::Client | Refusal::ZoneInvalid { .. } => (StatusCode::UNAUTHORIZED, "invalid_client"),
            Refusal::Proof(_) | Refusal::ControlKeyBound | Refusal::ProofNonce => {
                (answer.status, answer.code.as_str())
            }
            Refusal::GrantType => (StatusCode::BAD_REQUEST, "unsupported_grant_type"),
            Refusal::EmptyResource
            | Refusal::NoResource
            | Refusal::PolicyDenied(_)
            | Refusal::ControlResource => (StatusCode::BAD_REQUEST, "invalid_target"),
            Refusal::Reference(_) | Refusal::Lineage(_) | Refusal::DelegationExpired => {
                (StatusCode::BAD_REQUEST, "invalid_grant")
            }
            Refusal::NotThroughGateway => (StatusCode::BAD_REQUEST, "unauthorized_client"),
            // RFC 8693 section 2.2.2: a subject token that is not acceptable makes the request invalid.
            Refusal::SubjectToken | Refusal::SenderKey | Refusal::Federation(_) => {
                (StatusCode::BAD_REQUEST, "invalid_request")
            }
            _ => match (answer.code, answer.status) {
                (_, status) if status == StatusCode::TOO_MANY_REQUESTS => (status, "temporarily_unavailable"),
                (_, status) if status == StatusCode::SERVICE_UNAVAILABLE => {
                    (status, "temporarily_unavailable")
                }
                (_, status) if status.is_server_error() => (status, "server_error"),
                (ErrorCode::AccessDenied, status) => (status, "access_denied"),
                (ErrorCode::InteractionRequired, status) => (status, "interaction_required"),
                (_, status) => (status, "invalid_request"),
            },
        };
        Self {
            retry_after_seconds: refusal.retry_after_seconds(),
            ..Self::new(status, code, answer.description)
        }
    }
}
