//! `/agents`: start, read, end.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use caracal_chassis::server::RequestId;
use caracal_model::SessionId;
use caracal_storage::{ZoneScope, session};
use serde::Deserialize;

use super::{Answer, id_of, json_body, whole_body, zone_of};
use crate::auth::{Asked, Audience, authenticate};
use crate::idempotency::Key;
use crate::refusal::Refusal;
use crate::session::{start as starting, terminate, view};
use crate::state::Coordinator;

type Shared = State<Arc<Coordinator>>;

/// `POST /zones/{zone}/agents`
pub(super) async fn start(
    State(coordinator): Shared,
    Path(zone): Path<String>,
    request_id: RequestId,
    asked: Asked,
    body: Body,
) -> Response {
    let outcome: Result<Answer, Refusal> = async {
        let zone = zone_of(&zone)?;
        let caller = authenticate(&coordinator, &zone, &asked, Audience::Applications).await?;
        let key = Key::read(&asked.headers)?;
        let body = json_body(body, coordinator.body_bytes_max).await?;
        starting::start(&coordinator, &caller, &zone, body, key, request_id.as_str()).await
    }
    .await;
    outcome.map_or_else(
        |refusal| refusal.into_answer(request_id.as_str()),
        IntoResponse::into_response,
    )
}

/// `GET /zones/{zone}/agents/{id}`: the caller's own sessions; every session for the operator.
pub(super) async fn show(
    State(coordinator): Shared,
    Path((zone, id)): Path<(String, String)>,
    request_id: RequestId,
    asked: Asked,
) -> Response {
    let outcome: Result<Response, Refusal> = async {
        let zone = zone_of(&zone)?;
        let id: SessionId = id_of(&id)?;
        let caller = authenticate(&coordinator, &zone, &asked, Audience::Everybody).await?;
        let mut tx = coordinator.database.read_in(ZoneScope::Zone(&zone)).await?;
        let found = session::find(&mut tx, &zone, id.as_str()).await?;
        let visible = found.filter(|session| caller.may_see(&session.application_id));
        visible
            .map(|session| Json(view::item(&session)).into_response())
            .ok_or_else(|| Refusal::not_found("session_not_found"))
    }
    .await;
    outcome.unwrap_or_else(|refusal| refusal.into_answer(request_id.as_str()))
}

/// Query of an end.
#[derive(Debug, Deserialize)]
pub(super) struct EndQuery {
    reason: Option<String>,
}

/// Body of an end.
#[derive(Debug, Default, Deserialize)]
struct EndBody {
    lease_generation: Option<i64>,
}

/// `DELETE /zones/{zone}/agents/{id}`
pub(super) async fn end(
    State(coordinator): Shared,
    Path((zone, id)): Path<(String, String)>,
    query: Result<Query<EndQuery>, QueryRejection>,
    request_id: RequestId,
    asked: Asked,
    body: Body,
) -> Response {
    let outcome: Result<StatusCode, Refusal> = async {
        let zone = zone_of(&zone)?;
        let id: SessionId = id_of(&id)?;
        let caller = authenticate(&coordinator, &zone, &asked, Audience::Everybody).await?;
        let Query(query) = query.map_err(|_malformed| Refusal::bad_request("invalid_query"))?;
        let bytes = whole_body(body, coordinator.body_bytes_max).await?;
        let body: EndBody = if bytes.is_empty() {
            EndBody::default()
        } else {
            serde_json::from_slice(&bytes).map_err(|error| Refusal::invalid_body(error.to_string()))?
        };
        let reason = query.reason.as_deref().unwrap_or("requested");
        terminate::terminate(
            &coordinator,
            &caller,
            &zone,
            &id,
            reason,
            body.lease_generation,
            request_id.as_str(),
        )
        .await?;
        Ok(StatusCode::NO_CONTENT)
    }
    .await;
    outcome.map_or_else(
        |refusal| refusal.into_answer(request_id.as_str()),
        IntoResponse::into_response,
    )
}
