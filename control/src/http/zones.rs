//! `/v1/zones`

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use caracal_model::ZoneId;
use caracal_storage::zone::Zone;
use serde::Serialize;
use serde_json::json;

use super::answer::{created, list as list_answer, no_content, ok};
use super::extract::{Ids, Query};
use super::view::{AttributionView, position};
use crate::body::Body;
use crate::caller::Caller;
use crate::control::Control;
use crate::refusal::{Code, Refusal};
use crate::timestamp::Timestamp;
use crate::zone::{self, CreateZone, DcrShutdown, PatchZone};

#[derive(Serialize)]
struct ZoneView<'a> {
    id: &'a ZoneId,
    name: &'a str,
    slug: &'a str,
    dcr_enabled: bool,
    operator_coauthor_badge: bool,
    operator_governed: bool,
    policy_mode: &'a str,
    #[serde(flatten)]
    attribution: AttributionView<'a>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

fn view(zone: &Zone) -> ZoneView<'_> {
    ZoneView {
        id: &zone.id,
        name: &zone.name,
        slug: &zone.slug,
        dcr_enabled: zone.dcr_enabled,
        operator_coauthor_badge: zone.operator_coauthor_badge,
        operator_governed: zone.operator_governed,
        policy_mode: &zone.policy_mode,
        attribution: AttributionView::from(&zone.attribution),
        created_at: Timestamp(zone.created_at),
        updated_at: Timestamp(zone.updated_at),
    }
}

pub(super) async fn list(
    State(control): State<Arc<Control>>,
    caller: Caller,
    query: Query,
) -> Result<Response, Refusal> {
    let page = query.list_page()?;
    let zones = zone::list(&control, &caller, &page).await?;
    Ok(list_answer(
        &zones,
        &page,
        |zone| position(zone.created_at, &zone.id),
        view,
    ))
}

pub(super) async fn create(
    State(control): State<Arc<Control>>,
    caller: Caller,
    mut body: Body,
) -> Result<Response, Refusal> {
    let request = CreateZone {
        name: body.required_trimmed("name", 1..=120),
        slug: slug(&mut body),
        dcr_enabled: body.optional_boolean("dcr_enabled").unwrap_or(false),
    };
    body.finish_strict(Code::InvalidZone)?;
    let made = zone::create(&control, &caller, &request, body.members()).await?;
    Ok(created(view(&made)))
}

pub(super) async fn find(
    State(control): State<Arc<Control>>,
    Ids(id): Ids<ZoneId>,
) -> Result<Response, Refusal> {
    let found = zone::find(&control, &id).await?;
    Ok(ok(view(&found)))
}

pub(super) async fn dcr_status(
    State(control): State<Arc<Control>>,
    Ids(id): Ids<ZoneId>,
) -> Result<Response, Refusal> {
    let (zone, live) = zone::live_dcr_applications(&control, &id).await?;
    Ok(ok(
        json!({ "id": zone.id, "dcr_enabled": zone.dcr_enabled, "live_dcr_applications": live }),
    ))
}

pub(super) async fn patch(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids(id): Ids<ZoneId>,
    mut body: Body,
) -> Result<Response, Refusal> {
    let shutdown = body.optional_word("dcr_shutdown", &["keep_live", "revoke_live"]);
    let request = PatchZone {
        name: body.optional_trimmed("name", 1..=120),
        slug: slug(&mut body),
        dcr_enabled: body.optional_boolean("dcr_enabled"),
        dcr_shutdown: shutdown.map(|word| match word {
            "revoke_live" => DcrShutdown::RevokeLive,
            _ => DcrShutdown::KeepLive,
        }),
        operator_coauthor_badge: body.optional_boolean("operator_coauthor_badge"),
        operator_governed: body.optional_boolean("operator_governed"),
        policy_mode: body.optional_word("policy_mode", &["restrict", "sole"]),
    };
    body.finish_strict(Code::InvalidZone)?;
    if body.is_without_known_members() {
        return Err(Code::NoFields.into());
    }
    if request.dcr_shutdown.is_some() && request.dcr_enabled != Some(false) {
        return Err(Code::DcrShutdownNotApplicable.into());
    }
    let changed = zone::patch(&control, &caller, &id, &request, body.members()).await?;
    Ok(ok(view(&changed)))
}

pub(super) async fn archive(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids(id): Ids<ZoneId>,
) -> Result<Response, Refusal> {
    zone::archive(&control, &caller, &id).await?;
    Ok(no_content())
}

fn slug(body: &mut Body) -> Option<String> {
    let slug = body.optional_text("slug", 1..=128)?;
    if slug
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    {
        return Some(slug);
    }
    body.problem(&["slug"], "Expected lower-case letters, digits and hyphens");
    None
}
