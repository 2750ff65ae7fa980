//! `/v1/zones/{zone}/provider-connections`

use std::sync::Arc;

use axum::extract::State;
use axum::response::{Html, IntoResponse, Response};
use caracal_chassis::Secret;
use caracal_chassis::server::RequestId;
use caracal_model::{ProviderId, SubjectId, ZoneId};
use caracal_storage::provider_connection::{Connection, Filter};
use http::{HeaderMap, StatusCode, Uri, header};
use serde::Serialize;

use super::answer::{created, list as list_answer, ok};
use super::extract::{Ids, Query};
use super::view::position;
use crate::body::Body;
use crate::caller::Caller;
use crate::change::Unattended;
use crate::connection::{self, Callback, GivenTokens, SHARED_SUBJECT};
use crate::control::Control;
use crate::refusal::{Code, Refusal};
use crate::timestamp::Timestamp;

#[derive(Serialize)]
pub(super) struct ConnectionView<'a> {
    id: &'a str,
    zone_id: &'a ZoneId,
    subject_id: &'a str,
    provider_id: &'a ProviderId,
    status: &'a str,
    expires_at: Option<Timestamp>,
    refreshed_at: Option<Timestamp>,
    renewable: bool,
    created_at: Timestamp,
    updated_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_revocation: Option<&'static str>,
}

pub(super) fn view(connection: &Connection) -> ConnectionView<'_> {
    ConnectionView {
        id: &connection.id,
        zone_id: &connection.zone_id,
        subject_id: &connection.subject_id,
        provider_id: &connection.provider_id,
        status: &connection.status,
        expires_at: connection.expires_at.map(Timestamp),
        refreshed_at: connection.refreshed_at.map(Timestamp),
        renewable: connection.renewable,
        created_at: Timestamp(connection.created_at),
        updated_at: Timestamp(connection.updated_at),
        upstream_revocation: None,
    }
}

pub(super) async fn list(
    State(control): State<Arc<Control>>,
    Ids(zone): Ids<ZoneId>,
    query: Query,
) -> Result<Response, Refusal> {
    let page = query.list_page()?;
    let (provider, subject) = (query.text("provider_id", 128)?, query.text("subject_id", 512)?);
    let filter = Filter {
        provider_id: provider.as_deref(),
        subject_id: subject.as_deref(),
        status: query.word("status", &["active", "revoked", "expired"])?,
    };
    let connections = connection::list(&control, &zone, filter, &page).await?;
    let at = |connection: &Connection| position(connection.created_at, &connection.id);
    Ok(list_answer(&connections, &page, at, view))
}

pub(super) async fn create(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids(zone): Ids<ZoneId>,
    mut body: Body,
) -> Result<Response, Refusal> {
    let whose = account(&mut body);
    let tokens = GivenTokens {
        access_token: Secret::new(body.required_trimmed("access_token", 1..=16_384)),
        refresh_token: body
            .optional_trimmed("refresh_token", 1..=16_384)
            .map(Secret::new),
        expires_at: expires_at(&mut body),
    };
    body.finish_strict(Code::InvalidProviderConnection)?;
    let (subject, provider) = whose.ok_or(Code::InvalidProviderConnection)?;
    let made = connection::create(
        &control,
        &caller,
        &zone,
        (&subject, &provider),
        &tokens,
        body.members(),
    )
    .await?;
    Ok(created(view(&made)))
}

pub(super) async fn revoke(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids(zone): Ids<ZoneId>,
    mut body: Body,
) -> Result<Response, Refusal> {
    let whose = account(&mut body);
    body.finish_strict(Code::InvalidProviderConnection)?;
    let (subject, provider) = whose.ok_or(Code::InvalidProviderConnection)?;
    let (ended, upstream) =
        connection::revoke(&control, &caller, &zone, (&subject, &provider), body.members()).await?;
    Ok(ok(ConnectionView {
        upstream_revocation: Some(upstream.as_str()),
        ..view(&ended)
    }))
}

#[derive(Serialize)]
struct StartedView<'a> {
    authorization_url: &'a str,
    state: &'a str,
    expires_at: Timestamp,
}

pub(super) async fn authorize(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids(zone): Ids<ZoneId>,
    mut body: Body,
) -> Result<Response, Refusal> {
    let whose = account(&mut body);
    body.finish_strict(Code::InvalidProviderOauthAuthorize)?;
    let (subject, provider) = whose.ok_or(Code::InvalidProviderOauthAuthorize)?;
    let started =
        connection::authorize(&control, &caller, &zone, (&subject, &provider), body.members()).await?;
    Ok(ok(StartedView {
        authorization_url: &started.authorization_url,
        state: &started.state,
        expires_at: Timestamp(started.expires_at),
    }))
}

/// Where the browser comes back to. Anybody can call it; who does not know a state that was started gets nowhere.
pub(super) async fn callback(
    State(control): State<Arc<Control>>,
    Ids(zone): Ids<ZoneId>,
    request_id: RequestId,
    uri: Uri,
    headers: HeaderMap,
    query: Query,
) -> Result<Response, Refusal> {
    let state = query
        .get("state")
        .filter(|state| (32..=256).contains(&state.len()));
    let callback = Callback {
        state: state.ok_or(Code::InvalidOauthCallback)?.to_owned(),
        code: query.get("code").map(Secret::from),
        is_denied: query.get("error").is_some(),
    };
    let request = Unattended {
        request_id: request_id.as_str(),
        method: "GET",
        path: uri.path(),
    };
    let made = connection::finish(&control, &zone, &callback, &request).await?;
    Ok(if wants_html(&headers) {
        let page = Html(
            "<!doctype html><title>Connected</title><p>The account is connected. You can close this window.</p>",
        );
        (StatusCode::CREATED, page).into_response()
    } else {
        created(view(&made))
    })
}

fn wants_html(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.contains("text/html") && !accept.contains("application/json"))
}

/// Whose account with which provider. Problems are noted in `body`.
fn account(body: &mut Body) -> Option<(SubjectId, ProviderId)> {
    let subject = body
        .optional_text("subject_id", 1..=512)
        .unwrap_or_else(|| SHARED_SUBJECT.to_owned());
    let provider = body.required_text("provider_id", 1..=128);
    let subject = SubjectId::try_from(subject.as_str()).ok();
    if subject.is_none() {
        body.problem(&["subject_id"], "Expected a subject");
    }
    let provider = ProviderId::try_from(provider.as_str()).ok();
    if provider.is_none() {
        body.problem(&["provider_id"], "Expected an id");
    }
    subject.zip(provider)
}

fn expires_at(body: &mut Body) -> Option<time::OffsetDateTime> {
    let text = body.optional_text("expires_at", 1..=64)?;
    let read = Timestamp::parse(&text);
    if read.is_none() {
        body.problem(&["expires_at"], "Expected an RFC 3339 time");
    }
    read.map(|time| time.0)
}
