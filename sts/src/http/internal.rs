//! What gateways and administrators ask for.

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use caracal_chassis::server::read_body;
use caracal_model::ZoneId;
use caracal_storage::{StorageError, revocation};
use caracal_wire::error::ErrorCode;
use caracal_wire::sts::{RevocationSnapshot, RevokedAnchor};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::json;

use super::answer::{NO_STORE, error};
use super::gateway;
use crate::key;
use crate::state::Sts;

/// `GET /internal/gateway/revocations`: everything that is revoked now, for a gateway that starts or missed something.
///
/// Read from the durable log: a gateway captures the ends of the streams before it asks, so whatever this does not hold
/// comes to it by the streams.
pub(super) async fn revocations(State(sts): State<Arc<Sts>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = read_body(body, 1_024).await.unwrap_or_default();
    if let Err(reason) = gateway::verify(
        &sts,
        &parts.headers,
        parts.method.as_str(),
        parts.uri.path(),
        &body,
    ) {
        tracing::warn!(%reason, "refused a request for revocations");
        let description = "invalid gateway signature";
        return error(
            StatusCode::UNAUTHORIZED,
            ErrorCode::AccessDenied,
            description,
            None,
        );
    }
    match snapshot(&sts).await {
        Ok(snapshot) => (NO_STORE, axum::Json(snapshot)).into_response(),
        Err(failure) => {
            tracing::warn!(
                error = &failure as &dyn std::error::Error,
                "the revocations cannot be read"
            );
            let description = "revocation state unavailable";
            error(
                StatusCode::SERVICE_UNAVAILABLE,
                ErrorCode::StsUnavailable,
                description,
                None,
            )
        }
    }
}

async fn snapshot(sts: &Sts) -> Result<RevocationSnapshot, StorageError> {
    // Taken before the statement, so that the snapshot is never younger than it says.
    let as_of_unix_ms = sts.clock.unix_millis();
    let mut tx = sts.database.read().await?;
    let revoked = revocation::live(&mut tx).await?;
    let entry = |revoked: revocation::Revoked| RevokedAnchor {
        zone_id: revoked.zone_id,
        kind: revoked.anchor.kind(),
        id: revoked.anchor.id().to_owned(),
        expires_at: revoked.expires_at.unix_timestamp(),
    };
    Ok(RevocationSnapshot {
        as_of_unix_ms,
        revocations: revoked.into_iter().map(entry).collect(),
    })
}

/// `POST /internal/zones/{zone}/signing-key/rotate`: a new signing key for a zone. Does not exist without an administrator's
/// token in the settings.
pub(super) async fn rotate_signing_key(
    State(sts): State<Arc<Sts>>,
    Path(zone_id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let Some(admin_token) = &sts.admin_token else {
        return (StatusCode::NOT_FOUND, "not found\n").into_response();
    };
    let authorization = headers
        .get(header::AUTHORIZATION)
        .map(HeaderValue::as_bytes)
        .unwrap_or_default();
    if !authorization
        .strip_prefix(b"Bearer ")
        .is_some_and(|token| admin_token.matches(token))
    {
        let realm = [(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static("Bearer realm=\"caracal-sts\""),
        )];
        return (StatusCode::UNAUTHORIZED, realm, "unauthorized\n").into_response();
    }
    let not_found = || {
        error(
            StatusCode::NOT_FOUND,
            ErrorCode::ResourceNotFound,
            "zone not found",
            None,
        )
    };
    let Ok(zone) = ZoneId::try_from(zone_id) else {
        return not_found();
    };
    if matches!(sts.zones.model(&zone).await, Err(crate::zone::ZoneError::Unknown)) {
        return not_found();
    }
    match key::rotate(&sts, &zone).await {
        Ok(kid) => axum::Json(json!({"kid": kid, "rotated": true, "zone_id": zone})).into_response(),
        Err(failure) => {
            tracing::error!(zone.id = %zone, error = &failure as &dyn std::error::Error, "a signing key was not rotated");
            error(
                StatusCode::INTERNAL_SERVER_ERROR,
                ErrorCode::InternalError,
                "rotation failed",
                None,
            )
        }
    }
}
