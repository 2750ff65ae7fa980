//! `/delegations`: create, revoke, and what a session received.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use caracal_chassis::server::RequestId;
use caracal_model::{DelegationId, SessionId};

use super::{Answer, id_of, json_body, zone_of};
use crate::auth::{Asked, Audience, authenticate};
use crate::delegation::{create as creating, received, revoke as revoking};
use crate::idempotency::Key;
use crate::refusal::Refusal;
use crate::state::Coordinator;

type Shared = State<Arc<Coordinator>>;

/// `POST /zones/{zone}/delegations`
pub(super) async fn create(
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
        creating::create(&coordinator, &caller, &zone, body, key, request_id.as_str()).await
    }
    .await;
    outcome.map_or_else(
        |refusal| refusal.into_answer(request_id.as_str()),
        IntoResponse::into_response,
    )
}

/// `PATCH /zones/{zone}/delegations/{id}/revoke`
pub(super) async fn revoke(
    State(coordinator): Shared,
    Path((zone, id)): Path<(String, String)>,
    request_id: RequestId,
    asked: Asked,
) -> Response {
    let outcome = async {
        let zone = zone_of(&zone)?;
        let id: DelegationId = id_of(&id)?;
        let caller = authenticate(&coordinator, &zone, &asked, Audience::Everybody).await?;
        revoking::revoke(&coordinator, &caller, &zone, &id, request_id.as_str()).await
    }
    .await;
    outcome.map_or_else(
        |refusal: Refusal| refusal.into_answer(request_id.as_str()),
        |body| Json(body).into_response(),
    )
}

/// `GET /zones/{zone}/delegations/inbound/{session}`
pub(super) async fn inbound(
    State(coordinator): Shared,
    Path((zone, session)): Path<(String, String)>,
    query: Result<Query<received::PageQuery>, QueryRejection>,
    request_id: RequestId,
    asked: Asked,
) -> Response {
    let outcome = async {
        let zone = zone_of(&zone)?;
        let session: SessionId = id_of(&session)?;
        let caller = authenticate(&coordinator, &zone, &asked, Audience::Everybody).await?;
        let Query(query) = query.map_err(|_malformed| Refusal::bad_request("invalid_query"))?;
        received::page(&coordinator, &caller, &zone, &session, &query).await
    }
    .await;
    outcome.map_or_else(
        |refusal: Refusal| refusal.into_answer(request_id.as_str()),
        |body| Json(body).into_response(),
    )
}

/// `GET /zones/{zone}/delegations/inbound/{session}/{id}`
pub(super) async fn inbound_one(
    State(coordinator): Shared,
    Path((zone, session, id)): Path<(String, String, String)>,
    request_id: RequestId,
    asked: Asked,
) -> Response {
    let outcome = async {
        let zone = zone_of(&zone)?;
        let session: SessionId = id_of(&session)?;
        let id: DelegationId = id_of(&id)?;
        let caller = authenticate(&coordinator, &zone, &asked, Audience::Everybody).await?;
        received::one(&coordinator, &caller, &zone, &session, &id).await
    }
    .await;
    outcome.map_or_else(
        |refusal: Refusal| refusal.into_answer(request_id.as_str()),
        |body| Json(body).into_response(),
    )
}
