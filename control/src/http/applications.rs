//! `/v1/zones/{zone}/applications`

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use caracal_chassis::Secret;
use caracal_model::{ApplicationId, ZoneId};
use caracal_storage::application::{Application, Bound};
use serde::Serialize;

use super::answer::{created, list as list_answer, no_content, ok};
use super::extract::{Ids, Query};
use super::view::{AttributionView, position};
use crate::application::{self, CreateApplication, PatchApplication};
use crate::body::Body;
use crate::caller::Caller;
use crate::control::Control;
use crate::refusal::{Code, Refusal};
use crate::timestamp::Timestamp;

/// Client metadata of RFC 9449 section 5.2.
const DPOP_BOUND: &str = "dpop_bound_access_tokens";
/// Client metadata of RFC 8705 section 3.4.
const CERTIFICATE_BOUND: &str = "tls_client_certificate_bound_access_tokens";

#[derive(Serialize)]
struct ApplicationView<'a> {
    id: &'a ApplicationId,
    zone_id: &'a ZoneId,
    name: &'a str,
    registration_method: &'a str,
    /// Shown only to those who may give any.
    #[serde(skip_serializing_if = "Option::is_none")]
    traits: Option<&'a [String]>,
    dpop_bound_access_tokens: bool,
    tls_client_certificate_bound_access_tokens: bool,
    expires_at: Option<Timestamp>,
    archived_at: Option<Timestamp>,
    #[serde(flatten)]
    attribution: AttributionView<'a>,
    created_at: Timestamp,
    updated_at: Timestamp,
    /// Present once, in the answer that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_secret: Option<&'a str>,
}

fn view<'a>(caller: &Caller, application: &'a Application) -> ApplicationView<'a> {
    ApplicationView {
        id: &application.id,
        zone_id: &application.zone_id,
        name: &application.name,
        registration_method: &application.registration_method,
        traits: caller.actor.is_global().then_some(application.traits.as_slice()),
        dpop_bound_access_tokens: application.bound.dpop_bound,
        tls_client_certificate_bound_access_tokens: application.bound.certificate_bound,
        expires_at: application.expires_at.map(Timestamp),
        archived_at: application.archived_at.map(Timestamp),
        attribution: AttributionView::from(&application.attribution),
        created_at: Timestamp(application.created_at),
        updated_at: Timestamp(application.updated_at),
        client_secret: None,
    }
}

pub(super) async fn list(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids(zone): Ids<ZoneId>,
    query: Query,
) -> Result<Response, Refusal> {
    let archived = query.word("status", &["active", "archived"])? == Some("archived");
    let page = query.list_page()?;
    let applications = application::list(&control, &zone, archived, &page).await?;
    let at = |application: &Application| position(application.created_at, &application.id);
    Ok(list_answer(&applications, &page, at, |application| {
        view(&caller, application)
    }))
}

pub(super) async fn create(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids(zone): Ids<ZoneId>,
    mut body: Body,
) -> Result<Response, Refusal> {
    let request = CreateApplication {
        name: body.required_trimmed("name", 1..=200),
        traits: traits(&mut body).unwrap_or_default(),
        bound: Bound {
            dpop_bound: body.optional_boolean(DPOP_BOUND).unwrap_or_default(),
            certificate_bound: body.optional_boolean(CERTIFICATE_BOUND).unwrap_or_default(),
        },
    };
    if body.optional_word("registration_method", &["managed"]).is_none() && !body.has("registration_method") {
        body.problem(&["registration_method"], "Required");
    }
    body.finish_strict(Code::InvalidApplication)?;
    let (made, secret) = application::create(&control, &caller, &zone, &request, body.members()).await?;
    Ok(created(with_secret(&caller, &made, &secret)))
}

pub(super) async fn find(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids((zone, id)): Ids<(ZoneId, ApplicationId)>,
) -> Result<Response, Refusal> {
    let found = application::find(&control, &zone, &id).await?;
    Ok(ok(view(&caller, &found)))
}

pub(super) async fn rotate_secret(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids((zone, id)): Ids<(ZoneId, ApplicationId)>,
) -> Result<Response, Refusal> {
    let (changed, secret) = application::rotate_secret(&control, &caller, &zone, &id).await?;
    Ok(ok(with_secret(&caller, &changed, &secret)))
}

pub(super) async fn patch(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids((zone, id)): Ids<(ZoneId, ApplicationId)>,
    mut body: Body,
) -> Result<Response, Refusal> {
    let request = PatchApplication {
        name: body.optional_trimmed("name", 1..=200),
        traits: traits(&mut body),
        client_secret: body.optional_text("client_secret", 32..=512).map(Secret::new),
        dpop_bound: body.optional_boolean(DPOP_BOUND),
        certificate_bound: body.optional_boolean(CERTIFICATE_BOUND),
    };
    body.finish_strict(Code::InvalidApplication)?;
    if body.is_without_known_members() {
        return Err(Code::NoFields.into());
    }
    let changed = application::patch(&control, &caller, &zone, &id, &request, body.members()).await?;
    Ok(ok(view(&caller, &changed)))
}

pub(super) async fn archive(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids((zone, id)): Ids<(ZoneId, ApplicationId)>,
) -> Result<Response, Refusal> {
    application::archive(&control, &caller, &zone, &id).await?;
    Ok(no_content())
}

fn with_secret<'a>(caller: &Caller, application: &'a Application, secret: &'a Secret) -> ApplicationView<'a> {
    ApplicationView {
        client_secret: Some(secret.expose()),
        ..view(caller, application)
    }
}

/// How many and how long is judged with the rest of the rules, which answer with their own codes.
fn traits(body: &mut Body) -> Option<Vec<String>> {
    body.optional_texts("traits", 0..=10_000, &(0..=10_000))
}
