//! What gateways ask for.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use caracal_storage::{StorageError, revocation};
use caracal_wire::error::ErrorCode;
use caracal_wire::form;
use caracal_wire::sts::{REVOCATIONS_AFTER, RevocationSnapshot, RevokedAnchor};
use http::StatusCode;

use super::answer::{NO_STORE, error};
use super::gateway;
use crate::feed::REVOCATIONS_A_PART;
use crate::state::Sts;

/// `GET /internal/gateway/revocations`: what is revoked now, for a gateway that starts or missed something. In parts when the query
/// names where to begin; else whole, because who does not ask for a second part must not miss what is in it.
///
/// Read from the durable log: a gateway captures the ends of the streams before it asks, so whatever this does not hold
/// comes to it by the streams.
pub(super) async fn revocations(State(sts): State<Arc<Sts>>, request: Request) -> Response {
    let parts = match gateway::signed(&sts, request, "revocations").await {
        Ok(parts) => parts,
        Err(refusal) => return refusal,
    };
    let Some(begin) = begin(parts.uri.query().unwrap_or_default()) else {
        let (code, description) = (ErrorCode::InvalidToken, "malformed query");
        return error(StatusCode::BAD_REQUEST, code, description, None);
    };
    match snapshot(&sts, begin).await {
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

/// What of the revocations is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begin {
    /// All of them.
    Whole,
    /// One part, after this number.
    After(i64),
}

/// `None` for what is no number.
fn begin(query: &str) -> Option<Begin> {
    let query = form::parse(query.as_bytes(), &[]).ok()?;
    match query.get(REVOCATIONS_AFTER) {
        None => Some(Begin::Whole),
        Some(after) => Some(Begin::After(after.parse().ok()?)),
    }
}

async fn snapshot(sts: &Sts, begin: Begin) -> Result<RevocationSnapshot, StorageError> {
    // Taken before the statement, so that the snapshot is never younger than it says.
    let as_of_unix_ms = sts.clock.unix_millis();
    let mut tx = sts.database.read().await?;
    let (after, is_whole) = match begin {
        Begin::Whole => (0, true),
        Begin::After(after) => (after, false),
    };
    let mut part = revocation::live_after(&mut tx, after, REVOCATIONS_A_PART).await?;
    let mut revoked = std::mem::take(&mut part.revoked);
    while let Some(next) = part.next.filter(|_next| is_whole) {
        part = revocation::live_after(&mut tx, next, REVOCATIONS_A_PART).await?;
        revoked.append(&mut part.revoked);
    }
    let entry = |revoked: revocation::Revoked| RevokedAnchor {
        zone_id: revoked.zone_id,
        kind: revoked.anchor.kind(),
        id: revoked.anchor.id().to_owned(),
        expires_at: revoked.expires_at.unix_timestamp(),
    };
    Ok(RevocationSnapshot {
        as_of_unix_ms,
        revocations: revoked.into_iter().map(entry).collect(),
        next: part.next,
    })
}
