//! How do the STS and the gateway say no?
//!
//! One body shape for every refusal (`docs/contract/wire-formats.md`, "Errors"): a code for programs, a sentence for people, the
//! request id for support.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a refused client reads in the member `error`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Authenticated or not, this caller may not have this.
    AccessDenied,
    /// The token, or the request as such, is not acceptable.
    InvalidToken,
    /// No such thing in this zone.
    ResourceNotFound,
    /// A fault of this service.
    InternalError,
    /// The policy could not be evaluated; nothing was decided.
    PolicyEvalFailed,
    /// Too many requests.
    ProviderRateLimited,
    /// A human must approve first; the body says which approval.
    InteractionRequired,
    /// The approval was already used by another request.
    ApprovalConsumed,
    /// The STS, or something it needs, cannot answer now.
    StsUnavailable,
    /// The credential expires too soon, or has expired and cannot be renewed.
    CredentialExpiredNotRenewable,
    /// The body is too large.
    PayloadTooLarge,
    /// The application belongs to another zone.
    ZoneInvalid,
    /// The method and path are not declared for this resource.
    OperationNotPermitted,
    /// A request to another server failed.
    HttpRequestFailed,
    /// The proof of possession is not acceptable (RFC 9449 section 12.2).
    InvalidDpopProof,
    /// The proof of possession has to answer a nonce of this server (RFC 9449 section 8).
    UseDpopNonce,
}

impl ErrorCode {
    /// Every code, in the order of declaration.
    pub const ALL: [Self; 16] = [
        Self::AccessDenied,
        Self::InvalidToken,
        Self::ResourceNotFound,
        Self::InternalError,
        Self::PolicyEvalFailed,
        Self::ProviderRateLimited,
        Self::InteractionRequired,
        Self::ApprovalConsumed,
        Self::StsUnavailable,
        Self::CredentialExpiredNotRenewable,
        Self::PayloadTooLarge,
        Self::ZoneInvalid,
        Self::OperationNotPermitted,
        Self::HttpRequestFailed,
        Self::InvalidDpopProof,
        Self::UseDpopNonce,
    ];

    /// The code as it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AccessDenied => "access_denied",
            Self::InvalidToken => "invalid_token",
            Self::ResourceNotFound => "resource_not_found",
            Self::InternalError => "internal_error",
            Self::PolicyEvalFailed => "policy_eval_failed",
            Self::ProviderRateLimited => "provider_rate_limited",
            Self::InteractionRequired => "interaction_required",
            Self::ApprovalConsumed => "approval_consumed",
            Self::StsUnavailable => "sts_unavailable",
            Self::CredentialExpiredNotRenewable => "credential_expired_not_renewable",
            Self::PayloadTooLarge => "payload_too_large",
            Self::ZoneInvalid => "zone_invalid",
            Self::OperationNotPermitted => "operation_not_permitted",
            Self::HttpRequestFailed => "http_request_failed",
            Self::InvalidDpopProof => "invalid_dpop_proof",
            Self::UseDpopNonce => "use_dpop_nonce",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The body of a refusal. Optional members are left out when absent or empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The code.
    pub error: ErrorCode,
    /// A sentence that is safe to show to the client.
    #[serde(default, skip_serializing_if = "is_blank")]
    pub error_description: Option<String>,
    /// The value of the response header `X-Request-Id`.
    #[serde(rename = "requestId", default, skip_serializing_if = "is_blank")]
    pub request_id: Option<String>,
}

impl ErrorBody {
    /// A body with a sentence and without request id.
    pub fn new(error: ErrorCode, description: impl Into<String>) -> Self {
        Self {
            error,
            error_description: Some(description.into()),
            request_id: None,
        }
    }

    /// The same body for this request.
    #[must_use]
    pub fn with_request_id(self, request_id: impl Into<String>) -> Self {
        Self {
            request_id: Some(request_id.into()),
            ..self
        }
    }

    /// The body as JSON text.
    pub fn to_json(&self) -> String {
        // Three strings always serialise; an empty body is the safe answer if that ever changes.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Whether an optional member is absent or says nothing.
#[expect(clippy::ref_option, reason = "serde calls it with a reference to the member")]
pub(crate) fn is_blank(text: &Option<String>) -> bool {
    text.as_ref().is_none_or(String::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_without_content_are_left_out() {
        let body = ErrorBody::new(ErrorCode::AccessDenied, "policy denied").with_request_id("req-1");
        assert_eq!(
            body.to_json(),
            r#"{"error":"access_denied","error_description":"policy denied","requestId":"req-1"}"#
        );
        assert_eq!(
            ErrorBody::new(ErrorCode::AccessDenied, "").to_json(),
            r#"{"error":"access_denied"}"#
        );
    }

    #[test]
    fn every_code_is_written_as_it_is_named() {
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_string(&code).unwrap(), format!("\"{code}\""));
            assert_eq!(
                serde_json::from_str::<ErrorCode>(&format!("\"{code}\"")).unwrap(),
                code
            );
        }
    }

    #[test]
    fn an_unknown_code_is_not_guessed() {
        assert!(serde_json::from_str::<ErrorBody>(r#"{"error":"teapot"}"#).is_err());
    }
}
