//! Is what is passed on there to be passed on: declared by the resources, and held by the source?

use caracal_model::delegation::{Authority, InboundEdge, ParentError, attenuate, resolve_parent};
use caracal_model::{DelegationId, ResourceId, ResourceIdentifier, ScopeSet, UnixSeconds, ZoneId};
use caracal_storage::WriteTx;
use caracal_storage::delegation::{self, Edge, NamedResource};

use super::wanted::Wanted;
use crate::refusal::Refusal;

/// The resources that are named, each of which must exist and together declare every scope.
pub(super) struct Resources {
    /// The one of `resource_id`.
    pub(super) named: Option<NamedResource>,
}

pub(super) async fn check_resources(
    tx: &mut WriteTx,
    zone: &ZoneId,
    wanted: &Wanted,
) -> Result<Resources, Refusal> {
    if wanted.is_broad() {
        return Ok(Resources { named: None });
    }
    let listed = wanted
        .constraints
        .resources
        .iter()
        .map(ResourceIdentifier::as_str);
    let names: Vec<&str> = wanted
        .body
        .resource_id
        .as_deref()
        .into_iter()
        .chain(listed)
        .collect();
    let found = delegation::resources(tx, zone, &names).await?;
    let named = match wanted.body.resource_id.as_deref() {
        None => None,
        Some(name) => Some(
            pick(&found, name)
                .ok_or_else(|| Refusal::not_found("resource_not_found"))?
                .clone(),
        ),
    };
    let all_listed = wanted.constraints.resources.iter().all(|listed| {
        found
            .iter()
            .any(|resource| resource.identifier == listed.as_str())
    });
    if !all_listed {
        return Err(Refusal::not_found("resource_not_found"));
    }
    let outside = |resource: &NamedResource| {
        !wanted
            .constraints
            .resources
            .iter()
            .any(|listed| listed.as_str() == resource.identifier)
    };
    if !wanted.constraints.resources.is_empty() && named.as_ref().is_some_and(outside) {
        return Err(Refusal::bad_request("delegation_resource_scope_mismatch"));
    }
    // Not everything that was found: a row id may look like an identifier.
    let is_listed = |resource: &&NamedResource| !outside(resource);
    let declared: ScopeSet = found
        .iter()
        .filter(is_listed)
        .chain(named.as_ref())
        .flat_map(|resource| resource.scopes.iter())
        .collect();
    if !wanted.scopes.is_subset(&declared) {
        return Err(Refusal::forbidden("delegation_scopes_exceed_resource"));
    }
    Ok(Resources { named })
}

/// An identifier wins over a row id of the same text.
fn pick<'r>(found: &'r [NamedResource], name: &str) -> Option<&'r NamedResource> {
    found
        .iter()
        .find(|resource| resource.identifier == name)
        .or_else(|| found.iter().find(|resource| resource.id == name))
}

/// The edge the new one narrows; none when the source never received anything.
pub(super) async fn parent_of(
    tx: &mut WriteTx,
    zone: &ZoneId,
    wanted: &Wanted,
    received: &[Edge],
    resources: &Resources,
    now: UnixSeconds,
) -> Result<Option<InboundEdge>, Refusal> {
    let inbound = inbound_with_identifiers(tx, zone, received, now).await?;
    let not_active = || Refusal::forbidden("parent_delegation_not_active");
    let named = wanted
        .body
        .parent_edge_id
        .as_deref()
        .map(str::parse::<DelegationId>)
        .transpose()
        .map_err(|_invalid| not_active())?;
    let parent = match resolve_parent(&inbound, named.as_ref()) {
        Ok(parent) => parent.cloned(),
        Err(ParentError::NotActive) => return Err(not_active()),
        Err(ParentError::Ambiguous) => return Err(Refusal::conflict("parent_delegation_ambiguous")),
    };
    if let Some(parent) = &parent {
        let child = Authority::new(
            named_resource(resources)?,
            wanted.scopes.clone(),
            wanted.expires_at,
            &wanted.constraints,
        );
        attenuate(&parent.authority, &child).map_err(|exceeds| {
            tracing::info!(%exceeds, "a delegation goes beyond its parent");
            Refusal::forbidden("delegation_exceeds_parent_authority")
        })?;
    }
    Ok(parent)
}

async fn inbound_with_identifiers(
    tx: &mut WriteTx,
    zone: &ZoneId,
    received: &[Edge],
    now: UnixSeconds,
) -> Result<Vec<InboundEdge>, Refusal> {
    let mut inbound = crate::session::inherit::inbound_edges(received, zone, now)?;
    let ids: Vec<&str> = received
        .iter()
        .filter_map(|edge| edge.resource_id.as_deref())
        .collect();
    let known = if ids.is_empty() {
        Vec::new()
    } else {
        delegation::resources(tx, zone, &ids).await?
    };
    for edge in &mut inbound {
        let id = edge.authority.resource_id.as_ref().map(ResourceId::as_str);
        edge.authority.resource_identifier = known
            .iter()
            .find(|resource| Some(resource.id.as_str()) == id)
            .and_then(|resource| resource.identifier.parse().ok());
    }
    Ok(inbound)
}

fn named_resource(
    resources: &Resources,
) -> Result<Option<(ResourceId, Option<ResourceIdentifier>)>, Refusal> {
    let Some(named) = &resources.named else {
        return Ok(None);
    };
    let id = named
        .id
        .parse()
        .map_err(|error| Refusal::Internal(Box::new(error)))?;
    Ok(Some((id, named.identifier.parse().ok())))
}
