//! What does a child session receive from its parent when nobody says otherwise? A copy of the one delegation its parent lives on.

use caracal_model::delegation::{InboundEdge, ParentError, resolve_parent};
use caracal_model::{DelegationId, UnixSeconds, ZoneId};
use caracal_storage::delegation::{self, Edge, NewEdge};
use caracal_storage::session::Session;
use caracal_storage::{StorageError, WriteTx};

use crate::delegation::announce_created;
use crate::refusal::Refusal;

/// Copies the parent's delegation to the child, if the parent lives on one. A parent that once had one and lost it passes nothing on:
/// the child is refused rather than left unbounded.
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
    let received = delegation::inbound(tx, zone, &parent.id).await?;
    let candidates: Vec<&Edge> = received
        .iter()
        .filter(|edge| edge.receiver_application_id == child.application_id)
        .collect();
    if candidates.is_empty() && named.is_none() {
        return Ok(None);
    }
    let named = named
        .map(|id| id.parse::<DelegationId>())
        .transpose()
        .map_err(|_invalid| Refusal::conflict("inherit_parent_edge_not_active"))?;
    let edges = inbound_edges(candidates.iter().copied(), zone, now)?;
    let chosen = match resolve_parent(&edges, named.as_ref()) {
        Ok(Some(edge)) => edge.id.clone(),
        Ok(None) | Err(ParentError::NotActive) => {
            return Err(Refusal::conflict("inherit_parent_edge_not_active"));
        }
        Err(ParentError::Ambiguous) => return Err(Refusal::conflict("inherit_parent_edge_ambiguous")),
    };
    let Some(source) = candidates.into_iter().find(|edge| edge.id == chosen.as_str()) else {
        return Err(Refusal::conflict("inherit_parent_edge_not_active"));
    };
    copy(tx, zone, source, parent, child).await.map(Some)
}

/// Edges that ever pointed at a session, in the words of the model.
///
/// # Errors
/// [`StorageError::Inconsistent`] for a row this version cannot read. An edge whose constraints cannot be read is not live.
pub(crate) fn inbound_edges<'e>(
    edges: impl Iterator<Item = &'e Edge>,
    zone: &ZoneId,
    now: UnixSeconds,
) -> Result<Vec<InboundEdge>, StorageError> {
    let mut inbound = Vec::new();
    for edge in edges {
        let model = edge.to_model()?;
        let is_live = model.is_live(zone, now);
        if let Ok(authority) = model.authority(None) {
            inbound.push(InboundEdge {
                id: model.id.clone(),
                authority,
                is_live,
            });
        } else {
            let empty = caracal_model::delegation::Authority::new(
                None,
                caracal_model::ScopeSet::empty(),
                UnixSeconds(0),
                &Default::default(),
            );
            inbound.push(InboundEdge {
                id: model.id.clone(),
                authority: empty,
                is_live: false,
            });
        }
    }
    Ok(inbound)
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
        constraints_json: &source.constraints_json,
        expires_at: source.expires_at,
    };
    let Some((edge, epoch)) = delegation::insert(tx, &new).await? else {
        return Err(Refusal::conflict("inherit_parent_edge_not_active"));
    };
    announce_created(tx, zone, &edge, epoch).await?;
    Ok(id)
}
