//! Does the whole path of delegations behind a request support it?
//!
//! The checks and their order are those of `docs/contract/delegation-rules.md`, "Presenting a delegation". The sentences
//! are part of the contract: clients and operators read them.

use super::constraints::Constraints;
use super::edge::DelegationEdge;
use super::refusal::LineageError;
use crate::id::{ApplicationId, AuthorityRecordId, DelegationId, ResourceId, SessionId, ZoneId};
use crate::scope::ScopeSet;
use crate::session::GovernedSession;
use crate::text::ResourceIdentifier;
use crate::time::UnixSeconds;

/// Who asks for what under a delegation.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The zone of the request.
    pub zone_id: &'a ZoneId,
    /// The authenticated application.
    pub caller: &'a ApplicationId,
    /// The delegation presented.
    pub delegation_id: &'a DelegationId,
    /// The session presented; must be the one that received the delegation.
    pub session_id: &'a SessionId,
    /// The scopes asked for.
    pub scopes: &'a ScopeSet,
    /// The token lifetime asked for, in seconds; `None` or 0 when left to the default.
    pub ttl_seconds: Option<i64>,
    /// The authority record of the presented session mandate, when there is one: the session must have been started under
    /// it.
    pub bound_record: Option<&'a AuthorityRecordId>,
}

/// One hop of a checked chain, as it is written into a mandate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainHop {
    /// Who acts at this hop.
    pub application_id: ApplicationId,
    /// In which session.
    pub session_id: SessionId,
    /// By which edge it passes authority on; `None` for the last hop.
    pub delegation_id: Option<DelegationId>,
}

/// A path that was found whole, with what it leaves after every narrowing on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The edges, root first.
    pub path: Vec<DelegationId>,
    /// The hops, root first; one more than edges.
    pub hops: Vec<ChainHop>,
    /// The session that passed on the presented edge.
    pub source_session_id: SessionId,
    /// The session that received it.
    pub target_session_id: SessionId,
    /// The earliest expiry of all edges and their constraints.
    pub expires_at: UnixSeconds,
    /// The shortest token lifetime any edge allows, in seconds.
    pub ttl_seconds: Option<i64>,
    /// The scopes that every edge carries.
    pub scopes: ScopeSet,
    reach: Vec<(Option<ResourceId>, Vec<ResourceIdentifier>)>,
}

impl Chain {
    /// How many edges the path has.
    pub fn hop_count(&self) -> u32 {
        u32::try_from(self.path.len()).unwrap_or(u32::MAX)
    }

    /// Whether every edge of the path reaches the resource with this row id and identifier.
    pub fn reaches(&self, id: &ResourceId, identifier: &ResourceIdentifier) -> bool {
        self.reach.iter().all(|(only, listed)| {
            only.as_ref().is_none_or(|only| only == id) && (listed.is_empty() || listed.contains(identifier))
        })
    }
}

/// A path of delegations, root first, ending with the presented one. Not yet checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lineage(Vec<DelegationEdge>);

impl Lineage {
    /// Takes the edges as loaded, root first.
    pub fn new(edges: Vec<DelegationEdge>) -> Self {
        Self(edges)
    }

    /// The edges, root first.
    pub fn edges(&self) -> &[DelegationEdge] {
        &self.0
    }

    /// The presented edge, if it was found at all.
    pub fn presented(&self) -> Option<&DelegationEdge> {
        self.0.last()
    }

    /// Runs every check on the path. Pure memory; cost grows with the number of edges, which `max_hops` bounds.
    ///
    /// `source` and `target` are the sessions of the presented edge, `None` when they do not exist. `max_hops` is the
    /// platform's limit on the length of a path (10).
    ///
    /// # Errors
    /// The first check that failed, in the order of the contract.
    pub fn check(
        &self,
        source: Option<&GovernedSession>,
        target: Option<&GovernedSession>,
        request: &Request<'_>,
        now: UnixSeconds,
        max_hops: u32,
    ) -> Result<Chain, LineageError> {
        let edge = self.presented_edge(request, now)?;
        let (source, target) = endpoints(edge, source, target, request, now)?;
        let constraints = self.constraints()?;
        self.check_request(&constraints, request, max_hops)?;
        self.check_path(&constraints, request, now, max_hops)?;
        self.check_continuity(source, target)?;
        Ok(self.chain(&constraints, edge))
    }

    fn presented_edge(
        &self,
        request: &Request<'_>,
        now: UnixSeconds,
    ) -> Result<&DelegationEdge, LineageError> {
        let edge = self
            .presented()
            .filter(|edge| edge.id == *request.delegation_id && edge.is_live(request.zone_id, now))
            .ok_or(LineageError::EdgeInactive)?;
        if edge.target_session_id != *request.session_id {
            return Err(LineageError::TargetMismatch);
        }
        Ok(edge)
    }

    /// The constraints of every edge; one unreadable document anywhere leaves nothing.
    fn constraints(&self) -> Result<Vec<&Constraints>, LineageError> {
        let read = self.0.iter().map(|edge| edge.constraints.as_ref());
        read.collect::<Result<_, _>>()
            .map_err(|_unreadable| LineageError::ConstraintsInvalid)
    }

    /// Scopes, budget and token lifetime against every edge, not only the presented one.
    fn check_request(
        &self,
        constraints: &[&Constraints],
        request: &Request<'_>,
        max_hops: u32,
    ) -> Result<(), LineageError> {
        let scopes_fit = self.0.iter().all(|edge| request.scopes.is_subset(&edge.scopes));
        let budget_fits = constraints.iter().all(|limits| {
            limits
                .budget
                .as_ref()
                .is_none_or(|budget| budget.permits(request.scopes))
        });
        if !scopes_fit || !budget_fits {
            return Err(LineageError::ScopesExceeded);
        }
        let requested_ttl = request.ttl_seconds.unwrap_or(0);
        let within = |limits: &&Constraints| limits.ttl_seconds.is_none_or(|most| requested_ttl <= most);
        if !constraints.iter().all(within) {
            return Err(LineageError::TtlExceeded);
        }
        if constraints.last().is_some_and(|limits| limits.hops() > max_hops) {
            return Err(LineageError::HopLimit);
        }
        Ok(())
    }

    /// The path is whole: live, in order, from a root, and no edge is followed by more edges than it allows.
    fn check_path(
        &self,
        constraints: &[&Constraints],
        request: &Request<'_>,
        now: UnixSeconds,
        max_hops: u32,
    ) -> Result<(), LineageError> {
        let live = self.0.iter().all(|edge| edge.is_live(request.zone_id, now));
        let parents = std::iter::once(None).chain(self.0.iter().map(|edge| Some(&edge.id)));
        let ordered = self
            .0
            .iter()
            .zip(parents)
            .all(|(edge, parent)| edge.parent_edge_id.as_ref() == parent);
        let remaining = (1..=constraints.len()).rev();
        let short_enough = constraints
            .iter()
            .zip(remaining)
            .all(|(limits, edges_from_here)| {
                u32::try_from(edges_from_here).is_ok_and(|edges| edges <= limits.hops() && edges <= max_hops)
            });
        if live && ordered && short_enough {
            Ok(())
        } else {
            Err(LineageError::PathInvalid)
        }
    }

    fn check_continuity(
        &self,
        source: &GovernedSession,
        target: &GovernedSession,
    ) -> Result<(), LineageError> {
        let continuous = self.0.windows(2).all(|pair| match pair {
            [before, after] => {
                before.receiver_application_id == after.issuer_application_id
                    && before.target_session_id == after.source_session_id
            }
            _ => true,
        });
        if !continuous {
            return Err(LineageError::ChainDiscontinuous);
        }
        let ends_match = self.0.last().is_some_and(|edge| {
            edge.issuer_application_id == source.application_id
                && edge.receiver_application_id == target.application_id
        });
        if ends_match {
            Ok(())
        } else {
            Err(LineageError::EndpointsMismatch)
        }
    }

    fn chain(&self, constraints: &[&Constraints], presented: &DelegationEdge) -> Chain {
        let mut hops: Vec<ChainHop> = self
            .0
            .iter()
            .map(|edge| ChainHop {
                application_id: edge.issuer_application_id.clone(),
                session_id: edge.source_session_id.clone(),
                delegation_id: Some(edge.id.clone()),
            })
            .collect();
        hops.push(ChainHop {
            application_id: presented.receiver_application_id.clone(),
            session_id: presented.target_session_id.clone(),
            delegation_id: None,
        });
        let ends = self.0.iter().map(|edge| edge.expires_at);
        let constraint_ends = constraints.iter().filter_map(|limits| limits.expires_at);
        let reach = self.0.iter().zip(constraints);
        Chain {
            path: self.0.iter().map(|edge| edge.id.clone()).collect(),
            hops,
            source_session_id: presented.source_session_id.clone(),
            target_session_id: presented.target_session_id.clone(),
            expires_at: ends.chain(constraint_ends).min().unwrap_or(presented.expires_at),
            ttl_seconds: constraints.iter().filter_map(|limits| limits.ttl_seconds).min(),
            scopes: self.0.iter().fold(presented.scopes.clone(), |held, edge| {
                held.intersection(&edge.scopes)
            }),
            reach: reach
                .map(|(edge, limits)| (edge.resource_id.clone(), limits.resources.clone()))
                .collect(),
        }
    }
}

/// Both sessions of the edge live, owned by whom the edge says, and bound to the presented record.
fn endpoints<'s>(
    edge: &DelegationEdge,
    source: Option<&'s GovernedSession>,
    target: Option<&'s GovernedSession>,
    request: &Request<'_>,
    now: UnixSeconds,
) -> Result<(&'s GovernedSession, &'s GovernedSession), LineageError> {
    let source = source
        .filter(|session| session.id == edge.source_session_id && session.is_live(request.zone_id, now))
        .ok_or(LineageError::SourceInactive)?;
    let target = target
        .filter(|session| session.id == edge.target_session_id && session.is_live(request.zone_id, now))
        .filter(|session| session.application_id == *request.caller)
        .ok_or(LineageError::TargetUnauthorized)?;
    if request
        .bound_record
        .is_some_and(|record| *record != target.subject_authority_record_id)
    {
        return Err(LineageError::SessionBinding);
    }
    let owners_match = edge.issuer_application_id == source.application_id
        && edge.receiver_application_id == target.application_id;
    if owners_match {
        Ok((source, target))
    } else {
        Err(LineageError::ApplicationMismatch)
    }
}

#[cfg(test)]
mod tests;
