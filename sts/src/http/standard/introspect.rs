//! `POST /zones/{zone}/oauth2/introspect` (RFC 7662).

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use caracal_chassis::server::{Peer, RequestId};
use caracal_model::UnixSeconds;
use caracal_token::Claims;
use serde_json::{Value, json};

use super::{Management, Problem, authenticated};
use crate::exchange::possession::token_type;
use crate::http::answer::NO_STORE;
use crate::introspection::{self, Undecided};
use crate::state::Sts;

/// Tells an application of the zone what a token of the zone says, while it holds.
pub(in crate::http) async fn introspect(
    State(sts): State<Arc<Sts>>,
    Path(zone): Path<String>,
    peer: Peer,
    request_id: RequestId,
    request: Request,
) -> Response {
    match answer(&sts, &zone, peer, &request_id, request).await {
        Ok(body) => (NO_STORE, axum::Json(body)).into_response(),
        Err(problem) => problem.respond(request_id.as_str()),
    }
}

async fn answer(
    sts: &Sts,
    zone: &str,
    peer: Peer,
    request_id: &RequestId,
    request: Request,
) -> Result<Value, Problem> {
    let sender = authenticated(sts, zone, peer, request_id, Management::Introspection, request).await?;
    let token = sender.form.get("token").filter(|token| !token.is_empty());
    let token = token.ok_or_else(|| Problem::invalid_request("token is required"))?;
    let now = UnixSeconds(sts.clock.unix_seconds());
    let zone = sender.caller.zone();
    let mut active = introspection::active(sts, zone, token, now)
        .await
        .map_err(|error| undecided(&error))?;
    if active.is_none()
        && let Some(zone) = introspection::newer(sts, zone).await
    {
        active = introspection::active(sts, &zone, token, now)
            .await
            .map_err(|error| undecided(&error))?;
    }
    sts.metrics.introspected(active.is_some());
    Ok(active.map_or_else(inactive, |claims| document(&claims)))
}

fn undecided(undecided: &Undecided) -> Problem {
    tracing::warn!(
        error = undecided as &dyn std::error::Error,
        "a token cannot be judged"
    );
    match undecided {
        Undecided::RevocationStale => Problem::unavailable("revocation state unavailable"),
        Undecided::SessionState(_) => Problem::unavailable("session state unavailable"),
    }
}

/// Nothing is said about why (RFC 7662 section 2.2).
fn inactive() -> Value {
    json!({ "active": false })
}

/// The claims as they stand in the token, and what RFC 7662 adds.
fn document(claims: &Claims) -> Value {
    let Ok(Value::Object(mut document)) = serde_json::to_value(claims) else {
        return inactive();
    };
    document.insert("active".to_owned(), json!(true));
    document.insert("token_type".to_owned(), json!(token_type(claims)));
    Value::Object(document)
}
