//! What can be asked of the coordinator over HTTP? A flat list of every route.

mod delegations;
mod sessions;

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, patch, post};
use axum::{Json, Router};
use bytes::Bytes;
use caracal_chassis::health::{self, Readiness};
use caracal_chassis::metrics::Registry;
use caracal_chassis::server::{BodyError, RequestId, read_body};
use caracal_chassis::shutdown::Shutdown;
use caracal_model::ZoneId;
use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;

use crate::refusal::Refusal;
use crate::state::Coordinator;

/// Every route of the service. Zones are reachable under both prefixes.
pub(crate) fn router(coordinator: &Arc<Coordinator>, registry: Registry, shutdown: Shutdown) -> Router {
    let zone = Router::new()
        .route("/agents", post(sessions::start))
        .route("/agents/{id}", get(sessions::show).merge(delete(sessions::end)))
        .route("/delegations", post(delegations::create))
        .route("/delegations/inbound/{session}", get(delegations::inbound))
        .route(
            "/delegations/inbound/{session}/{id}",
            get(delegations::inbound_one),
        )
        .route("/delegations/{id}/revoke", patch(delegations::revoke))
        .with_state(Arc::clone(coordinator));
    Router::new()
        .nest("/zones/{zone}", zone.clone())
        .nest("/v1/zones/{zone}", zone)
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .merge(health::router(
            readiness(coordinator, shutdown),
            registry,
            coordinator.metrics.clone(),
        ))
}

fn readiness(coordinator: &Arc<Coordinator>, shutdown: Shutdown) -> Readiness {
    let database = coordinator.database.clone();
    let bus = Arc::clone(&coordinator.bus);
    Readiness::new()
        .add("postgres_unreachable", move || {
            let database = database.clone();
            async move { database.ping().await.is_ok() }
        })
        .add("redis_unreachable", move || {
            let bus = Arc::clone(&bus);
            async move { bus.ping().await.is_ok() }
        })
        .until(shutdown)
}

async fn not_found(request_id: RequestId) -> Response {
    Refusal::not_found("not_found").into_answer(request_id.as_str())
}

async fn method_not_allowed(request_id: RequestId) -> Response {
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed").into_answer(request_id.as_str())
}

/// What a use case answers.
#[derive(Debug)]
pub(crate) struct Answer {
    status: StatusCode,
    body: Value,
    is_replay: bool,
}

impl Answer {
    pub(crate) fn new(status: StatusCode, body: Value) -> Self {
        Self {
            status,
            body,
            is_replay: false,
        }
    }

    /// The answer of an earlier equal request.
    pub(crate) fn replayed(status: StatusCode, body: Value) -> Self {
        Self {
            status,
            body,
            is_replay: true,
        }
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body)).into_response();
        if self.is_replay {
            response
                .headers_mut()
                .insert("idempotency-replayed", HeaderValue::from_static("true"));
        }
        response
    }
}

/// A new id: time-ordered, random in its last 74 bits (RFC 9562, version 7).
pub(crate) fn new_id<T>() -> Result<T, Refusal>
where
    T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    Uuid::now_v7()
        .to_string()
        .parse()
        .map_err(|error: T::Err| Refusal::Internal(Box::new(error)))
}

/// The zone of the path.
fn zone_of(text: &str) -> Result<ZoneId, Refusal> {
    text.parse()
        .map_err(|_invalid| Refusal::bad_request("invalid_params"))
}

/// An id of the path.
fn id_of<T: std::str::FromStr>(text: &str) -> Result<T, Refusal> {
    text.parse()
        .map_err(|_invalid| Refusal::bad_request("invalid_params"))
}

/// Reads a body of at most `bytes_max` bytes.
async fn whole_body(body: Body, bytes_max: usize) -> Result<Bytes, Refusal> {
    read_body(body, bytes_max).await.map_err(|error| match error {
        BodyError::TooLarge(_) => Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large"),
        BodyError::Broken(_) => Refusal::invalid_body("the body could not be read"),
    })
}

/// Reads a JSON body of at most `bytes_max` bytes.
async fn json_body<T: DeserializeOwned>(body: Body, bytes_max: usize) -> Result<T, Refusal> {
    let bytes = whole_body(body, bytes_max).await?;
    serde_json::from_slice(&bytes).map_err(|error| Refusal::invalid_body(error.to_string()))
}
