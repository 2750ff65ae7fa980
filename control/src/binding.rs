//! Which application may present a reusable mandate for a resource at the gateway?

use caracal_model::{ApplicationId, ResourceId, ZoneId};
use caracal_storage::binding::{self, Binding};
use caracal_storage::{ZoneScope, resource as resources};
use serde_json::{Map, Value};

use crate::caller::Caller;
use crate::change::{Change, Done, Kind};
use crate::control::Control;
use crate::refusal::{Code, Refusal};
use crate::resource;

/// The binding of one resource.
pub(crate) async fn find(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    id: &ResourceId,
) -> Result<Binding, Refusal> {
    let found = resource::find(control, caller, zone, id).await?;
    let mut tx = control.database.read_in(ZoneScope::Zone(zone)).await?;
    let binding = binding::find(&mut tx, zone, &found.identifier).await?;
    binding.ok_or_else(|| Code::GatewayBindingNotFound.into())
}

/// Binds a resource, in place of any other binding.
pub(crate) async fn put(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    id: &ResourceId,
    application: &ApplicationId,
    members: &Map<String, Value>,
) -> Result<Binding, Refusal> {
    let mut change = Change::in_zone(control, caller, zone).await?;
    let found = resources::lock(change.tx(), zone, id)
        .await?
        .ok_or(Code::ResourceNotFound)?;
    if found.identifier == control.audience {
        return Err(Code::ProtectedResource.into());
    }
    let bound = resource::bind(&mut change, zone, &found.identifier, application).await?;
    change
        .commit(done(zone, id, 200, Kind::Update, Some(members)))
        .await?;
    Ok(bound)
}

/// Removes the binding: from now on only one-shot mandates pass for this resource.
pub(crate) async fn delete(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    id: &ResourceId,
) -> Result<(), Refusal> {
    let mut change = Change::in_zone(control, caller, zone).await?;
    let found = resources::lock(change.tx(), zone, id)
        .await?
        .ok_or(Code::ResourceNotFound)?;
    if !binding::delete(change.tx(), zone, &found.identifier).await? {
        return Err(Code::GatewayBindingNotFound.into());
    }
    change.commit(done(zone, id, 204, Kind::Delete, None)).await
}

fn done<'a>(
    zone: &'a ZoneId,
    id: &'a ResourceId,
    status: u16,
    kind: Kind,
    members: Option<&'a Map<String, Value>>,
) -> Done<'a> {
    Done {
        status,
        kind,
        entity: ("gateway-bindings", id.as_str()),
        zone,
        members,
    }
}
