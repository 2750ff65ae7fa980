//! Does a child delegation stay within its parent?
//!
//! Authority only ever shrinks as it is passed on. [`attenuate`] decides it for one step;
//! [`authority_to_delegate`] decides from what a session passes on at all.

use std::collections::BTreeSet;

use super::constraints::{Budget, Constraints, fits};
use crate::id::{DelegationId, ResourceId};
use crate::scope::ScopeSet;
use crate::text::ResourceIdentifier;
use crate::time::UnixSeconds;

/// What one delegation gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// The one resource the edge names, if it names one.
    pub resource_id: Option<ResourceId>,
    /// The identifier of `resource_id`, when the caller knows it. Without it two edges can be compared on their resource
    /// only by row id.
    pub resource_identifier: Option<ResourceIdentifier>,
    /// The resources its constraints name; empty means not limited there.
    pub resources: BTreeSet<ResourceIdentifier>,
    /// The scopes it carries.
    pub scopes: ScopeSet,
    /// When it ends: the earlier of the edge's and its constraints' expiry.
    pub expires_at: UnixSeconds,
    /// How many edges may follow one another from here, this one included; at least one.
    pub max_hops: u32,
    /// Longest lifetime of a token minted under it, in seconds.
    pub ttl_seconds: Option<i64>,
    /// A further limit on the scopes of one request.
    pub budget: Option<Budget>,
}

impl Authority {
    /// The authority that an edge with these properties gives.
    pub fn new(
        resource: Option<(ResourceId, Option<ResourceIdentifier>)>,
        scopes: ScopeSet,
        expires_at: UnixSeconds,
        constraints: &Constraints,
    ) -> Self {
        let (resource_id, resource_identifier) = match resource {
            Some((id, identifier)) => (Some(id), identifier),
            None => (None, None),
        };
        Self {
            resource_id,
            resource_identifier,
            resources: constraints.resources.iter().cloned().collect(),
            scopes,
            expires_at: constraints
                .expires_at
                .map_or(expires_at, |end| end.min(expires_at)),
            max_hops: constraints.hops(),
            ttl_seconds: constraints.ttl_seconds,
            budget: constraints.budget.clone(),
        }
    }

    /// Whether the resource with this row id and identifier is within reach.
    pub fn reaches(&self, id: &ResourceId, identifier: &ResourceIdentifier) -> bool {
        self.resource_id.as_ref().is_none_or(|named| named == id)
            && (self.resources.is_empty() || self.resources.contains(identifier))
    }

    /// Whether a request for these scopes is within scopes and budget.
    pub fn permits(&self, requested: &ScopeSet) -> bool {
        requested.is_subset(&self.scopes)
            && self
                .budget
                .as_ref()
                .is_none_or(|budget| budget.permits(requested))
    }

    /// Whether a session that holds this may pass anything on.
    pub fn may_delegate(&self) -> bool {
        self.max_hops > 1
    }
}

/// The first respect in which a child goes beyond its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Exceeds {
    /// A scope the parent does not carry.
    #[error("scopes exceed the parent delegation")]
    Scopes,
    /// An expiry later than the parent's.
    #[error("expiry exceeds the parent delegation")]
    Expiry,
    /// A resource out of the parent's reach, or no limit where the parent has one.
    #[error("resources exceed the parent delegation")]
    Resources,
    /// The parent may not be passed on, or the child allows as many hops as the parent or more.
    #[error("hops exceed the parent delegation")]
    Hops,
    /// A longer token lifetime than the parent's, or none where the parent has one.
    #[error("token lifetime exceeds the parent delegation")]
    Ttl,
    /// A larger budget than the parent's.
    #[error("budget exceeds the parent delegation")]
    Budget,
}

/// Whether `child` may be created under `parent`: all six narrowing rules of
/// `docs/contract/delegation-rules.md`, "Narrowing".
///
/// # Errors
/// The first rule broken, in the order scopes, expiry, resources, hops, token lifetime, budget.
pub fn attenuate(parent: &Authority, child: &Authority) -> Result<(), Exceeds> {
    let rules = [
        (Exceeds::Scopes, child.scopes.is_subset(&parent.scopes)),
        (Exceeds::Expiry, child.expires_at <= parent.expires_at),
        (Exceeds::Resources, resources_narrow(parent, child)),
        (
            Exceeds::Hops,
            parent.may_delegate() && child.max_hops < parent.max_hops,
        ),
        (Exceeds::Ttl, ttl_narrows(parent.ttl_seconds, child.ttl_seconds)),
        (Exceeds::Budget, budget_narrows(parent, child)),
    ];
    match rules.into_iter().find(|(_, kept)| !kept) {
        Some((rule, _)) => Err(rule),
        None => Ok(()),
    }
}

/// Every resource within the child's reach must be within the parent's, by id and by identifier.
fn resources_narrow(parent: &Authority, child: &Authority) -> bool {
    let names_parents_resource = match &parent.resource_id {
        None => true,
        Some(named) if child.resource_id.as_ref() == Some(named) => true,
        // The child names it by identifier only, or names another one.
        Some(_) => {
            child.resource_id.is_none()
                && !child.resources.is_empty()
                && child
                    .resources
                    .iter()
                    .all(|resource| Some(resource) == parent.resource_identifier.as_ref())
        }
    };
    names_parents_resource && within_listed(&parent.resources, child)
}

/// Whether the parent's list of identifiers, if it has one, covers the child.
fn within_listed(listed: &BTreeSet<ResourceIdentifier>, child: &Authority) -> bool {
    if listed.is_empty() {
        return true;
    }
    if !child.resources.is_empty() {
        return child.resources.is_subset(listed);
    }
    child
        .resource_identifier
        .as_ref()
        .is_some_and(|only| child.resource_id.is_some() && listed.contains(only))
}

fn ttl_narrows(parent: Option<i64>, child: Option<i64>) -> bool {
    match (parent, child) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(most), Some(ttl)) => ttl <= most,
    }
}

/// A child without budget of its own is measured by its scopes.
fn budget_narrows(parent: &Authority, child: &Authority) -> bool {
    match (&parent.budget, &child.budget) {
        (None, _) => true,
        (Some(Budget::Count(most)), None) => fits(child.scopes.len(), *most),
        (Some(Budget::Count(most)), Some(Budget::Count(count))) => count <= most,
        (Some(Budget::Count(most)), Some(Budget::Scopes(listed))) => fits(listed.len(), *most),
        (Some(Budget::Scopes(permitted)), Some(Budget::Scopes(listed))) => listed.is_subset(permitted),
        (Some(Budget::Scopes(permitted)), None | Some(Budget::Count(_))) => child.scopes.is_subset(permitted),
    }
}

/// What a session has received, looking at all the edges that ever pointed at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inbound {
    /// It was never delegated to: it acts on its application's own authority.
    None,
    /// It holds this authority.
    Live(Box<Authority>),
    /// It was delegated to once, and that has expired or was revoked.
    Lapsed,
}

/// On what a new delegation rests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// On the application's own authority: the new edge is a root.
    Root,
    /// On a received authority: the new edge must pass [`attenuate`] against it.
    Under(Box<Authority>),
}

impl Source {
    /// Checks a proposed child against this source.
    ///
    /// # Errors
    /// The rule broken; see [`attenuate`]. A root source accepts every child.
    pub fn permits(&self, child: &Authority) -> Result<(), Exceeds> {
        match self {
            Self::Root => Ok(()),
            Self::Under(parent) => attenuate(parent, child),
        }
    }
}

/// A session whose received authority has lapsed has nothing to pass on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the delegation this session received is no longer active")]
pub struct LapsedAuthority;

/// From what a session passes on.
///
/// # Errors
/// [`LapsedAuthority`]: losing a received delegation never turns a session into a root.
pub fn authority_to_delegate(inbound: Inbound) -> Result<Source, LapsedAuthority> {
    match inbound {
        Inbound::None => Ok(Source::Root),
        Inbound::Live(authority) => Ok(Source::Under(authority)),
        Inbound::Lapsed => Err(LapsedAuthority),
    }
}

/// One edge that points, or pointed, at the delegating session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboundEdge {
    /// Its id.
    pub id: DelegationId,
    /// What it gives while it lives.
    pub authority: Authority,
    /// Whether it is active and unexpired.
    pub is_live: bool,
}

/// Why no parent could be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParentError {
    /// The named parent is not among the live inbound edges, or all inbound edges have lapsed.
    #[error("the parent delegation is not active")]
    NotActive,
    /// Several inbound edges are live and none was named.
    #[error("several inbound delegations are active; name one")]
    Ambiguous,
}

impl From<LapsedAuthority> for ParentError {
    fn from(_: LapsedAuthority) -> Self {
        Self::NotActive
    }
}

/// Chooses the parent of a new edge among everything the session ever received. `Ok(None)` means: it never received
/// anything, the new edge is a root, and a named parent is ignored.
///
/// # Errors
/// [`ParentError::NotActive`] when the session received something but none of it (or not the named one) is live;
/// [`ParentError::Ambiguous`] when several are live and none is named.
pub fn resolve_parent<'e>(
    inbound: &'e [InboundEdge],
    named: Option<&DelegationId>,
) -> Result<Option<&'e InboundEdge>, ParentError> {
    if inbound.is_empty() {
        return Ok(None);
    }
    let mut candidates = inbound
        .iter()
        .filter(|edge| edge.is_live && named.is_none_or(|wanted| edge.id == *wanted));
    let first = candidates.next().ok_or(ParentError::NotActive)?;
    match candidates.next() {
        None => Ok(Some(first)),
        Some(_) => Err(ParentError::Ambiguous),
    }
}

#[cfg(test)]
mod tests;
