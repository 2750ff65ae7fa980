//! What does a child session receive from its parent when nobody says otherwise? A copy of the one delegation its parent lives on.
//!
//! The copy is a delegation like any other: it counts as a hop. Under a parent that may not be passed on (`max_hops` 1) it is made all
//! the same, so that the child is bound by it and never acts as a root, but the STS mints nothing for it.

use caracal_model::delegation::{Authority, Constraints, InboundEdge, ParentError, resolve_parent};
use caracal_model::{DelegationId, ScopeSet, UnixSeconds, ZoneId};
use caracal_storage::delegation::{self, Edge, NewEdge};
use caracal_storage::session::Session;
use caracal_storage::{StorageError, WriteTx};
use serde_json::Value;

use crate::delegation::announce_created;
use crate::refusal::Refusal;

/// Copies the parent's delegation to the child, if the parent lives on one and both are of one application. A parent that once had one
/// and lost it passes nothing on: the child is refused rather than left unbounded.
///
/// # Errors
/// 409 `inherit_parent_edge_not_active`, `inherit_parent_edge_ambiguous`.
pub(crate) async fn copy_to_child(
    tx: &mut WriteTx,
    zone: &ZoneId,
    parent: &Session,
    child: &Session,
    named: Option<&str>,
    now: UnixSeconds,
) -> Result<Option<DelegationId>, Refusal> {
    let not_active = || Refusal::conflict("inherit_parent_edge_not_active");
    if parent.application_id != child.application_id {
        // Another application has an authority of its own.
        return named.map_or(Ok(None), |_named| Err(not_active()));
    }
    let received = delegation::inbound(&mut *tx, zone, &parent.id).await?;
    if received.is_empty() && named.is_none() && !parent.constrained {
        return Ok(None);
    }
    let named = named
        .map(str::parse::<DelegationId>)
        .transpose()
        .map_err(|_invalid| not_active())?;
    let edges = inbound_edges(&received, zone, now)?;
    let chosen = match resolve_parent(&edges, named.as_ref()) {
        Ok(Some(edge)) => edge.id.clone(),
        Ok(None) | Err(ParentError::NotActive) => return Err(not_active()),
        Err(ParentError::Ambiguous) => return Err(Refusal::conflict("inherit_parent_edge_ambiguous")),
    };
    match received.iter().find(|edge| edge.id == chosen.as_str()) {
        Some(source) => copy(tx, zone, source, parent, child).await.map(Some),
        None => Err(not_active()),
    }
}

/// Edges that ever pointed at a session, in the words of the model.
///
/// # Errors
/// [`StorageError::Inconsistent`] for a row this version cannot read. An edge whose constraints cannot be read is not live.
pub(crate) fn inbound_edges(
    edges: &[Edge],
    zone: &ZoneId,
    now: UnixSeconds,
) -> Result<Vec<InboundEdge>, StorageError> {
    edges
        .iter()
        .map(|edge| {
            let model = edge.to_model()?;
            let is_live = model.is_live(zone, now) && model.constraints.is_ok();
            let nothing = || {
                let none = Constraints::default();
                Authority::new(None, ScopeSet::empty(), UnixSeconds(0), &none)
            };
            Ok(InboundEdge {
                authority: model.authority(None).unwrap_or_else(|_unreadable| nothing()),
                id: model.id,
                is_live,
            })
        })
        .collect()
}

/// The constraints of the copy: those of its source, with one hop less, so that what the child may pass on is what the STS will accept.
fn one_hop_less(source: &Edge) -> Result<Value, Refusal> {
    let mut constraints = source
        .to_model()?
        .constraints
        .map_err(|error| Refusal::Internal(Box::new(error)))?;
    constraints.max_hops = Some(constraints.hops().saturating_sub(1).max(1));
    Ok(constraints.to_json())
}

async fn copy(
    tx: &mut WriteTx,
    zone: &ZoneId,
    source: &Edge,
    parent: &Session,
    child: &Session,
) -> Result<DelegationId, Refusal> {
    let id = crate::http::new_id::<DelegationId>()?;
    let new = NewEdge {
        id: &id,
        zone_id: zone,
        source_session_id: &parent.id,
        target_session_id: &child.id,
        issuer_application_id: &source.receiver_application_id,
        receiver_application_id: &child.application_id,
        parent_edge_id: Some(&source.id),
        resource_id: source.resource_id.as_deref(),
        scopes: &source.scopes,
        constraints_json: &one_hop_less(source)?,
        expires_at: source.expires_at,
    };
    let Some((edge, epoch)) = delegation::insert(tx, &new).await? else {
        return Err(Refusal::conflict("inherit_parent_edge_not_active"));
    };
    announce_created(tx, zone, &edge, epoch).await?;
    Ok(id)
}
