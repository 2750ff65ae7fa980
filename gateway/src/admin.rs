//! How do operators ask the gateway how it is? Health, readiness, metrics and a reload, on a port of their own, so that
//! no upstream path is shadowed.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use caracal_chassis::health::{Health, Readiness};
use caracal_chassis::shutdown::Shutdown;
use serde_json::json;

use crate::Gateway;
use crate::metrics::PREFIX;

/// Longest a reload may take.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(5);

/// When the gateway can do its work (docs/contract/gateway.md, "Readiness").
pub(crate) fn readiness(gateway: &Arc<Gateway>, shutdown: Shutdown) -> Readiness {
    let check = |holds: fn(&Gateway) -> bool| {
        let gateway = Arc::clone(gateway);
        move || {
            let gateway = Arc::clone(&gateway);
            async move { holds(&gateway) }
        }
    };
    let (bus, table, sts) = (Arc::clone(gateway), Arc::clone(gateway), Arc::clone(gateway));
    Readiness::new()
        .until(shutdown)
        .add("redis_unreachable", move || {
            let gateway = Arc::clone(&bus);
            async move { gateway.bus.ping().await.is_ok() }
        })
        .add(
            "revocation_snapshot_stale",
            check(|gateway| gateway.revocations.is_fresh(gateway.clock.now())),
        )
        .add("replay_table_warming", move || {
            let gateway = Arc::clone(&table);
            async move { gateway.remembers_enough().await }
        })
        .add(
            "audit_replay_unavailable",
            check(|gateway| gateway.evidence.spool().stats().has_room()),
        )
        .add("clock_skew", check(|gateway| !gateway.skew.is_suspected()))
        .add("sts_unavailable", check(|gateway| !gateway.sts.is_circuit_open()))
        .add("sts_unreachable", move || {
            let gateway = Arc::clone(&sts);
            async move { gateway.sts.is_healthy().await }
        })
}

/// The routes of the admin port.
pub(crate) fn router(gateway: &Arc<Gateway>, readiness: Readiness) -> Router {
    let registry = gateway.metrics.registry().clone();
    let (flat, read) = (registry.clone(), Arc::clone(gateway));
    let health = Health::new(readiness, registry, gateway.config.metrics_access.clone())
        .refreshed_by(move || read.metrics.read_state(&read))
        .with_json(move || flat.json_without_prefix(PREFIX));
    let reload = Router::new()
        .route("/internal/revocations/reload", post(reload_revocations))
        .with_state(Arc::clone(gateway));
    health.router().merge(reload)
}

/// Loads the revocation snapshot at once. Whoever has no right to ask is told that there is nothing.
async fn reload_revocations(State(gateway): State<Arc<Gateway>>, headers: HeaderMap) -> Response {
    let token = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    let is_allowed = match (&gateway.config.admin_token, token) {
        (Some(expected), Some(token)) => expected.matches(token),
        _ => false,
    };
    if !is_allowed {
        return (StatusCode::NOT_FOUND, "not found").into_response();
    }
    match tokio::time::timeout(RELOAD_TIMEOUT, gateway.revocations.load()).await {
        Ok(Ok(known)) => axum::Json(json!({"ok": true, "revocations": known})).into_response(),
        outcome => {
            if let Ok(Err(error)) = outcome {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "revocations cannot be reloaded"
                );
            }
            let body = json!({"ok": false, "reason": "revocation_reload_failed"});
            (StatusCode::SERVICE_UNAVAILABLE, axum::Json(body)).into_response()
        }
    }
}
