//! How is each refusal answered, counted, logged and recorded? Every reason to refuse is one arm here.
//!
//! `docs/contract/gateway.md` lists status, code and description; a stage returns a [`Denial`] and writes nothing.

use std::borrow::Cow;

use caracal_model::Anchor;
use caracal_token::sender::SenderFault;
use caracal_wire::error::ErrorCode;
use caracal_wire::gateway_operations::NOT_DECLARED;

/// A reason not to carry out a request, in the order in which the reasons are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Denial {
    /// The request head is longer than `MAX_HEADER_BYTES`.
    HeadTooLarge,
    /// The source has as many requests in progress as it may.
    TooManyRequests,
    /// Nobody can say which mandates are revoked at this moment.
    RevocationStale,
    /// No bearer.
    MissingBearer,
    /// A bearer longer than 16 KiB.
    BearerTooLarge,
    /// A bearer that is no mandate.
    MalformedBearer,
    /// A mandate that expires within 35 seconds, or has expired.
    Expiring,
    /// The path has routes, but none for this method; those for which there are.
    MethodNotAllowed(Box<str>),
    /// The route has been taken too often lately.
    RouteRate {
        /// When it may be taken again.
        retry_after_s: u32,
    },
    /// As many requests as the route allows are under way.
    RouteBusy,
    /// The client named itself in `X-Caracal-Client-ID`.
    ClientHeader,
    /// Neither the header nor a route says which resource is meant.
    MissingRouting,
    /// Claim `zone_id` is missing or malformed.
    MissingZone,
    /// Claim `client_id` is missing or malformed.
    MissingClient,
    /// The path could mean another path.
    PathTraversal,
    /// The signature is not one of the zone's.
    Signature,
    /// The zone's keys are unknown and cannot be fetched now.
    KeysUnavailable,
    /// A proven mandate that is not for this gateway: issuer, audience, use, zone, or issued in the future.
    WrongSubject(&'static str),
    /// The mandate is bound to keys its sender has not shown.
    Sender(SenderFault),
    /// The operation is not declared for a scope of the mandate; its path.
    OperationNotPermitted(Box<str>),
    /// The mandate was used before.
    Replayed,
    /// An anchor of the mandate is revoked.
    Revoked(Anchor),
    /// The request body is longer than `MAX_REQUEST_BYTES`.
    BodyTooLarge,
    /// Whether the mandate was used before cannot be decided now.
    ReplayUndecided,
    /// The STS has been failing; it is left alone for a while.
    StsCircuitOpen,
    /// The STS did not answer in time.
    StsTimeout,
    /// The STS cannot be reached.
    StsUnreachable,
    /// The answer of the STS is not one.
    StsInvalid(&'static str),
    /// The clocks of the STS and the gateway disagree by more than the leeway.
    ClockSkew,
    /// The STS refused.
    StsRefused(Box<Relayed>),
    /// The STS named no upstream for the resource.
    NoUpstream,
    /// The upstream is at an address that is not dialled, or at none.
    UpstreamBlocked,
    /// The credential may not be sent to this upstream.
    CredentialHost,
    /// The request cannot be expressed for the upstream.
    Unbuildable(&'static str),
    /// The evidence cannot be written.
    Unrecorded,
    /// The upstream did not answer in time.
    UpstreamTimeout,
    /// The upstream cannot be reached.
    UpstreamUnreachable,
    /// The client sent something that is not an HTTP request this gateway carries.
    BadRequest,
    /// The client went away.
    ClientGone,
    /// The gateway stops, and the request did not end in time.
    Stopping,
    /// The mandate expired while the request was on its way.
    ExpiredMeanwhile,
}

/// What the STS said when it refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Relayed {
    /// HTTP status, 400 to 599.
    pub(crate) status: u16,
    /// Field `error`.
    pub(crate) code: String,
    /// Field `error_description`.
    pub(crate) description: String,
    /// `Retry-After`, in seconds.
    pub(crate) retry_after_s: Option<u32>,
}

/// What a client, an operator and the ledger are told about a denial.
#[derive(Debug)]
pub(crate) struct Face<'a> {
    /// HTTP status.
    pub(crate) status: u16,
    /// Field `error`.
    pub(crate) code: Cow<'a, str>,
    /// Field `error_description`.
    pub(crate) description: Cow<'a, str>,
    /// Metric label and evaluation status: a fixed set.
    pub(crate) label: &'static str,
}

impl Denial {
    /// What to tell about it.
    pub(crate) fn face(&self) -> Face<'_> {
        use ErrorCode as Code;
        let (status, code, description, label) = match self {
            Self::HeadTooLarge => (
                431,
                Code::PayloadTooLarge,
                "request header fields too large",
                "head_too_large",
            ),
            Self::TooManyRequests => (
                429,
                Code::ProviderRateLimited,
                "too many requests in progress",
                "too_many_requests",
            ),
            Self::RevocationStale => (
                503,
                Code::StsUnavailable,
                "revocation state unavailable",
                "revocation_stale",
            ),
            Self::MissingBearer => (401, Code::InvalidToken, "missing bearer token", "missing_auth"),
            Self::BearerTooLarge => (401, Code::InvalidToken, "bearer token too large", "bad_bearer"),
            Self::MalformedBearer => (401, Code::InvalidToken, "malformed bearer token", "bad_bearer"),
            Self::Expiring => (
                401,
                Code::CredentialExpiredNotRenewable,
                "credential expiring within pre-flight window",
                "expiring",
            ),
            Self::MethodNotAllowed(_) => (
                405,
                Code::OperationNotPermitted,
                "method not allowed",
                "method_not_allowed",
            ),
            Self::RouteRate { .. } => (429, Code::ProviderRateLimited, "too many requests", "route_rate"),
            Self::RouteBusy => (
                503,
                Code::ProviderRateLimited,
                "too many requests under way",
                "route_busy",
            ),
            Self::ClientHeader => (
                400,
                Code::InvalidToken,
                "client identity derives from the bearer token",
                "bad_routing",
            ),
            Self::MissingRouting => (400, Code::InvalidToken, "missing routing headers", "bad_routing"),
            Self::MissingZone => (401, Code::InvalidToken, "missing token zone", "bad_routing"),
            Self::MissingClient => (401, Code::InvalidToken, "missing token client", "bad_routing"),
            Self::PathTraversal => (
                400,
                Code::InvalidToken,
                "path traversal not permitted",
                "path_traversal",
            ),
            Self::Signature => (401, Code::InvalidToken, "bearer signature invalid", "signature"),
            Self::KeysUnavailable => (503, Code::StsUnavailable, "sts unavailable", "keys_unavailable"),
            Self::WrongSubject(_) => (401, Code::InvalidToken, "invalid subject_token", "wrong_subject"),
            Self::Sender(fault) => {
                let code = match fault {
                    SenderFault::Proof(_) => Code::InvalidDpopProof,
                    SenderFault::BoundAsBearer | SenderFault::NotBound | SenderFault::Certificate(_) => {
                        Code::InvalidToken
                    }
                };
                return Face {
                    status: 401,
                    code: Cow::Borrowed(code.as_str()),
                    description: Cow::Owned(fault.to_string()),
                    label: "sender_constraint",
                };
            }
            Self::OperationNotPermitted(_) => (
                403,
                Code::OperationNotPermitted,
                NOT_DECLARED,
                "operation_not_permitted",
            ),
            Self::Replayed => (401, Code::InvalidToken, "token replay detected", "jti_replay"),
            Self::Revoked(_) => (401, Code::InvalidToken, "session revoked", "revoked"),
            Self::BodyTooLarge => (
                413,
                Code::PayloadTooLarge,
                "request body too large",
                "body_too_large",
            ),
            Self::ReplayUndecided => (
                503,
                Code::StsUnavailable,
                "replay state unavailable",
                "replay_undecided",
            ),
            Self::StsCircuitOpen => (503, Code::StsUnavailable, "sts unavailable", "sts_circuit_open"),
            Self::StsTimeout => (504, Code::StsUnavailable, "sts timeout", "sts_timeout"),
            Self::StsUnreachable => (502, Code::StsUnavailable, "sts unavailable", "sts_unreachable"),
            Self::StsInvalid(_) => (502, Code::StsUnavailable, "sts response invalid", "sts_invalid"),
            Self::ClockSkew => (
                503,
                Code::StsUnavailable,
                "clock skew between gateway and sts",
                "clock_skew",
            ),
            Self::StsRefused(relayed) => {
                return Face {
                    status: relayed.status,
                    code: Cow::Borrowed(&relayed.code),
                    description: Cow::Borrowed(&relayed.description),
                    label: "sts_refused",
                };
            }
            Self::NoUpstream => (
                403,
                Code::AccessDenied,
                "resource upstream not configured",
                "no_upstream",
            ),
            Self::UpstreamBlocked => (
                502,
                Code::InternalError,
                "upstream not addressable",
                "upstream_not_addressable",
            ),
            Self::CredentialHost => (
                502,
                Code::InternalError,
                "provider credential not allowed for upstream host",
                "provider_host_not_allowed",
            ),
            Self::Unbuildable(_) => (
                400,
                Code::InternalError,
                "upstream request build failed",
                "request_build_failed",
            ),
            Self::Unrecorded => (
                503,
                Code::InternalError,
                "audit evidence cannot be recorded",
                "unrecorded",
            ),
            Self::UpstreamTimeout => (504, Code::InternalError, "upstream timeout", "upstream_timeout"),
            Self::UpstreamUnreachable => (
                502,
                Code::InternalError,
                "upstream unreachable",
                "upstream_unreachable",
            ),
            Self::BadRequest => (400, Code::InvalidToken, "malformed request", "bad_request"),
            Self::Stopping => (503, Code::InternalError, "gateway is stopping", "stopping"),
            Self::ClientGone => (499, Code::InternalError, "client cancelled", "client_gone"),
            Self::ExpiredMeanwhile => (
                401,
                Code::CredentialExpiredNotRenewable,
                "credential expired",
                "expired_meanwhile",
            ),
        };
        Face {
            status,
            code: Cow::Borrowed(code.as_str()),
            description: Cow::Borrowed(description),
            label,
        }
    }

    /// `WWW-Authenticate` of a 401 that concerns the bearer (RFC 6750 section 3, RFC 9449 section 7.1).
    pub(crate) fn challenge(&self) -> Option<&'static str> {
        match self {
            Self::MissingBearer => Some("Bearer"),
            Self::Sender(fault) => Some(fault.challenge()),
            Self::BearerTooLarge
            | Self::MalformedBearer
            | Self::Expiring
            | Self::MissingZone
            | Self::MissingClient
            | Self::Signature
            | Self::WrongSubject(_)
            | Self::Replayed
            | Self::ExpiredMeanwhile
            | Self::Revoked(_) => Some("Bearer error=\"invalid_token\""),
            _ if self.face().status == 401 => Some("Bearer"),
            _ => None,
        }
    }

    /// `Retry-After` in seconds, where the same request may succeed shortly.
    pub(crate) fn retry_after_s(&self) -> Option<u32> {
        match self {
            Self::TooManyRequests
            | Self::RevocationStale
            | Self::KeysUnavailable
            | Self::ReplayUndecided
            | Self::StsUnreachable
            | Self::StsTimeout
            | Self::RouteBusy
            | Self::Unrecorded
            | Self::Stopping => Some(1),
            Self::RouteRate { retry_after_s } => Some(*retry_after_s),
            Self::StsCircuitOpen => Some(10),
            Self::StsRefused(relayed) => relayed.retry_after_s,
            _ => None,
        }
    }

    /// `Allow` of a 405 (RFC 9110 section 15.5.6).
    pub(crate) fn allow(&self) -> Option<&str> {
        match self {
            Self::MethodNotAllowed(methods) => Some(methods),
            _ => None,
        }
    }

    /// More for the operator's log and the ledger; never shown to the client.
    pub(crate) fn detail(&self) -> Option<&'static str> {
        match self {
            Self::WrongSubject(detail) | Self::StsInvalid(detail) | Self::Unbuildable(detail) => Some(detail),
            _ => None,
        }
    }

    /// Whether the STS exchange is what failed.
    pub(crate) fn is_exchange(&self) -> bool {
        matches!(
            self,
            Self::StsCircuitOpen
                | Self::StsTimeout
                | Self::StsUnreachable
                | Self::StsInvalid(_)
                | Self::ClockSkew
                | Self::StsRefused(_)
                | Self::NoUpstream
        )
    }

    /// Whether the failure lies at or before the upstream of an admitted request.
    pub(crate) fn is_upstream(&self) -> bool {
        matches!(
            self,
            Self::UpstreamBlocked
                | Self::CredentialHost
                | Self::Unbuildable(_)
                | Self::UpstreamTimeout
                | Self::UpstreamUnreachable
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The contract's table: docs/contract/gateway.md, "Refusals".
    #[test]
    fn every_denial_has_the_status_code_and_description_of_the_contract() {
        let relayed = Relayed {
            status: 409,
            code: "approval_consumed".into(),
            description: "spent".into(),
            retry_after_s: None,
        };
        let anchor = Anchor::AuthorityRecord("ar-1".parse().unwrap());
        for (denial, status, code, description) in [
            (
                Denial::RevocationStale,
                503,
                "sts_unavailable",
                "revocation state unavailable",
            ),
            (
                Denial::MissingBearer,
                401,
                "invalid_token",
                "missing bearer token",
            ),
            (
                Denial::BearerTooLarge,
                401,
                "invalid_token",
                "bearer token too large",
            ),
            (
                Denial::MalformedBearer,
                401,
                "invalid_token",
                "malformed bearer token",
            ),
            (
                Denial::Expiring,
                401,
                "credential_expired_not_renewable",
                "credential expiring within pre-flight window",
            ),
            (
                Denial::ClientHeader,
                400,
                "invalid_token",
                "client identity derives from the bearer token",
            ),
            (
                Denial::MissingRouting,
                400,
                "invalid_token",
                "missing routing headers",
            ),
            (
                Denial::MethodNotAllowed("GET".into()),
                405,
                "operation_not_permitted",
                "method not allowed",
            ),
            (
                Denial::RouteRate { retry_after_s: 1 },
                429,
                "provider_rate_limited",
                "too many requests",
            ),
            (
                Denial::RouteBusy,
                503,
                "provider_rate_limited",
                "too many requests under way",
            ),
            (Denial::MissingZone, 401, "invalid_token", "missing token zone"),
            (
                Denial::MissingClient,
                401,
                "invalid_token",
                "missing token client",
            ),
            (
                Denial::PathTraversal,
                400,
                "invalid_token",
                "path traversal not permitted",
            ),
            (
                Denial::Signature,
                401,
                "invalid_token",
                "bearer signature invalid",
            ),
            (
                Denial::WrongSubject("use"),
                401,
                "invalid_token",
                "invalid subject_token",
            ),
            (
                Denial::OperationNotPermitted("/v1".into()),
                403,
                "operation_not_permitted",
                "the operation is not declared for the scopes of the presented mandate",
            ),
            (Denial::Replayed, 401, "invalid_token", "token replay detected"),
            (Denial::Revoked(anchor), 401, "invalid_token", "session revoked"),
            (Denial::StsCircuitOpen, 503, "sts_unavailable", "sts unavailable"),
            (Denial::StsTimeout, 504, "sts_unavailable", "sts timeout"),
            (Denial::StsUnreachable, 502, "sts_unavailable", "sts unavailable"),
            (
                Denial::StsInvalid("empty"),
                502,
                "sts_unavailable",
                "sts response invalid",
            ),
            (
                Denial::StsRefused(Box::new(relayed)),
                409,
                "approval_consumed",
                "spent",
            ),
            (
                Denial::NoUpstream,
                403,
                "access_denied",
                "resource upstream not configured",
            ),
            (
                Denial::UpstreamBlocked,
                502,
                "internal_error",
                "upstream not addressable",
            ),
            (
                Denial::CredentialHost,
                502,
                "internal_error",
                "provider credential not allowed for upstream host",
            ),
            (
                Denial::Unbuildable("url"),
                400,
                "internal_error",
                "upstream request build failed",
            ),
            (Denial::UpstreamTimeout, 504, "internal_error", "upstream timeout"),
            (Denial::ClientGone, 499, "internal_error", "client cancelled"),
            (
                Denial::BodyTooLarge,
                413,
                "payload_too_large",
                "request body too large",
            ),
            (
                Denial::UpstreamUnreachable,
                502,
                "internal_error",
                "upstream unreachable",
            ),
        ] {
            let face = denial.face();
            assert_eq!(
                (face.status, &*face.code, &*face.description),
                (status, code, description),
                "{denial:?}"
            );
        }
    }

    #[test]
    fn only_a_401_challenges() {
        assert_eq!(Denial::MissingBearer.challenge(), Some("Bearer"));
        assert_eq!(
            Denial::Replayed.challenge(),
            Some("Bearer error=\"invalid_token\"")
        );
        assert_eq!(Denial::MissingRouting.challenge(), None);
        let relayed = Relayed {
            status: 401,
            code: "interaction_required".into(),
            description: String::new(),
            retry_after_s: Some(7),
        };
        assert_eq!(
            Denial::StsRefused(Box::new(relayed.clone())).retry_after_s(),
            Some(7)
        );
        assert_eq!(Denial::StsRefused(Box::new(relayed)).challenge(), Some("Bearer"));
    }
}
