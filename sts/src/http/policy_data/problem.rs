//! Refusals in the shape of OPA's REST API: `{"code", "message"}`.

use std::borrow::Cow;

use axum::response::{IntoResponse, Response};
use caracal_wire::error::ErrorCode;
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use crate::exchange::refusal::Refusal;
use crate::http::answer::NO_STORE;
use crate::limit::evaluation::NotEvaluated;

/// Why a question has no answer.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    code: &'static str,
    message: Cow<'static, str>,
    retry_after_seconds: Option<u32>,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            retry_after_seconds: None,
        }
    }

    /// The question is not what it should be.
    pub(super) fn invalid(message: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_parameter", message)
    }

    /// The body is too long.
    pub(super) fn too_large() -> Self {
        let message = "request body too large";
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_parameter", message)
    }

    /// Another method than POST.
    pub(super) fn method() -> Self {
        let message = "POST is required";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
    }

    /// Questions are not answered here.
    pub(super) fn off() -> Self {
        let message = "questions about policies are not answered here";
        Self::new(StatusCode::NOT_FOUND, "resource_not_found", message)
    }

    /// Nobody says who asks, or not in a way that can be read.
    pub(super) fn unauthorized() -> Self {
        let message = "client credentials by HTTP Basic are required";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    /// The caller has asked too often.
    pub(super) fn too_many(retry_after_seconds: u32) -> Self {
        Self {
            retry_after_seconds: Some(retry_after_seconds),
            ..Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_requests",
                "rate limit exceeded",
            )
        }
    }

    /// The policy gives no answer: it fails, or takes too much.
    pub(super) fn not_evaluated() -> Self {
        let message = "error(s) occurred while evaluating query";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
    }

    /// Something that should never happen did.
    pub(super) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal_error",
            "internal error",
        )
    }

    /// Something this service needs does not answer now.
    pub(super) fn unavailable() -> Self {
        Self {
            retry_after_seconds: Some(1),
            ..Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                "temporarily unavailable",
            )
        }
    }

    /// How the question counts.
    pub(super) fn outcome(&self) -> &'static str {
        if self.status.is_server_error() {
            "failed"
        } else {
            "refused"
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = json!({ "code": self.code, "message": self.message });
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

/// Refusals of clients: the sentence stays.
impl From<&Refusal> for Problem {
    fn from(refusal: &Refusal) -> Self {
        let answer = refusal.answer();
        let code = match answer.status {
            StatusCode::UNAUTHORIZED => "unauthorized",
            StatusCode::TOO_MANY_REQUESTS => "too_many_requests",
            StatusCode::SERVICE_UNAVAILABLE => "unavailable",
            status if status.is_server_error() => "internal_error",
            _ if answer.code == ErrorCode::ZoneInvalid => "unauthorized",
            _ => "invalid_parameter",
        };
        Self {
            retry_after_seconds: refusal.retry_after_seconds(),
            ..Self::new(answer.status, code, answer.description)
        }
    }
}

impl From<NotEvaluated> for Problem {
    fn from(reason: NotEvaluated) -> Self {
        match reason {
            NotEvaluated::Busy | NotEvaluated::Suspended => Self::unavailable(),
            NotEvaluated::Overrun | NotEvaluated::Lost => Self::not_evaluated(),
        }
    }
}
