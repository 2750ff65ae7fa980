//! Every refusal of the token endpoint: status, code, description, evidence, metric label.
//!
//! Adding a reason is one variant here; status, label and evidence follow from the matches. The sentences are part of
//! the contract (`docs/contract/token-exchange.md`, section "Answers").

use std::borrow::Cow;

use caracal_model::delegation::{LineageError, ReferenceError};
use caracal_model::{ResourceIdentifier, ZoneId};
use caracal_policy::Reason;
use caracal_token::client_certificate::CertificateFault;
use caracal_token::sender::ProofFault;
use caracal_wire::audit::{event_type, status};
use caracal_wire::error::ErrorCode;
use caracal_wire::gateway_operations::NOT_DECLARED;
use http::StatusCode;

use super::approval::hold::Hold;
use super::federation::NotSignedIn;

/// Why an exchange is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    // What the request looks like.
    Method,
    QueryParameters,
    ContentType,
    BodyTooLarge,
    MalformedBody,
    DuplicateField(String),
    ActorToken,
    ClientAssertion,
    ClientAssertionType,
    TtlSyntax,
    GatewaySignature,
    EmptyResource,
    GrantType,
    SubjectTokenType,
    SubjectTokenTypeMissing,
    SubjectTokenMissing,
    RequestedTokenType,
    // Who asks.
    LockedOut,
    VerifierBusy,
    Client,
    /// The application proved that it belongs to another zone than the one it asked.
    ZoneInvalid {
        asked: ZoneId,
        actual: ZoneId,
    },
    // What it holds.
    FederationFields,
    Federation(NotSignedIn),
    NoResource,
    SubjectToken,
    /// The presented mandate is bound to a key its sender has not shown.
    SenderKey,
    /// The client's mandates are bound to its certificate, and there is none to count on.
    Certificate(CertificateFault),
    /// The proof of possession is not acceptable, or there has to be one.
    Proof(ProofFault),
    /// A mandate for the control endpoint would have to be bound to a key.
    ControlKeyBound,
    /// The proof of possession has to answer a nonce of this server.
    ProofNonce,
    Reference(ReferenceError),
    Lineage(LineageError),
    ApprovalUnknown,
    // What it asks for.
    OperationNotPermitted,
    ControlResource,
    /// No resource was granted; the first reason the policy gave, if it was the policy.
    PolicyDenied(Option<Reason>),
    /// Nothing was granted, and a budget of mints is spent for so many seconds.
    RateLimited(u32),
    /// A human must decide first.
    Hold(Box<Hold>),
    ApprovalConsumed,
    ApprovalRejected,
    ApprovalExpired,
    /// The tiers ask for deciders that exclude each other.
    ApprovalClass,
    ChallengeInvalid,
    ChallengeCooldown,
    NotThroughGateway,
    TtlNegative,
    TtlTooLong,
    DelegationExpired,
    // What we cannot do now.
    RevocationStale,
    /// Nobody can tell whether the ID token was used before.
    SignInStoreUnavailable,
    /// Nobody can tell whether the client's assertion was used before.
    AssertionStoreUnavailable,
    /// Nobody can tell whether a proof was used before.
    ProofStoreUnavailable,
    ZoneUnavailable,
    SessionStateUnavailable,
    PolicyEvaluation,
    RecordStoreUnavailable,
    ApprovalStoreUnavailable,
    Issuance,
    ProviderCredential {
        resource: ResourceIdentifier,
        reason: String,
    },
    /// The subject has connected no account with the provider.
    CredentialNotConnected,
    /// The connected account has run out and cannot be renewed.
    CredentialNotRenewable,
    EvidenceUnavailable,
}

/// The face of a refusal that a client sees.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) code: ErrorCode,
    pub(crate) description: Cow<'static, str>,
}

impl Refusal {
    /// Status, code and description.
    pub(crate) fn answer(&self) -> Answer {
        use ErrorCode as E;
        let (status, code, description): (u16, ErrorCode, Cow<'static, str>) = match self {
            Self::Method => (405, E::InvalidToken, "POST is required".into()),
            Self::QueryParameters => (400, E::InvalidToken, "query parameters are not allowed".into()),
            Self::ContentType => (
                415,
                E::InvalidToken,
                "application/x-www-form-urlencoded content type is required".into(),
            ),
            Self::BodyTooLarge => (413, E::PayloadTooLarge, "request body too large".into()),
            Self::MalformedBody => (400, E::InvalidToken, "malformed request body".into()),
            Self::DuplicateField(name) => (
                400,
                E::InvalidToken,
                format!("duplicate form field: {name}").into(),
            ),
            Self::ActorToken => (400, E::InvalidToken, "actor_token is not supported".into()),
            Self::ClientAssertion => (
                400,
                E::InvalidToken,
                "client_assertion must be a JWT and the only client authentication".into(),
            ),
            Self::ClientAssertionType => (400, E::InvalidToken, "unsupported client_assertion_type".into()),
            Self::TtlSyntax | Self::TtlNegative => (400, E::InvalidToken, "invalid ttl_seconds".into()),
            Self::GatewaySignature => (401, E::AccessDenied, "invalid gateway exchange signature".into()),
            Self::EmptyResource => (400, E::InvalidToken, "resource must not be empty".into()),
            Self::GrantType => (400, E::InvalidToken, "unsupported grant_type".into()),
            Self::SubjectTokenType => (400, E::InvalidToken, "unsupported subject_token_type".into()),
            Self::SubjectTokenTypeMissing => (
                400,
                E::InvalidToken,
                "subject_token_type is required with subject_token".into(),
            ),
            Self::SubjectTokenMissing => (
                400,
                E::InvalidToken,
                "subject_token is required with subject_token_type".into(),
            ),
            Self::RequestedTokenType => (400, E::InvalidToken, "unsupported requested_token_type".into()),
            Self::LockedOut => (
                429,
                E::ProviderRateLimited,
                "authentication rate limit exceeded".into(),
            ),
            Self::VerifierBusy => (
                503,
                E::StsUnavailable,
                "client authentication is overloaded".into(),
            ),
            Self::Client => (401, E::AccessDenied, "invalid client credentials".into()),
            Self::ZoneInvalid { asked, actual } => (
                403,
                E::ZoneInvalid,
                format!("application belongs to zone {actual}, not to zone {asked}").into(),
            ),
            Self::FederationFields => (
                400,
                E::InvalidToken,
                "an id_token exchange takes no resource, scope, session, delegation or approval".into(),
            ),
            Self::Federation(reason) => (
                401,
                E::InvalidToken,
                format!("invalid subject_token: {reason}").into(),
            ),
            Self::NoResource => (400, E::InvalidToken, "at least one resource is required".into()),
            Self::SubjectToken => (401, E::InvalidToken, "invalid subject_token".into()),
            Self::Reference(error) => (403, E::AccessDenied, error.description().into()),
            Self::Lineage(error) => (403, E::AccessDenied, error.description().into()),
            Self::ApprovalUnknown => (
                401,
                E::AccessDenied,
                "approval not found or bindings do not match".into(),
            ),
            Self::OperationNotPermitted => (403, E::OperationNotPermitted, NOT_DECLARED.into()),
            Self::ControlResource => (
                403,
                E::AccessDenied,
                "control resource requires a control key".into(),
            ),
            Self::PolicyDenied(None) => (403, E::AccessDenied, "policy denied".into()),
            Self::PolicyDenied(Some(reason)) => (
                403,
                E::AccessDenied,
                format!("policy denied ({})", reason.as_str()).into(),
            ),
            Self::RateLimited(_) => (429, E::ProviderRateLimited, "rate limit exceeded".into()),
            Self::Hold(_) => (
                401,
                E::InteractionRequired,
                "Human approval required for this request".into(),
            ),
            Self::ApprovalConsumed => (
                409,
                E::ApprovalConsumed,
                "approval already used; another request consumed it".into(),
            ),
            Self::ApprovalRejected => (403, E::AccessDenied, "approval was rejected".into()),
            Self::ApprovalExpired => (401, E::AccessDenied, "approval expired".into()),
            Self::ApprovalClass => (
                403,
                E::AccessDenied,
                "approval requires separate operator and subject decisions".into(),
            ),
            Self::ChallengeInvalid => (
                401,
                E::AccessDenied,
                "challenge not found or response does not match".into(),
            ),
            Self::ChallengeCooldown => (429, E::AccessDenied, "too many failed challenge responses".into()),
            Self::ApprovalStoreUnavailable => (503, E::StsUnavailable, "approval store unavailable".into()),
            Self::NotThroughGateway => (
                403,
                E::AccessDenied,
                "resource exchanges must use the Gateway".into(),
            ),
            Self::TtlTooLong => (400, E::InvalidToken, "ttl_seconds exceeds token TTL cap".into()),
            Self::DelegationExpired => (403, E::AccessDenied, "delegation edge inactive or expired".into()),
            Self::RevocationStale => (503, E::StsUnavailable, "revocation state unavailable".into()),
            Self::AssertionStoreUnavailable => (
                503,
                E::StsUnavailable,
                "client assertions cannot be checked now".into(),
            ),
            Self::ProofStoreUnavailable => (
                503,
                E::StsUnavailable,
                "proofs of possession cannot be checked now".into(),
            ),
            Self::SenderKey => (
                401,
                E::InvalidToken,
                "subject_token is bound to a key that was not shown".into(),
            ),
            Self::Certificate(fault) => (400, E::InvalidToken, fault.to_string().into()),
            Self::Proof(fault) => (400, E::InvalidDpopProof, fault.to_string().into()),
            Self::ControlKeyBound => (
                400,
                E::InvalidDpopProof,
                "a mandate for the control endpoint cannot be bound".into(),
            ),
            Self::ProofNonce => (
                400,
                E::UseDpopNonce,
                "the proof has to answer the nonce of this answer".into(),
            ),
            Self::SignInStoreUnavailable => (
                503,
                E::StsUnavailable,
                "uses of id_tokens cannot be checked now".into(),
            ),
            Self::ZoneUnavailable => (503, E::StsUnavailable, "zone configuration unavailable".into()),
            Self::SessionStateUnavailable => (503, E::StsUnavailable, "session state unavailable".into()),
            Self::PolicyEvaluation => (503, E::PolicyEvalFailed, "policy evaluation failed".into()),
            Self::RecordStoreUnavailable => (
                503,
                E::StsUnavailable,
                "authority record store unavailable".into(),
            ),
            Self::Issuance => (500, E::InternalError, "token issuance failed".into()),
            Self::ProviderCredential { resource, reason } => (
                502,
                E::HttpRequestFailed,
                format!("upstream credential for resource {resource} is unavailable: {reason}").into(),
            ),
            Self::CredentialNotConnected => (
                403,
                E::AccessDenied,
                "policy denied (credential_not_provisioned)".into(),
            ),
            Self::CredentialNotRenewable => (
                403,
                E::CredentialExpiredNotRenewable,
                "the connected account has to be connected again".into(),
            ),
            Self::EvidenceUnavailable => (503, E::StsUnavailable, "audit evidence unavailable".into()),
        };
        Answer {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN),
            code,
            description,
        }
    }

    /// What the evidence calls it, the event's `evaluation_status`; `None` for requests that were not understood, about
    /// which nothing is proved.
    pub(crate) fn evaluation_status(&self) -> Option<&'static str> {
        match self {
            Self::Method
            | Self::QueryParameters
            | Self::ContentType
            | Self::BodyTooLarge
            | Self::MalformedBody
            | Self::DuplicateField(_)
            | Self::ActorToken
            | Self::ClientAssertion
            | Self::ClientAssertionType
            | Self::TtlSyntax
            | Self::EmptyResource
            | Self::GrantType
            | Self::SubjectTokenType
            | Self::SubjectTokenTypeMissing
            | Self::SubjectTokenMissing
            // The first step of a client that has no nonce yet (RFC 9449 section 8).
            | Self::ProofNonce
            | Self::RequestedTokenType => None,
            Self::GatewaySignature
            | Self::LockedOut
            | Self::Client
            | Self::VerifierBusy
            | Self::AssertionStoreUnavailable
            | Self::ZoneInvalid { .. } => Some(status::CLIENT_AUTH_FAILED),
            Self::FederationFields => Some(status::SUBJECT_FEDERATION_INVALID),
            Self::Federation(_) => Some(status::SUBJECT_FEDERATION_REJECTED),
            Self::SubjectToken | Self::SenderKey => Some(status::SUBJECT_TOKEN_INVALID),
            Self::Reference(_) | Self::Lineage(_) | Self::DelegationExpired => {
                Some(status::REFERENCE_REFUSED)
            }
            Self::ApprovalUnknown => Some(status::APPROVAL_INVALID),
            Self::OperationNotPermitted => Some(status::OPERATION_NOT_PERMITTED),
            Self::ControlResource => Some(status::CONTROL_RESOURCE_REQUIRES_CONTROL_KEY),
            Self::Hold(_) => Some(status::COMPLETE),
            Self::ApprovalConsumed => Some(status::APPROVAL_ALREADY_CONSUMED),
            Self::ApprovalRejected => Some(status::APPROVAL_REJECTED),
            Self::ApprovalExpired => Some(status::APPROVAL_EXPIRED),
            Self::ApprovalClass => Some(status::APPROVAL_CLASS_CONFLICT),
            Self::ChallengeInvalid => Some(status::CHALLENGE_INVALID),
            Self::ChallengeCooldown => Some(status::CHALLENGE_COOLDOWN),
            Self::PolicyEvaluation => Some(status::POLICY_EVAL_FAILED),
            Self::ProviderCredential { .. } => Some(status::PROVIDER_CREDENTIAL_UNAVAILABLE),
            Self::CredentialNotConnected => Some(status::CREDENTIAL_NOT_PROVISIONED),
            Self::CredentialNotRenewable => Some(status::CREDENTIAL_REFRESH_FAILED),
            Self::NoResource
            | Self::PolicyDenied(_)
            | Self::RateLimited(_)
            | Self::Certificate(_)
            | Self::Proof(_)
            | Self::ControlKeyBound
            | Self::ProofStoreUnavailable
            | Self::NotThroughGateway
            | Self::TtlNegative
            | Self::TtlTooLong
            | Self::RevocationStale
            | Self::SignInStoreUnavailable
            | Self::ZoneUnavailable
            | Self::SessionStateUnavailable
            | Self::RecordStoreUnavailable
            | Self::ApprovalStoreUnavailable
            | Self::Issuance
            | Self::EvidenceUnavailable => Some(status::EXCHANGE_DENIED),
        }
    }

    /// The kind of event the evidence of this refusal is.
    pub(crate) fn event_type(&self) -> &'static str {
        if self.evaluation_status() == Some(status::CLIENT_AUTH_FAILED) {
            event_type::CLIENT_AUTHENTICATION
        } else {
            event_type::TOKEN_EXCHANGE
        }
    }

    /// Whether anybody could cause this refusal, without having proved anything. Evidence of such refusals is limited
    /// for each source.
    pub(crate) fn precedes_authentication(&self) -> bool {
        matches!(self, Self::RevocationStale | Self::ZoneUnavailable)
            || self.evaluation_status() == Some(status::CLIENT_AUTH_FAILED)
    }

    /// The metric label: one of a fixed set.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::LockedOut => "locked_out",
            Self::RateLimited(_) => "rate_limited",
            Self::Client
            | Self::VerifierBusy
            | Self::AssertionStoreUnavailable
            | Self::ZoneInvalid { .. } => "client",
            Self::GatewaySignature => "gateway_signature",
            Self::Certificate(_)
            | Self::Proof(_)
            | Self::ControlKeyBound
            | Self::ProofNonce
            | Self::ProofStoreUnavailable => "proof",
            Self::SubjectToken | Self::SenderKey | Self::FederationFields | Self::Federation(_) => {
                "subject_token"
            }
            Self::Reference(_) => "reference",
            Self::Lineage(_) | Self::DelegationExpired => "delegation",
            Self::Hold(_) => "hold",
            Self::ApprovalUnknown
            | Self::ApprovalConsumed
            | Self::ApprovalRejected
            | Self::ApprovalExpired
            | Self::ApprovalClass
            | Self::ChallengeInvalid
            | Self::ChallengeCooldown => "approval",
            Self::OperationNotPermitted => "operation",
            Self::PolicyDenied(_) | Self::ControlResource => "policy",
            Self::PolicyEvaluation => "policy_error",
            Self::NotThroughGateway => "not_through_gateway",
            Self::RevocationStale => "revocation_stale",
            Self::SignInStoreUnavailable
            | Self::ZoneUnavailable
            | Self::SessionStateUnavailable
            | Self::RecordStoreUnavailable
            | Self::ApprovalStoreUnavailable => "store",
            Self::Issuance => "issuance",
            Self::ProviderCredential { .. } | Self::CredentialNotConnected | Self::CredentialNotRenewable => {
                "provider_credential"
            }
            Self::EvidenceUnavailable => "evidence",
            Self::Method
            | Self::QueryParameters
            | Self::ContentType
            | Self::BodyTooLarge
            | Self::MalformedBody
            | Self::DuplicateField(_)
            | Self::ActorToken
            | Self::ClientAssertion
            | Self::ClientAssertionType
            | Self::TtlSyntax
            | Self::EmptyResource
            | Self::GrantType
            | Self::SubjectTokenType
            | Self::SubjectTokenTypeMissing
            | Self::SubjectTokenMissing
            | Self::RequestedTokenType
            | Self::NoResource
            | Self::TtlNegative
            | Self::TtlTooLong => "request",
        }
    }

    /// Whether a configuration newer than the one in memory could have granted the request. Then the zone is asked for
    /// its version before the refusal stands.
    pub(crate) fn may_be_outdated(&self) -> bool {
        if let Self::Federation(reason) = self {
            return reason.may_be_outdated();
        }
        matches!(
            self,
            Self::Client
                | Self::Certificate(CertificateFault::Missing | CertificateFault::Unreadable)
                | Self::ControlKeyBound
                | Self::Proof(ProofFault::Missing)
                | Self::SubjectToken
                | Self::OperationNotPermitted
                | Self::PolicyDenied(_)
                | Self::PolicyEvaluation
                | Self::ApprovalUnknown
                | Self::ProviderCredential { .. }
                | Self::CredentialNotConnected
                | Self::CredentialNotRenewable
        )
    }

    /// Whether a later attempt may succeed unchanged; then the answer says when to try.
    pub(crate) fn retry_after_seconds(&self) -> Option<u32> {
        match self {
            Self::LockedOut => Some(60),
            Self::RateLimited(seconds) => Some(*seconds),
            Self::ChallengeCooldown => Some(300),
            Self::VerifierBusy
            | Self::AssertionStoreUnavailable
            | Self::ProofStoreUnavailable
            | Self::SignInStoreUnavailable
            | Self::RevocationStale
            | Self::PolicyEvaluation
            | Self::ZoneUnavailable
            | Self::SessionStateUnavailable
            | Self::RecordStoreUnavailable
            | Self::ApprovalStoreUnavailable
            | Self::EvidenceUnavailable => Some(1),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
