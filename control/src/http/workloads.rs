//! `/v1/zones/{zone}/workloads`

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use caracal_chassis::Secret;
use caracal_model::{ApplicationId, ZoneId};
use caracal_storage::workload::Workload;
use serde::Serialize;
use serde_json::Value;

use super::answer::{created, list as list_answer, no_content, ok};
use super::extract::{Ids, Query};
use super::view::{AttributionView, position};
use crate::body::Body;
use crate::caller::Caller;
use crate::control::Control;
use crate::refusal::{Code, Refusal};
use crate::timestamp::Timestamp;
use crate::workload::{self, Binding};

#[derive(Serialize)]
struct WorkloadView<'a> {
    id: &'a str,
    zone_id: &'a ZoneId,
    name: &'a str,
    bindings: &'a Value,
    #[serde(flatten)]
    attribution: AttributionView<'a>,
    created_at: Timestamp,
    updated_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'a str>,
}

fn view(workload: &Workload) -> WorkloadView<'_> {
    WorkloadView {
        id: &workload.id,
        zone_id: &workload.zone_id,
        name: &workload.name,
        bindings: &workload.bindings,
        attribution: AttributionView::from(&workload.attribution),
        created_at: Timestamp(workload.created_at),
        updated_at: Timestamp(workload.updated_at),
        secret: None,
    }
}

fn with_secret<'a>(workload: &'a Workload, secret: &'a Secret) -> WorkloadView<'a> {
    WorkloadView {
        secret: Some(secret.expose()),
        ..view(workload)
    }
}

/// The id in the path. Workload ids have the form of every other id.
type Id = ApplicationId;

pub(super) async fn list(
    State(control): State<Arc<Control>>,
    Ids(zone): Ids<ZoneId>,
    query: Query,
) -> Result<Response, Refusal> {
    let page = query.list_page()?;
    let workloads = workload::list(&control, &zone, &page).await?;
    let at = |workload: &Workload| position(workload.created_at, &workload.id);
    Ok(list_answer(&workloads, &page, at, view))
}

pub(super) async fn create(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids(zone): Ids<ZoneId>,
    mut body: Body,
) -> Result<Response, Refusal> {
    let name = body.required_trimmed("name", 1..=200);
    body.finish_strict(Code::InvalidWorkload)?;
    let (made, secret) = workload::create(&control, &caller, &zone, &name, body.members()).await?;
    Ok(created(with_secret(&made, &secret)))
}

pub(super) async fn find(
    State(control): State<Arc<Control>>,
    Ids((zone, id)): Ids<(ZoneId, Id)>,
) -> Result<Response, Refusal> {
    let found = workload::find(&control, &zone, id.as_str()).await?;
    Ok(ok(view(&found)))
}

pub(super) async fn put(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids((zone, id)): Ids<(ZoneId, Id)>,
    mut body: Body,
) -> Result<Response, Refusal> {
    let name = body.optional_trimmed("name", 1..=200);
    let bindings = body.optional_objects("bindings", 0..=64, binding);
    body.finish_strict(Code::InvalidWorkload)?;
    if body.is_without_known_members() {
        return Err(Code::NoFields.into());
    }
    let columns = (name.as_deref(), bindings.as_deref());
    let changed = workload::put(&control, &caller, &zone, id.as_str(), columns, body.members()).await?;
    Ok(ok(view(&changed)))
}

pub(super) async fn rotate_secret(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids((zone, id)): Ids<(ZoneId, Id)>,
) -> Result<Response, Refusal> {
    let (changed, secret) = workload::rotate_secret(&control, &caller, &zone, id.as_str()).await?;
    Ok(ok(with_secret(&changed, &secret)))
}

pub(super) async fn delete(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids((zone, id)): Ids<(ZoneId, Id)>,
) -> Result<Response, Refusal> {
    workload::delete(&control, &caller, &zone, id.as_str()).await?;
    Ok(no_content())
}

fn binding(body: &mut Body) -> Binding {
    let binding = Binding {
        env: body.required_text("env", 1..=200),
        resource: body.required_text("resource", 1..=500),
        scopes: body
            .optional_texts("scopes", 0..=32, &(1..=200))
            .unwrap_or_default(),
        optional: body.optional_boolean("optional").unwrap_or(false),
        on_failure: body
            .optional_word("on_failure", &["warn", "error"])
            .unwrap_or("error"),
    };
    body.note_unknown();
    binding
}
