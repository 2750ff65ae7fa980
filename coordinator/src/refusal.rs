//! Every refusal of the service: its status and its code, as docs/contract/sessions-and-delegations.md lists them.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use caracal_storage::StorageError;
use caracal_token::sender::SenderFault;
use serde_json::json;

/// When a client should try again after a store was away, in seconds.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// Why a request is not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// The caller's fault; the code says which.
    #[error("{code}")]
    Client {
        /// HTTP status.
        status: StatusCode,
        /// Code of the contract.
        code: String,
        /// A safe sentence, where the code needs one.
        detail: Option<String>,
        /// `WWW-Authenticate`, where it says more than the code.
        challenge: Option<&'static str>,
    },
    /// A store is away; trying again may help.
    #[error("a store is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Our fault.
    #[error("internal error")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: &str) -> Self {
        Self::Client {
            status,
            code: code.to_owned(),
            detail: None,
            challenge: None,
        }
    }

    pub(crate) fn bad_request(code: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code)
    }

    pub(crate) fn invalid_body(detail: impl Into<String>) -> Self {
        Self::Client {
            status: StatusCode::BAD_REQUEST,
            code: "invalid_body".to_owned(),
            detail: Some(detail.into()),
            challenge: None,
        }
    }

    pub(crate) fn unauthorized(code: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, code)
    }

    /// The mandate is not taken from who sent it.
    pub(crate) fn not_the_sender(fault: SenderFault) -> Self {
        let code = match fault {
            SenderFault::Proof(_) => "invalid_dpop_proof",
            SenderFault::BoundAsBearer | SenderFault::NotBound | SenderFault::Certificate(_) => {
                "invalid_token"
            }
        };
        Self::Client {
            status: StatusCode::UNAUTHORIZED,
            code: code.to_owned(),
            detail: Some(fault.to_string()),
            challenge: Some(fault.challenge()),
        }
    }

    pub(crate) fn forbidden(code: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, code)
    }

    pub(crate) fn not_found(code: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, code)
    }

    pub(crate) fn conflict(code: &str) -> Self {
        Self::new(StatusCode::CONFLICT, code)
    }

    pub(crate) fn too_many(code: &str) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, code)
    }

    /// The status that will be answered.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Client { status, .. } => *status,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The answer. The cause goes to the log, never to the caller.
    pub(crate) fn into_answer(self, request_id: &str) -> Response {
        let status = self.status();
        let (code, detail, challenge) = match self {
            Self::Client {
                code,
                detail,
                challenge,
                ..
            } => (code, detail, challenge),
            Self::Unavailable(error) => {
                tracing::error!(request.id = request_id, %error, cause = ?error.source(), "a store is unavailable");
                ("service_unavailable".to_owned(), None, None)
            }
            Self::Internal(error) => {
                tracing::error!(request.id = request_id, %error, cause = ?error.source(), "a request failed");
                ("internal_error".to_owned(), None, None)
            }
        };
        let mut body = json!({"error": code, "request_id": request_id, "requestId": request_id});
        if let (Some(detail), Some(members)) = (detail, body.as_object_mut()) {
            members.insert("error_description".to_owned(), detail.into());
        }
        let mut response = (status, Json(body)).into_response();
        if let Some(challenge) = challenge {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, RETRY_AFTER_SECONDS);
        }
        response
    }
}

impl From<StorageError> for Refusal {
    fn from(error: StorageError) -> Self {
        if error.is_unavailable() || error.is_contention() {
            Self::Unavailable(error.into())
        } else {
            Self::Internal(error.into())
        }
    }
}
