//! `/v1/zones/{zone}/providers`

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use caracal_model::{ProviderId, ZoneId};
use caracal_storage::provider::Provider;
use serde::Serialize;
use serde_json::Value;

use super::answer::{created, list as list_answer, no_content, ok};
use super::extract::{Ids, Query};
use super::view::{AttributionView, position};
use crate::body::Body;
use crate::caller::Caller;
use crate::control::Control;
use crate::provider::{self, CreateProvider, Kind, PatchProvider};
use crate::refusal::{Code, Refusal};
use crate::timestamp::Timestamp;

#[derive(Serialize)]
struct ProviderView<'a> {
    id: &'a ProviderId,
    zone_id: &'a ZoneId,
    name: &'a str,
    identifier: &'a str,
    kind: &'a str,
    config_json: &'a Value,
    secret_config_keys: &'a [String],
    connectivity_failed_at: Option<Timestamp>,
    #[serde(flatten)]
    attribution: AttributionView<'a>,
    created_at: Timestamp,
    updated_at: Timestamp,
    archived_at: Option<Timestamp>,
}

fn view(provider: &Provider) -> ProviderView<'_> {
    ProviderView {
        id: &provider.id,
        zone_id: &provider.zone_id,
        name: &provider.name,
        identifier: &provider.identifier,
        kind: &provider.provider_kind,
        config_json: &provider.config_json,
        secret_config_keys: &provider.secret_config_keys,
        connectivity_failed_at: provider.connectivity_failed_at.map(Timestamp),
        attribution: AttributionView::from(&provider.attribution),
        created_at: Timestamp(provider.created_at),
        updated_at: Timestamp(provider.updated_at),
        archived_at: provider.archived_at.map(Timestamp),
    }
}

pub(super) async fn list(
    State(control): State<Arc<Control>>,
    Ids(zone): Ids<ZoneId>,
    query: Query,
) -> Result<Response, Refusal> {
    let page = query.list_page()?;
    let providers = provider::list(&control, &zone, &page).await?;
    Ok(list_answer(
        &providers,
        &page,
        |provider| position(provider.created_at, &provider.id),
        view,
    ))
}

pub(super) async fn create(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids(zone): Ids<ZoneId>,
    mut body: Body,
) -> Result<Response, Refusal> {
    let kind = kind(&mut body);
    let check = body.optional_boolean("check").unwrap_or(false);
    let request = CreateProvider {
        name: not_blank(body.optional_trimmed("name", 0..=200)),
        identifier: not_blank(body.optional_trimmed("identifier", 0..=512)),
        kind: kind.unwrap_or(Kind::None),
        config: body.optional_object("config_json").unwrap_or_default(),
    };
    if kind.is_none() && !body.has("kind") {
        body.problem(&["kind"], "Required");
    }
    if request.name.is_none() && request.identifier.is_none() {
        body.problem(&["name"], "A name or an identifier is required");
    }
    body.finish(Code::InvalidProvider)?;
    if check {
        return Err(Refusal::because(
            Code::ProviderCheckUnsupported,
            "This server does not probe providers; create it without check",
        ));
    }
    let made = provider::create(&control, &caller, &zone, &request, body.members()).await?;
    Ok(created(view(&made)))
}

pub(super) async fn find(
    State(control): State<Arc<Control>>,
    Ids((zone, id)): Ids<(ZoneId, ProviderId)>,
) -> Result<Response, Refusal> {
    let found = provider::find(&control, &zone, &id).await?;
    Ok(ok(view(&found)))
}

pub(super) async fn patch(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids((zone, id)): Ids<(ZoneId, ProviderId)>,
    mut body: Body,
) -> Result<Response, Refusal> {
    let request = PatchProvider {
        name: body.optional_trimmed("name", 1..=200),
        identifier: body.optional_trimmed("identifier", 1..=512),
        kind: kind(&mut body),
        config: body.optional_object("config_json"),
    };
    body.finish(Code::InvalidProvider)?;
    if body.is_without_known_members() {
        return Err(Code::NoFields.into());
    }
    let changed = provider::patch(&control, &caller, &zone, &id, &request, body.members()).await?;
    Ok(ok(view(&changed)))
}

pub(super) async fn archive(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids((zone, id)): Ids<(ZoneId, ProviderId)>,
) -> Result<Response, Refusal> {
    provider::archive(&control, &caller, &zone, &id).await?;
    Ok(no_content())
}

fn kind(body: &mut Body) -> Option<Kind> {
    body.optional_word("kind", &Kind::NAMES).and_then(Kind::parse)
}

fn not_blank(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}
