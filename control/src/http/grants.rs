//! `/v1/zones/{zone}/grants`

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use caracal_model::{GrantId, SubjectId, ZoneId};
use caracal_storage::delegated_grant::{Filter, Grant, NamedGrant};
use serde::Serialize;

use super::answer::{created, list as list_answer, no_content, ok};
use super::extract::{Ids, Query};
use super::view::{AttributionView, position};
use crate::body::Body;
use crate::caller::Caller;
use crate::control::Control;
use crate::grant::{self, CreateGrant};
use crate::refusal::{Code, Refusal};
use crate::timestamp::Timestamp;

const SCOPES_MAX: usize = 64;
const SCOPE_CHARACTERS_MAX: usize = 200;

#[derive(Serialize)]
struct GrantView<'a> {
    id: &'a GrantId,
    zone_id: &'a ZoneId,
    application_id: Option<&'a str>,
    user_id: &'a SubjectId,
    resource_id: &'a str,
    scopes: &'a [String],
    status: &'a str,
    #[serde(flatten)]
    attribution: AttributionView<'a>,
    created_at: Timestamp,
}

#[derive(Serialize)]
struct NamedView<'a> {
    #[serde(flatten)]
    grant: GrantView<'a>,
    provider_id: Option<&'a str>,
    application_name: Option<&'a str>,
    resource_name: Option<&'a str>,
    provider_name: Option<&'a str>,
    provider_kind: Option<&'a str>,
}

fn view(grant: &Grant) -> GrantView<'_> {
    GrantView {
        id: &grant.id,
        zone_id: &grant.zone_id,
        application_id: grant.application_id.as_deref(),
        user_id: &grant.user_id,
        resource_id: &grant.resource_id,
        scopes: &grant.scopes,
        status: &grant.status,
        attribution: AttributionView::from(&grant.attribution),
        created_at: Timestamp(grant.created_at),
    }
}

fn named_view(named: &NamedGrant) -> NamedView<'_> {
    NamedView {
        grant: view(&named.grant),
        provider_id: named.provider_id.as_deref(),
        application_name: named.application_name.as_deref(),
        resource_name: named.resource_name.as_deref(),
        provider_name: named.provider_name.as_deref(),
        provider_kind: named.provider_kind.as_deref(),
    }
}

pub(super) async fn list(
    State(control): State<Arc<Control>>,
    Ids(zone): Ids<ZoneId>,
    query: Query,
) -> Result<Response, Refusal> {
    let user_id = match query.text("user_id", 512)? {
        None => query.text("subject_id", 512)?,
        named => named,
    };
    let scopes = query.text("scopes", SCOPES_MAX * (SCOPE_CHARACTERS_MAX + 1))?;
    let filter = Filter {
        application_id: query.text("application_id", 128)?,
        user_id,
        resource_id: query.text("resource_id", 128)?,
        provider_id: query.text("provider_id", 128)?,
        status: query.word("status", &["active", "revoked"])?,
        scopes: scopes.map(|scopes| scopes.split(',').map(str::to_owned).collect()),
    };
    let page = query.list_page()?;
    let grants = grant::list(&control, &zone, &filter, &page).await?;
    let at = |named: &NamedGrant| position(named.grant.created_at, &named.grant.id);
    Ok(list_answer(&grants, &page, at, named_view))
}

pub(super) async fn find(
    State(control): State<Arc<Control>>,
    Ids((zone, id)): Ids<(ZoneId, GrantId)>,
) -> Result<Response, Refusal> {
    Ok(ok(view(&grant::find(&control, &zone, &id).await?)))
}

pub(super) async fn create(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids(zone): Ids<ZoneId>,
    mut body: Body,
) -> Result<Response, Refusal> {
    let application_id = body.required_text("application_id", 1..=128).parse();
    let user_id = SubjectId::try_from(body.required_text("user_id", 1..=512).as_str());
    let resource_id = body.required_text("resource_id", 1..=128).parse();
    let scopes = body.optional_texts("scopes", 1..=SCOPES_MAX, &(1..=SCOPE_CHARACTERS_MAX));
    if scopes.is_none() && !body.has("scopes") {
        body.problem(&["scopes"], "Required");
    }
    let scopes = scopes.unwrap_or_default();
    if !scopes.iter().all(|scope| is_scope(scope)) {
        body.problem(&["scopes"], "Expected lower-case letters, digits and :_./-");
    }
    for (name, is_one) in [
        ("application_id", application_id.is_ok()),
        ("user_id", user_id.is_ok()),
        ("resource_id", resource_id.is_ok()),
    ] {
        if !is_one && body.has(name) {
            body.problem(&[name], "Expected an id");
        }
    }
    body.finish(Code::InvalidBody)?;
    let (Ok(application_id), Ok(user_id), Ok(resource_id)) = (application_id, user_id, resource_id) else {
        return Err(Code::InvalidBody.into());
    };
    let request = CreateGrant {
        application_id,
        user_id,
        resource_id,
        scopes,
    };
    let made = grant::create(&control, &caller, &zone, &request, body.members()).await?;
    Ok(created(view(&made)))
}

pub(super) async fn revoke(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids((zone, id)): Ids<(ZoneId, GrantId)>,
) -> Result<Response, Refusal> {
    grant::revoke(&control, &caller, &zone, &id).await?;
    Ok(no_content())
}

fn is_scope(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b":_./-".contains(&byte))
}
