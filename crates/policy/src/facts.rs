//! What does the contract read of a request? Less than documents may.

use caracal_model::ScopeSet;

use crate::input::{ActionKind, Input, PrincipalType};

/// What the contract reads of an input.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) is_workload: bool,
    pub(crate) is_injection: bool,
    pub(crate) principal_id: &'a str,
    pub(crate) labels: &'a [String],
    pub(crate) identifier: &'a str,
    pub(crate) has_session: bool,
    pub(crate) edge_scopes: Option<&'a ScopeSet>,
    pub(crate) claims: Option<ClaimFacts<'a>>,
    pub(crate) requested: &'a ScopeSet,
}

/// What the contract reads of a subject token.
#[derive(Debug)]
pub(crate) struct ClaimFacts<'a> {
    pub(crate) r#use: &'a str,
    pub(crate) delegation_edge_id: &'a str,
    pub(crate) scope: &'a str,
    pub(crate) target: &'a [String],
}

impl ClaimFacts<'_> {
    /// The scopes the mandate carries, split at single spaces.
    pub(crate) fn scopes(&self) -> impl Iterator<Item = &str> {
        self.scope.split(' ').filter(|scope| !scope.is_empty())
    }

    pub(crate) fn carries_scopes(&self) -> bool {
        self.scopes().next().is_some()
    }

    pub(crate) fn carries_only(&self, held: &ScopeSet) -> bool {
        self.scopes().all(|scope| held.contains(scope))
    }
}

impl<'a> Facts<'a> {
    pub(crate) fn of(input: &'a Input<'a>) -> Self {
        Self {
            is_workload: input.principal.kind == PrincipalType::Workload,
            is_injection: input.action.kind == ActionKind::CredentialInjection,
            principal_id: input.principal.id,
            labels: input.principal.labels,
            identifier: input.resource.identifier,
            has_session: input.agent_session_id.is_some_and(|id| !id.is_empty()),
            edge_scopes: input.delegation_edge.as_ref().map(|edge| edge.scopes),
            claims: input.subject_claims.as_ref().map(|claims| ClaimFacts {
                r#use: claims.r#use.unwrap_or_default(),
                delegation_edge_id: claims.delegation_edge_id.unwrap_or_default(),
                scope: claims.scope.unwrap_or_default(),
                target: claims.target,
            }),
            requested: input.requested_scopes,
        }
    }

    pub(crate) fn targets_resource(&self, claims: &ClaimFacts<'_>) -> bool {
        claims.target.iter().any(|target| target == self.identifier)
    }
}
