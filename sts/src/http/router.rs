//! Every route of the service, in one list.

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};
use caracal_wire::policy::{SIMULATE_PATH, STATUS_PATH};
use caracal_wire::sts::{JWKS_PATH, REVOCATIONS_PATH, TOKEN_PATH};

use super::standard::{introspect, metadata, revoke};
use super::{internal, jwks, policy, signing_keys, token};
use crate::state::Sts;

/// The routes; `health` brings those every service has. `GET` routes answer `HEAD` as well.
pub(crate) fn router(sts: Arc<Sts>, health: Router) -> Router {
    Router::new()
        .route(TOKEN_PATH, post(token::exchange).fallback(token::wrong_method))
        .route(JWKS_PATH, get(jwks::key_set))
        .route(REVOCATIONS_PATH, get(internal::revocations))
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
        .with_state(sts)
        .merge(health)
}
