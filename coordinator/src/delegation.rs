//! Delegations: how authority is passed on, narrower each time, and taken back.

pub(crate) mod create;
pub(crate) mod received;
pub(crate) mod revoke;

use caracal_model::ZoneId;
use caracal_storage::WriteTx;
use caracal_storage::delegation::Edge;
use caracal_storage::outbox::{self, Producer};
use caracal_wire::event::{DelegationsInvalidate, EdgeEvent};
use caracal_wire::stream::DELEGATIONS_INVALIDATE;

use crate::refusal::Refusal;

/// Announces a new edge in the transaction that made it.
pub(crate) async fn announce_created(
    tx: &mut WriteTx,
    zone: &ZoneId,
    edge: &Edge,
    epoch: i64,
) -> Result<(), Refusal> {
    let event = DelegationsInvalidate {
        event: EdgeEvent::Create,
        zone_id: zone.clone(),
        edge_id: edge.id.parse().ok(),
        source_session_id: edge.source_session_id.parse().ok(),
        target_session_id: edge.target_session_id.parse().ok(),
        affected_edges: None,
        edge_ids: Vec::new(),
        reason: None,
        epoch: u64::try_from(epoch).unwrap_or_default(),
    };
    let key = format!("edge_create:{}", edge.id);
    outbox::enqueue_once(
        tx,
        Producer::Coordinator,
        DELEGATIONS_INVALIDATE,
        &key,
        &event.to_fields(),
    )
    .await?;
    Ok(())
}
