//! `/v1/zones/{zone}/subject-issuers`

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use caracal_model::{SubjectIssuerId, ZoneId};
use caracal_storage::subject_issuer::SubjectIssuer;
use serde::Serialize;

use super::answer::{created, list as list_answer, no_content, ok};
use super::extract::{Ids, Query};
use super::view::{AttributionView, position};
use crate::body::Body;
use crate::caller::Caller;
use crate::control::Control;
use crate::refusal::{Code, Refusal};
use crate::subject_issuer;
use crate::timestamp::Timestamp;

#[derive(Serialize)]
struct IssuerView<'a> {
    id: &'a SubjectIssuerId,
    zone_id: &'a ZoneId,
    issuer: &'a str,
    jwks_url: &'a str,
    audience: &'a str,
    #[serde(flatten)]
    attribution: AttributionView<'a>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

fn view(issuer: &SubjectIssuer) -> IssuerView<'_> {
    IssuerView {
        id: &issuer.id,
        zone_id: &issuer.zone_id,
        issuer: &issuer.issuer,
        jwks_url: &issuer.jwks_url,
        audience: &issuer.audience,
        attribution: AttributionView::from(&issuer.attribution),
        created_at: Timestamp(issuer.created_at),
        updated_at: Timestamp(issuer.updated_at),
    }
}

pub(super) async fn list(
    State(control): State<Arc<Control>>,
    Ids(zone): Ids<ZoneId>,
    query: Query,
) -> Result<Response, Refusal> {
    let page = query.list_page()?;
    let issuers = subject_issuer::list(&control, &zone, &page).await?;
    let at = |issuer: &SubjectIssuer| position(issuer.created_at, &issuer.id);
    Ok(list_answer(&issuers, &page, at, view))
}

pub(super) async fn create(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids(zone): Ids<ZoneId>,
    mut body: Body,
) -> Result<Response, Refusal> {
    let issuer = Some(body.required_text("issuer", 1..=2_048));
    let jwks_url = Some(body.required_text("jwks_url", 1..=2_048));
    let audience = body.required_text("audience", 1..=512);
    check_url(&mut body, "issuer", issuer.as_deref());
    check_url(&mut body, "jwks_url", jwks_url.as_deref());
    check_audience(&mut body, Some(&audience));
    body.finish_strict(Code::InvalidSubjectIssuer)?;
    let columns = (
        issuer.as_deref().unwrap_or_default(),
        jwks_url.as_deref().unwrap_or_default(),
        audience.as_str(),
    );
    let made = subject_issuer::create(&control, &caller, &zone, columns, body.members()).await?;
    Ok(created(view(&made)))
}

pub(super) async fn find(
    State(control): State<Arc<Control>>,
    Ids((zone, id)): Ids<(ZoneId, SubjectIssuerId)>,
) -> Result<Response, Refusal> {
    Ok(ok(view(&subject_issuer::find(&control, &zone, &id).await?)))
}

pub(super) async fn patch(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids((zone, id)): Ids<(ZoneId, SubjectIssuerId)>,
    mut body: Body,
) -> Result<Response, Refusal> {
    let jwks_url = body.optional_text("jwks_url", 1..=2_048);
    let audience = body.optional_text("audience", 1..=512);
    check_url(&mut body, "jwks_url", jwks_url.as_deref());
    check_audience(&mut body, audience.as_deref());
    body.finish_strict(Code::InvalidSubjectIssuer)?;
    let columns = (jwks_url.as_deref(), audience.as_deref());
    let changed = subject_issuer::patch(&control, &caller, &zone, &id, columns, body.members()).await?;
    Ok(ok(view(&changed)))
}

pub(super) async fn archive(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids((zone, id)): Ids<(ZoneId, SubjectIssuerId)>,
) -> Result<Response, Refusal> {
    subject_issuer::archive(&control, &caller, &zone, &id).await?;
    Ok(no_content())
}

fn check_url(body: &mut Body, name: &'static str, text: Option<&str>) {
    if text.is_some_and(|text| !subject_issuer::is_issuer_url(text)) {
        body.problem(
            &[name],
            "Expected an https URL without user information, query and fragment",
        );
    }
}

fn check_audience(body: &mut Body, text: Option<&str>) {
    if text.is_some_and(|text| text.trim() != text || text.chars().any(char::is_control)) {
        body.problem(
            &["audience"],
            "Must not begin or end with white space or hold control characters",
        );
    }
}
