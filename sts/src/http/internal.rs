//! What gateways ask for.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use caracal_storage::{StorageError, revocation};
use caracal_wire::error::ErrorCode;
use caracal_wire::sts::{RevocationSnapshot, RevokedAnchor};
use http::StatusCode;

use super::answer::{NO_STORE, error};
use super::gateway;
use crate::state::Sts;

/// `GET /internal/gateway/revocations`: everything that is revoked now, for a gateway that starts or missed something.
///
/// Read from the durable log: a gateway captures the ends of the streams before it asks, so whatever this does not hold
/// comes to it by the streams.
pub(super) async fn revocations(State(sts): State<Arc<Sts>>, request: Request) -> Response {
    if let Err(refusal) = gateway::signed(&sts, request, "revocations").await {
        return refusal;
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
