//! What can be asked of the audit service over HTTP? Health, metrics, and for the operator: search and verification.

mod operator;

use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use caracal_bus::Bus;
use caracal_chassis::health::{self, MetricsAccess, Readiness};
use caracal_chassis::metrics::Registry;
use caracal_chassis::server::RequestId;
use caracal_chassis::shutdown::Shutdown;
use caracal_chassis::{Clock, Secret};
use caracal_storage::Database;
use serde_json::json;

use crate::chain::AuditKeys;
use crate::{Config, Deps};

/// What the handlers need.
pub(crate) struct State {
    operator: Arc<Operator>,
    bus: Arc<dyn Bus>,
    registry: Registry,
    metrics: MetricsAccess,
    shutdown: Shutdown,
}

/// What the operator's routes need.
pub(crate) struct Operator {
    database: Database,
    keys: AuditKeys,
    clock: Clock,
    admin_token: Option<Secret>,
}

impl State {
    pub(crate) fn new(
        config: &Config,
        deps: &Deps,
        database: Database,
        registry: Registry,
        shutdown: Shutdown,
    ) -> Self {
        let operator = Operator {
            database,
            keys: config.audit_keys.clone(),
            clock: deps.clock.clone(),
            admin_token: config.admin_token.clone(),
        };
        Self {
            operator: Arc::new(operator),
            bus: Arc::clone(&deps.bus),
            registry,
            metrics: config.metrics.clone(),
            shutdown,
        }
    }
}

/// Every route of the service.
pub(crate) fn router(state: State) -> Router {
    let database = state.operator.database.clone();
    let bus = Arc::clone(&state.bus);
    let readiness = Readiness::new()
        .add("postgres_unreachable", move || {
            let database = database.clone();
            async move { database.ping().await.is_ok() }
        })
        .add("redis_unreachable", move || {
            let bus = Arc::clone(&bus);
            async move { bus.ping().await.is_ok() }
        })
        .until(state.shutdown);
    let operator = Router::new()
        .route("/api/audit/search", get(operator::search))
        .route("/api/audit/verify", get(operator::verify))
        .fallback(not_found)
        .with_state(state.operator);
    operator.merge(health::router(readiness, state.registry, state.metrics))
}

async fn not_found(request_id: RequestId) -> Response {
    let body = json!({"error": "not_found", "requestId": request_id.as_str()});
    (StatusCode::NOT_FOUND, Json(body)).into_response()
}
