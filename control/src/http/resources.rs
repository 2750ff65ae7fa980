//! `/v1/zones/{zone}/resources`

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use caracal_model::{ApplicationId, ProviderId, ResourceId, ZoneId};
use caracal_storage::resource::Resource;
use serde::Serialize;
use serde_json::Value;

use super::answer::{created, list as list_answer, no_content, ok};
use super::extract::{Ids, Query};
use super::view::{AttributionView, position};
use crate::body::Body;
use crate::caller::Caller;
use crate::control::Control;
use crate::refusal::{Code, Refusal};
use crate::resource::{self, CreateResource, ENFORCED, Operation, PatchResource, TRANSPORT_UNIFORM};
use crate::timestamp::Timestamp;

#[derive(Serialize)]
struct ResourceView<'a> {
    id: &'a ResourceId,
    zone_id: &'a ZoneId,
    name: &'a str,
    identifier: &'a str,
    upstream_url: Option<&'a str>,
    scopes: &'a [String],
    credential_provider_id: Option<&'a str>,
    gateway_application_id: Option<&'a str>,
    operations: &'a Value,
    operation_enforcement: &'a str,
    #[serde(flatten)]
    attribution: AttributionView<'a>,
    created_at: Timestamp,
    updated_at: Timestamp,
    archived_at: Option<Timestamp>,
}

fn view(resource: &Resource) -> ResourceView<'_> {
    ResourceView {
        id: &resource.id,
        zone_id: &resource.zone_id,
        name: &resource.name,
        identifier: &resource.identifier,
        upstream_url: resource.upstream_url.as_deref(),
        scopes: &resource.scopes,
        credential_provider_id: resource.credential_provider_id.as_deref(),
        gateway_application_id: resource.gateway_application_id.as_deref(),
        operations: &resource.operations,
        operation_enforcement: &resource.operation_enforcement,
        attribution: AttributionView::from(&resource.attribution),
        created_at: Timestamp(resource.created_at),
        updated_at: Timestamp(resource.updated_at),
        archived_at: resource.archived_at.map(Timestamp),
    }
}

pub(super) async fn list(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids(zone): Ids<ZoneId>,
    query: Query,
) -> Result<Response, Refusal> {
    let page = query.list_page()?;
    let resources = resource::list(&control, &caller, &zone, &page).await?;
    Ok(list_answer(
        &resources,
        &page,
        |resource| position(resource.created_at, &resource.id),
        view,
    ))
}

pub(super) async fn create(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids(zone): Ids<ZoneId>,
    mut body: Body,
) -> Result<Response, Refusal> {
    let members = Members::read(&mut body);
    if members.scopes.is_none() && !body.has("scopes") {
        body.problem(&["scopes"], "Required");
    }
    if !body.has("name") && !body.has("identifier") {
        body.problem(&["name"], "A name or an identifier is required");
    }
    body.finish(Code::InvalidResource)?;
    members.refuse_check()?;
    let request = CreateResource {
        name: members.name,
        identifier: members.identifier,
        upstream_url: members.upstream_url.flatten(),
        scopes: members.scopes.unwrap_or_default(),
        credential_provider_id: members.credential_provider_id.flatten(),
        operations: members.operations.unwrap_or_default(),
        operation_enforcement: members.operation_enforcement.unwrap_or(ENFORCED),
        gateway_application_id: members.gateway_application_id.flatten(),
    };
    let made = resource::create(&control, &caller, &zone, &request, body.members()).await?;
    Ok(created(view(&made)))
}

pub(super) async fn find(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids((zone, id)): Ids<(ZoneId, ResourceId)>,
) -> Result<Response, Refusal> {
    let found = resource::find(&control, &caller, &zone, &id).await?;
    Ok(ok(view(&found)))
}

pub(super) async fn patch(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids((zone, id)): Ids<(ZoneId, ResourceId)>,
    mut body: Body,
) -> Result<Response, Refusal> {
    let members = Members::read(&mut body);
    body.finish(Code::InvalidResource)?;
    if body.is_without_known_members() {
        return Err(Code::NoFields.into());
    }
    members.refuse_check()?;
    let request = PatchResource {
        name: members.name,
        identifier: members.identifier,
        upstream_url: members.upstream_url,
        scopes: members.scopes,
        credential_provider_id: members.credential_provider_id,
        operations: members.operations,
        operation_enforcement: members.operation_enforcement,
        gateway_application_id: members.gateway_application_id,
    };
    let changed = resource::patch(&control, &caller, &zone, &id, request, body.members()).await?;
    Ok(ok(view(&changed)))
}

pub(super) async fn archive(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids((zone, id)): Ids<(ZoneId, ResourceId)>,
) -> Result<Response, Refusal> {
    resource::archive(&control, &caller, &zone, &id).await?;
    Ok(no_content())
}

/// The members of a resource body, all of them optional.
#[expect(
    clippy::option_option,
    reason = "not sent and null mean different things in a PATCH"
)]
struct Members {
    name: Option<String>,
    identifier: Option<String>,
    upstream_url: Option<Option<String>>,
    scopes: Option<Vec<String>>,
    credential_provider_id: Option<Option<ProviderId>>,
    operations: Option<Vec<Operation>>,
    operation_enforcement: Option<&'static str>,
    gateway_application_id: Option<Option<ApplicationId>>,
    check: bool,
}

impl Members {
    fn read(body: &mut Body) -> Self {
        Self {
            name: body.optional_trimmed("name", 1..=200),
            identifier: body.optional_trimmed("identifier", 1..=512),
            upstream_url: upstream_url(body),
            scopes: scopes(body),
            credential_provider_id: nullable_id(body, "credential_provider_id"),
            operations: body.optional_objects("operations", 0..=256, |entry| Operation {
                method: entry.required_text("method", 0..=16),
                path: entry.required_text("path", 0..=512),
                scope: entry.required_text("scope", 1..=200),
            }),
            operation_enforcement: body
                .optional_word("operation_enforcement", &[ENFORCED, TRANSPORT_UNIFORM]),
            gateway_application_id: nullable_id(body, "gateway_application_id"),
            check: body.optional_boolean("check").unwrap_or(false),
        }
    }

    fn refuse_check(&self) -> Result<(), Refusal> {
        if self.check {
            return Err(Refusal::because(
                Code::ResourceVerificationUnsupported,
                "This server does not probe resources; send it without check",
            ));
        }
        Ok(())
    }
}

#[expect(
    clippy::option_option,
    reason = "not sent and null mean different things in a PATCH"
)]
fn upstream_url(body: &mut Body) -> Option<Option<String>> {
    let url = body.nullable_text("upstream_url", 1..=2048)?;
    if url.as_deref().is_some_and(|url| !resource::is_upstream(url)) {
        body.problem(
            &["upstream_url"],
            "Expected an http or https URL without user information or fragment",
        );
    }
    Some(url)
}

/// White space separates scopes wherever they are written in one text, so a scope has none in it.
fn scopes(body: &mut Body) -> Option<Vec<String>> {
    let mut scopes = body.optional_texts("scopes", 1..=64, &(1..=200))?;
    if scopes
        .iter()
        .any(|scope| scope.chars().any(|c| c.is_whitespace() || c.is_control()))
    {
        body.problem(&["scopes"], "Expected scopes without white space");
    }
    let mut seen = std::collections::HashSet::new();
    scopes.retain(|scope| seen.insert(scope.clone()));
    Some(scopes)
}

/// An id that names nothing is looked up and not found; a text that cannot be an id is a problem of the body.
#[expect(
    clippy::option_option,
    reason = "not sent and null mean different things in a PATCH"
)]
fn nullable_id<T: std::str::FromStr>(body: &mut Body, name: &'static str) -> Option<Option<T>> {
    let Some(text) = body.nullable_text(name, 1..=128)? else {
        return Some(None);
    };
    match text.parse() {
        Ok(id) => Some(Some(id)),
        Err(_not_an_id) => {
            body.problem(&[name], "Expected an id");
            None
        }
    }
}
