//! `/v1/policies/validate` and `/v1/zones/{zone}/policies`

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use caracal_model::{PolicyId, PolicyVersionId, ZoneId};
use caracal_policy::document;
use caracal_storage::policy::{Policy, PolicyVersion};
use http::StatusCode;
use serde::Serialize;
use serde_json::json;

use super::answer::{created, list as list_answer, no_content, ok};
use super::extract::{Ids, Query};
use super::view::{AttributionView, position};
use crate::body::Body;
use crate::caller::Caller;
use crate::control::Control;
use crate::policy::{self, CreatePolicy};
use crate::refusal::{Code, Refusal};
use crate::timestamp::Timestamp;

#[derive(Serialize)]
struct PolicyView<'a> {
    id: &'a PolicyId,
    zone_id: &'a ZoneId,
    name: &'a str,
    description: Option<&'a str>,
    #[serde(flatten)]
    attribution: AttributionView<'a>,
    created_at: Timestamp,
    updated_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    versions: Option<Vec<VersionView<'a>>>,
}

#[derive(Serialize)]
struct VersionView<'a> {
    id: &'a PolicyVersionId,
    policy_id: &'a PolicyId,
    version: i32,
    content: &'a str,
    content_sha256: &'a str,
    schema_version: &'a str,
    created_by: &'a str,
    created_via_operator: bool,
    created_at: Timestamp,
    archived_at: Option<Timestamp>,
}

fn view(policy: &Policy) -> PolicyView<'_> {
    PolicyView {
        id: &policy.id,
        zone_id: &policy.zone_id,
        name: &policy.name,
        description: policy.description.as_deref(),
        attribution: AttributionView::from(&policy.attribution),
        created_at: Timestamp(policy.created_at),
        updated_at: Timestamp(policy.updated_at),
        versions: None,
    }
}

fn version_view(version: &PolicyVersion) -> VersionView<'_> {
    VersionView {
        id: &version.id,
        policy_id: &version.policy_id,
        version: version.version,
        content: &version.content,
        content_sha256: &version.content_sha256,
        schema_version: &version.schema_version,
        created_by: &version.created_by,
        created_via_operator: version.created_via_operator,
        created_at: Timestamp(version.created_at),
        archived_at: version.archived_at.map(Timestamp),
    }
}

/// An unusable text is a result of this route, not a failure of the request.
pub(super) async fn validate(
    State(control): State<Arc<Control>>,
    mut body: Body,
) -> Result<Response, Refusal> {
    let content = content(&mut body);
    body.finish(Code::InvalidBody)?;
    Ok(match document::validate(&content) {
        Ok(()) => ok(policy::describe(&control, content).await?),
        Err(fault) => {
            let answer =
                json!({ "valid": false, "error": "invalid_rego", "error_description": fault.to_string() });
            (StatusCode::UNPROCESSABLE_ENTITY, Json(answer)).into_response()
        }
    })
}

pub(super) async fn list(
    State(control): State<Arc<Control>>,
    Ids(zone): Ids<ZoneId>,
    query: Query,
) -> Result<Response, Refusal> {
    let page = query.list_page()?;
    let policies = policy::list(&control, &zone, &page).await?;
    Ok(list_answer(
        &policies,
        &page,
        |policy| position(policy.created_at, &policy.id),
        view,
    ))
}

pub(super) async fn find(
    State(control): State<Arc<Control>>,
    Ids((zone, id)): Ids<(ZoneId, PolicyId)>,
) -> Result<Response, Refusal> {
    let (found, versions) = policy::find(&control, &zone, &id).await?;
    let versions = versions.iter().map(version_view).collect();
    Ok(ok(PolicyView {
        versions: Some(versions),
        ..view(&found)
    }))
}

pub(super) async fn create(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids(zone): Ids<ZoneId>,
    mut body: Body,
) -> Result<Response, Refusal> {
    let request = CreatePolicy {
        name: body.required_text("name", 1..=200),
        description: body.nullable_text("description", 0..=2000).flatten(),
        content: content(&mut body),
    };
    body.finish(Code::InvalidBody)?;
    let (made, version) = policy::create(&control, &caller, &zone, &request, body.members()).await?;
    Ok(created(json!({
        "id": made.id,
        "version_id": version.id,
        "zone_id": made.zone_id,
        "name": made.name,
        "description": made.description,
        "version": {
            "id": version.id,
            "policy_id": version.policy_id,
            "version": version.version,
            "content_sha256": version.content_sha256,
            "schema_version": version.schema_version,
            "created_at": Timestamp(version.created_at),
        },
    })))
}

pub(super) async fn add_version(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids((zone, id)): Ids<(ZoneId, PolicyId)>,
    mut body: Body,
) -> Result<Response, Refusal> {
    let content = content(&mut body);
    body.finish(Code::InvalidBody)?;
    let added = policy::add_version(&control, &caller, &zone, &id, &content, body.members()).await?;
    Ok(created(json!({
        "version_id": added.id,
        "id": added.id,
        "policy_id": added.policy_id,
        "version": added.version,
        "content_sha256": added.content_sha256,
        "schema_version": added.schema_version,
        "created_at": Timestamp(added.created_at),
    })))
}

pub(super) async fn archive(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids((zone, id)): Ids<(ZoneId, PolicyId)>,
) -> Result<Response, Refusal> {
    policy::archive(&control, &caller, &zone, &id).await?;
    Ok(no_content())
}

/// Any length: what is too long has a word of its own among the faults of a text.
fn content(body: &mut Body) -> String {
    body.required_text("content", 0..=usize::MAX)
}
