//! `/v1/zones/{zone}/resources/{id}/gateway-binding`

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use caracal_model::{ApplicationId, ResourceId, ZoneId};
use caracal_storage::binding::Binding;
use serde::Serialize;

use super::answer::{no_content, ok};
use super::extract::Ids;
use crate::binding;
use crate::body::Body;
use crate::caller::Caller;
use crate::control::Control;
use crate::refusal::{Code, Refusal};
use crate::timestamp::Timestamp;

#[derive(Serialize)]
struct BindingView<'a> {
    zone_id: &'a ZoneId,
    resource_id: &'a ResourceId,
    resource_identifier: &'a str,
    application_id: &'a ApplicationId,
    created_at: Timestamp,
    updated_at: Timestamp,
}

fn view<'a>(zone: &'a ZoneId, resource: &'a ResourceId, binding: &'a Binding) -> BindingView<'a> {
    BindingView {
        zone_id: zone,
        resource_id: resource,
        resource_identifier: &binding.resource_identifier,
        application_id: &binding.application_id,
        created_at: Timestamp(binding.created_at),
        updated_at: Timestamp(binding.updated_at),
    }
}

pub(super) async fn find(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids((zone, id)): Ids<(ZoneId, ResourceId)>,
) -> Result<Response, Refusal> {
    let found = binding::find(&control, &caller, &zone, &id).await?;
    Ok(ok(view(&zone, &id, &found)))
}

pub(super) async fn put(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids((zone, id)): Ids<(ZoneId, ResourceId)>,
    mut body: Body,
) -> Result<Response, Refusal> {
    let application = body.required_text("application_id", 1..=128);
    let application: Option<ApplicationId> = application.parse().ok();
    if application.is_none() && body.has("application_id") {
        body.problem(&["application_id"], "Expected an id");
    }
    body.finish_strict(Code::InvalidGatewayBinding)?;
    let application = application.ok_or(Code::InvalidGatewayBinding)?;
    let bound = binding::put(&control, &caller, &zone, &id, &application, body.members()).await?;
    Ok(ok(view(&zone, &id, &bound)))
}

pub(super) async fn delete(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids((zone, id)): Ids<(ZoneId, ResourceId)>,
) -> Result<Response, Refusal> {
    binding::delete(&control, &caller, &zone, &id).await?;
    Ok(no_content())
}
