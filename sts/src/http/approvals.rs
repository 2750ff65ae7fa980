//! `GET /approvals/{id}`: where is an approval in its life? `GET /step-up/{id}` says the same in older words.
//!
//! The id is the capability: whoever knows it may look and wait, and learns a state and a time, nothing else.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use caracal_model::{ApprovalState, UnixMicros};
use caracal_storage::StorageError;
use caracal_storage::approval::{self, Approval};
use caracal_wire::approval::{ApprovalStatus, HUMAN_APPROVAL};
use caracal_wire::error::ErrorCode;
use http::{HeaderValue, StatusCode, header};
use serde_json::json;
use tokio::time::Instant;
use uuid::Uuid;

use super::answer::{NO_STORE, error};
use crate::approval::Told;
use crate::state::Sts;

/// Longest a request may wait, in seconds; asking for longer waits this long.
const WAIT_SECONDS_MAX: u64 = 25;

/// Why a request about an approval is refused.
#[derive(Debug)]
pub(super) enum NoApproval {
    NotFound,
    Wait,
    Busy,
    Unavailable,
}

/// `GET /approvals/{id}?wait=N`.
pub(super) async fn status(
    State(sts): State<Arc<Sts>>,
    Path(id): Path<String>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    match wait_for(&sts, &id, query.get("wait").map(String::as_str)).await {
        Ok(found) => (NO_STORE, axum::Json(view(&found))).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

/// `GET /step-up/{id}`.
pub(super) async fn step_up(State(sts): State<Arc<Sts>>, Path(id): Path<String>) -> Response {
    match find(&sts, &id).await {
        Ok(found) => (NO_STORE, axum::Json(step_up_view(&found))).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

/// What a decision and a look answer with.
pub(super) fn view(found: &Approval) -> ApprovalStatus {
    ApprovalStatus {
        expires_at: expires_at(found),
        id: found.id.clone(),
        state: found.state(),
    }
}

fn step_up_view(found: &Approval) -> serde_json::Value {
    json!({
        "id": found.id,
        "challenge_type": HUMAN_APPROVAL,
        "satisfied": found.satisfied_at.is_some(),
        "consumed": found.consumed_at.is_some(),
        "expires_at": expires_at(found),
    })
}

fn expires_at(found: &Approval) -> String {
    UnixMicros(found.expires_at.unix_timestamp() * 1_000_000).to_rfc3339()
}

/// Looks once, then waits to be told, until the approval is settled or the time is over.
async fn wait_for(sts: &Sts, id: &str, wait: Option<&str>) -> Result<Arc<Approval>, NoApproval> {
    let id = parse(id)?;
    let wait = patience(wait)?;
    let found = read(sts, id).await?;
    if wait.is_zero() || found.state() != ApprovalState::Pending {
        return Ok(Arc::new(found));
    }
    let mut waiter = sts.waiters.join(&found).map_err(|_too_many| NoApproval::Busy)?;
    // Registered first, so that a decision made since the look above is seen by this one.
    let mut found = read(sts, id).await?;
    let until = Instant::now() + wait;
    while found.state() == ApprovalState::Pending && Instant::now() < until {
        let left = Duration::try_from(found.expires_at - found.read_at).unwrap_or_default();
        let over = Instant::now() + left;
        tokio::select! {
            told = waiter.told() => match told {
                Told::Settled(settled) => return Ok(settled),
                Told::Gone => return Err(NoApproval::NotFound),
                Told::Closing => break,
            },
            () = tokio::time::sleep_until(over.min(until)) => found = read(sts, id).await?,
        }
    }
    Ok(Arc::new(found))
}

/// How long somebody is ready to wait.
fn patience(wait: Option<&str>) -> Result<Duration, NoApproval> {
    let seconds: u64 = match wait {
        None => 0,
        Some(text) => text.parse().map_err(|_not_a_number| NoApproval::Wait)?,
    };
    Ok(Duration::from_secs(seconds.min(WAIT_SECONDS_MAX)))
}

fn parse(id: &str) -> Result<Uuid, NoApproval> {
    Uuid::parse_str(id).map_err(|_not_an_id| NoApproval::NotFound)
}

/// One SQL statement.
pub(super) async fn find(sts: &Sts, id: &str) -> Result<Approval, NoApproval> {
    read(sts, parse(id)?).await
}

async fn read(sts: &Sts, id: Uuid) -> Result<Approval, NoApproval> {
    let read = async {
        let mut tx = sts.database.read().await?;
        approval::find(&mut tx, &id.to_string()).await
    };
    read.await.map_err(unavailable)?.ok_or(NoApproval::NotFound)
}

#[expect(clippy::needless_pass_by_value, reason = "shaped for map_err")]
fn unavailable(failure: StorageError) -> NoApproval {
    tracing::warn!(
        error = &failure as &dyn std::error::Error,
        "an approval cannot be read"
    );
    NoApproval::Unavailable
}

impl IntoResponse for NoApproval {
    fn into_response(self) -> Response {
        let (status, code, description) = match self {
            Self::NotFound => (
                StatusCode::NOT_FOUND,
                ErrorCode::ResourceNotFound,
                "approval not found",
            ),
            Self::Wait => (StatusCode::BAD_REQUEST, ErrorCode::InvalidToken, "invalid wait"),
            Self::Busy => (
                StatusCode::SERVICE_UNAVAILABLE,
                ErrorCode::StsUnavailable,
                "too many requests wait for approvals",
            ),
            Self::Unavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                ErrorCode::StsUnavailable,
                "approval store unavailable",
            ),
        };
        let mut response = error(status, code, description, None);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asks_for_longer_waits_twenty_five_seconds() {
        for (text, seconds) in [(None, 0), (Some("0"), 0), (Some("7"), 7), (Some("10000"), 25)] {
            assert_eq!(patience(text).unwrap(), Duration::from_secs(seconds), "{text:?}");
        }
        for text in ["", "-1", "1.5", "soon"] {
            assert!(matches!(patience(Some(text)), Err(NoApproval::Wait)), "{text:?}");
        }
    }
}
