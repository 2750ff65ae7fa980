//! With which sentence is a presented session or delegation refused?
//!
//! The sentences are part of the contract (`docs/contract/delegation-rules.md`, "Refusals"): clients and operators read
//! them.

use std::fmt;

/// Why a presented delegation is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LineageError {
    /// The edge does not exist in the zone, is not active, or has expired.
    EdgeInactive,
    /// The edge points at another session than the one presented.
    TargetMismatch,
    /// The session that passed authority on is dead.
    SourceInactive,
    /// The session that received it is dead or belongs to another application than the caller.
    TargetUnauthorized,
    /// The receiving session was started under another authority record than the presented token's.
    SessionBinding,
    /// Issuer or receiver of the edge are not the owners of its sessions.
    ApplicationMismatch,
    /// The constraint document cannot be read.
    ConstraintsInvalid,
    /// More scopes are requested than the delegation carries.
    ScopesExceeded,
    /// A longer token lifetime is requested than the delegation allows.
    TtlExceeded,
    /// The delegation allows more hops than the platform.
    HopLimit,
    /// The path from the root to the edge is incomplete, too long, or no longer whole.
    PathInvalid,
    /// The epoch of the zone's delegation graph could not be read.
    EpochUnavailable,
    /// An edge of the path could not be loaded.
    PathEdgeUnavailable,
    /// An edge of the path is dead.
    PathEdgeInactive,
    /// The receiver of one hop is not the issuer of the next.
    ChainDiscontinuous,
    /// The ends of the path are not the applications of its sessions.
    EndpointsMismatch,
}

impl LineageError {
    /// The sentence a client reads as `error_description`; the status is 403, the code `access_denied`.
    pub const fn description(self) -> &'static str {
        match self {
            Self::EdgeInactive => "delegation edge inactive or expired",
            Self::TargetMismatch => "delegation edge target mismatch",
            Self::SourceInactive => "delegation source inactive or expired",
            Self::TargetUnauthorized => "delegation target inactive or unauthorized",
            Self::SessionBinding => "session authority record binding mismatch",
            Self::ApplicationMismatch => "delegation application mismatch",
            Self::ConstraintsInvalid => "delegation constraints invalid",
            Self::ScopesExceeded => "requested scopes exceed delegation scopes",
            Self::TtlExceeded => "requested ttl exceeds delegation ttl",
            Self::HopLimit => "delegation hop limit exceeds platform maximum",
            Self::PathInvalid => "delegation path invalid",
            Self::EpochUnavailable => "delegation graph epoch unavailable",
            Self::PathEdgeUnavailable => "delegation path edge unavailable",
            Self::PathEdgeInactive => "delegation path edge inactive or revoked",
            Self::ChainDiscontinuous => "delegation chain discontinuous",
            Self::EndpointsMismatch => "delegation chain endpoints mismatch",
        }
    }
}

/// Why a reference to an authority record, a session or a delegation is refused before the delegation itself is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReferenceError {
    /// The authority record is not active or has expired.
    RecordInactive,
    /// The authority record belongs to another application.
    RecordNotOwned,
    /// The form names another record than the token.
    RecordMismatch,
    /// The record was issued for another subject.
    RecordSubjectMismatch,
    /// The record was issued to another client.
    RecordClientMismatch,
    /// The session is dead.
    SessionInactive,
    /// The session belongs to another application.
    SessionNotOwned,
    /// The session was started under another authority record.
    SessionBinding,
    /// The token is bound to another session than the form names.
    SessionMismatch,
    /// A delegation was named without the session that received it.
    DelegationWithoutSession,
    /// The token is bound to another delegation than the form names.
    DelegationMismatch,
}

impl ReferenceError {
    /// The sentence a client reads as `error_description`; the status is 403, the code `access_denied`.
    pub const fn description(self) -> &'static str {
        match self {
            Self::RecordInactive => "authority record inactive or expired",
            Self::RecordNotOwned => "authority record not owned by caller",
            Self::RecordMismatch => "authority record mismatch",
            Self::RecordSubjectMismatch => "authority record subject mismatch",
            Self::RecordClientMismatch => "authority record client mismatch",
            Self::SessionInactive => "session inactive or expired",
            Self::SessionNotOwned => "session not owned by caller",
            Self::SessionBinding => "session authority record binding mismatch",
            Self::SessionMismatch => "Session mismatch",
            Self::DelegationWithoutSession => "delegation requires a target Session",
            Self::DelegationMismatch => "delegation edge mismatch",
        }
    }
}

/// Both refusals read as their description.
macro_rules! reads_as_its_description {
    ($($name:ident)*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.description())
            }
        }

        impl std::error::Error for $name {}
    )*};
}

reads_as_its_description!(LineageError ReferenceError);
