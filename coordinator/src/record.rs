//! How is a change recorded? In the transaction that makes it, in the zone's admin audit chain.

use caracal_model::ZoneId;
use caracal_storage::admin_audit::{self, Record};
use caracal_storage::{StorageError, WriteTx};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::auth::Caller;
use crate::state::Coordinator;

/// What was asked, as far as the record needs it.
#[derive(Debug, Clone)]
pub(crate) struct Change<'a> {
    pub(crate) zone: &'a ZoneId,
    pub(crate) request_id: &'a str,
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) entity_type: &'static str,
    pub(crate) entity_id: &'a str,
    pub(crate) status: u16,
}

/// Appends the record. Call it last: the chain's head is held until the transaction ends.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub(crate) async fn append(
    coordinator: &Coordinator,
    tx: &mut WriteTx,
    caller: &Caller,
    change: &Change<'_>,
) -> Result<(), StorageError> {
    let scopes = caller.scopes.to_text();
    let record = Record {
        id: &Uuid::now_v7().to_string(),
        request_id: change.request_id,
        actor_id: Some(&caller.subject),
        actor_name: Some(&caller.client_id),
        actor_scope: Some(&scopes),
        action: &format!("{} {}", change.method, change.path),
        method: change.method,
        path: &change.path,
        zone_id: Some(change.zone),
        entity_type: Some(change.entity_type),
        entity_id: Some(change.entity_id),
        status_code: change.status,
        payload: None,
        occurred_at: OffsetDateTime::from(coordinator.clock.now()),
    };
    let key = coordinator.audit_key.as_ref().map(caracal_bus::HmacKey::expose);
    admin_audit::append(tx, key, &record).await.map(drop)
}
