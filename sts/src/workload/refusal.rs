//! Every refusal of the run endpoints: status, code, description, evidence (`docs/contract/run.md`, "Answers").

use std::borrow::Cow;

use caracal_policy::Reason;
use caracal_wire::audit::status;
use caracal_wire::error::ErrorCode;
use http::StatusCode;

use crate::exchange::refusal::{Answer, Refusal};
use crate::upstream_credential::Unavailable;

/// Why a workload gets nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RunRefusal {
    /// The form, or the service; as at the token endpoint.
    Common(Refusal),
    FieldMissing,
    RateLimited(u32),
    Workload,
    Bindings,
    NoBindings,
    NoSuchBinding,
    ResourceNotFound,
    NoProvider,
    ProviderUnavailable,
    InjectionDenied,
    PolicyDenied(Option<Reason>),
    PolicyEvaluation,
    Credential(Unavailable),
    EvidenceUnavailable,
}

impl RunRefusal {
    /// Status, code and description.
    pub(crate) fn answer(&self) -> Answer {
        use ErrorCode as E;
        let (status, code, description): (u16, ErrorCode, Cow<'static, str>) = match self {
            Self::Common(refusal) => return refusal.answer(),
            Self::FieldMissing => (400, E::InvalidToken, "a required field is missing".into()),
            Self::RateLimited(_) => (429, E::ProviderRateLimited, "rate limit exceeded".into()),
            Self::Workload => (401, E::AccessDenied, "invalid workload credentials".into()),
            Self::Bindings => (
                500,
                E::InternalError,
                "the bindings of the workload cannot be read".into(),
            ),
            Self::NoBindings => (404, E::ResourceNotFound, "the workload has no bindings".into()),
            Self::NoSuchBinding => (
                404,
                E::ResourceNotFound,
                "the workload has no such binding".into(),
            ),
            Self::ResourceNotFound => (
                404,
                E::ResourceNotFound,
                "the resource of the binding does not exist".into(),
            ),
            Self::NoProvider => (403, E::AccessDenied, status::CREDENTIAL_NOT_PROVISIONED.into()),
            Self::ProviderUnavailable => (403, E::AccessDenied, status::PROVIDER_UNAVAILABLE.into()),
            Self::InjectionDenied => (403, E::AccessDenied, status::CREDENTIAL_INJECTION_DENIED.into()),
            Self::PolicyDenied(None) => (403, E::AccessDenied, "policy denied".into()),
            Self::PolicyDenied(Some(reason)) => (
                403,
                E::AccessDenied,
                format!("policy denied ({})", reason.as_str()).into(),
            ),
            Self::PolicyEvaluation => (503, E::PolicyEvalFailed, "policy evaluation failed".into()),
            Self::Credential(reason) => (
                502,
                E::HttpRequestFailed,
                format!("the credential is unavailable: {reason}").into(),
            ),
            Self::EvidenceUnavailable => (503, E::StsUnavailable, "audit evidence unavailable".into()),
        };
        Answer {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN),
            code,
            description,
        }
    }

    /// What the evidence calls it; `None` when nothing is recorded: the request was not understood, or nobody was refused
    /// anything that exists.
    pub(crate) fn evaluation_status(&self) -> Option<&'static str> {
        match self {
            Self::Workload => Some(status::WORKLOAD_AUTH_FAILED),
            Self::Common(refusal) => refusal.evaluation_status(),
            Self::FieldMissing
            | Self::RateLimited(_)
            | Self::Bindings
            | Self::NoBindings
            | Self::NoSuchBinding
            | Self::EvidenceUnavailable => None,
            Self::ResourceNotFound => Some(status::RESOURCE_NOT_FOUND),
            Self::NoProvider => Some(status::CREDENTIAL_NOT_PROVISIONED),
            Self::ProviderUnavailable => Some(status::PROVIDER_UNAVAILABLE),
            Self::InjectionDenied => Some(status::CREDENTIAL_INJECTION_DENIED),
            Self::PolicyDenied(_) => Some(status::COMPLETE),
            Self::PolicyEvaluation => Some(status::POLICY_EVAL_FAILED),
            Self::Credential(_) => Some(status::PROVIDER_CREDENTIAL_UNAVAILABLE),
        }
    }

    /// The metric label: one of a fixed set.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Common(refusal) => refusal.label(),
            Self::FieldMissing => "request",
            Self::RateLimited(_) => "rate_limited",
            Self::Workload => "workload",
            Self::Bindings | Self::NoBindings | Self::NoSuchBinding | Self::ResourceNotFound => "binding",
            Self::NoProvider | Self::ProviderUnavailable | Self::Credential(_) => "provider_credential",
            Self::InjectionDenied | Self::PolicyDenied(_) => "policy",
            Self::PolicyEvaluation => "policy_error",
            Self::EvidenceUnavailable => "evidence",
        }
    }

    /// Whether a configuration newer than the one in memory could have granted the request.
    pub(crate) fn may_be_outdated(&self) -> bool {
        match self {
            Self::Common(refusal) => refusal.may_be_outdated(),
            Self::ResourceNotFound
            | Self::NoProvider
            | Self::ProviderUnavailable
            | Self::InjectionDenied
            | Self::PolicyDenied(_)
            | Self::PolicyEvaluation
            | Self::Credential(_) => true,
            _ => false,
        }
    }

    /// When to try again, in seconds, if that may help.
    pub(crate) fn retry_after_seconds(&self) -> Option<u32> {
        match self {
            Self::Common(refusal) => refusal.retry_after_seconds(),
            Self::RateLimited(seconds) => Some(*seconds),
            Self::EvidenceUnavailable => Some(1),
            _ => None,
        }
    }
}

impl From<Refusal> for RunRefusal {
    fn from(refusal: Refusal) -> Self {
        Self::Common(refusal)
    }
}
