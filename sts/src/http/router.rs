//! Every route of the service, in one list.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::{get, post};
use caracal_wire::channel::CHANNEL_PATH;
use caracal_wire::error::ErrorCode;
use caracal_wire::gateway_document::{DOCUMENTS_PATH, LEASE_SUFFIX};
use caracal_wire::gateway_operations::OPERATIONS_PATH;
use caracal_wire::policy::{SIMULATE_PATH, STATUS_PATH};
use caracal_wire::sts::{JWKS_PATH, REVOCATIONS_PATH, TOKEN_PATH};

use super::standard::{introspect, metadata, revoke};
use super::{
    answer, approval_decision, approvals, channel, gateway_documents, gateway_operations, internal, jwks,
    policy, policy_data, run, signing_keys, token,
};
use crate::state::Sts;

/// Longest an answer may take to begin, but for those who asked to wait.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// The routes; `health` brings those every service has. `GET` routes answer `HEAD` as well.
pub(crate) fn router(sts: Arc<Sts>, health: Router) -> Router {
    Router::new()
        .route(TOKEN_PATH, post(token::exchange).fallback(token::wrong_method))
        .route(JWKS_PATH, get(jwks::key_set))
        .route(REVOCATIONS_PATH, get(internal::revocations))
        .route(CHANNEL_PATH, get(channel::open))
        .route(OPERATIONS_PATH, get(gateway_operations::operations))
        .route(
            &format!("{DOCUMENTS_PATH}{{name}}"),
            get(gateway_documents::read).post(gateway_documents::write),
        )
        .route(
            &format!("{DOCUMENTS_PATH}{{name}}{LEASE_SUFFIX}"),
            post(gateway_documents::lease),
        )
        .route(SIMULATE_PATH, post(policy::simulate))
        .route(&format!("{STATUS_PATH}{{zone_id}}"), get(policy::status))
        .route(
            "/internal/zones/{zone_id}/signing-key/rotate",
            post(signing_keys::rotate),
        )
        .route("/internal/zones/{zone_id}/signing-keys", get(signing_keys::list))
        .route(
            "/.well-known/oauth-authorization-server/{*path}",
            get(metadata::metadata),
        )
        .route(
            "/zones/{zone_id}/oauth2/token",
            post(token::exchange_in_zone).fallback(token::wrong_method),
        )
        .route("/zones/{zone_id}/oauth2/introspect", post(introspect::introspect))
        .route("/zones/{zone_id}/oauth2/revoke", post(revoke::revoke))
        .route(
            "/v1/run/manifest",
            post(run::manifest).fallback(run::wrong_method),
        )
        .route(
            "/v1/run/credential",
            post(run::credential).fallback(run::wrong_method),
        )
        .route(
            "/v1/data",
            post(policy_data::ask).fallback(policy_data::wrong_method),
        )
        .route(
            "/v1/data/",
            post(policy_data::ask).fallback(policy_data::wrong_method),
        )
        .route(
            "/v1/data/{*path}",
            post(policy_data::ask).fallback(policy_data::wrong_method),
        )
        .route("/step-up/{id}", get(approvals::step_up))
        .route("/approvals/{id}/decision", post(approval_decision::decide))
        .layer(from_fn(|request: Request, next: Next| in_time(next.run(request))))
        .route("/approvals/{id}", get(approvals::status))
        .with_state(sts)
        .merge(health)
}

/// The answer, or that it took too long.
pub(super) async fn in_time(answer: impl Future<Output = Response>) -> Response {
    tokio::time::timeout(ANSWER_WITHIN, answer)
        .await
        .unwrap_or_else(|_elapsed| {
            let mut late = answer::error(
                http::StatusCode::SERVICE_UNAVAILABLE,
                ErrorCode::StsUnavailable,
                "the request took too long",
                None,
            );
            late.headers_mut()
                .insert(http::header::RETRY_AFTER, http::HeaderValue::from(1));
            late
        })
}
