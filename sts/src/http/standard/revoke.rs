//! `POST /zones/{zone}/oauth2/revoke` (RFC 7009).

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use caracal_chassis::server::{Peer, RequestId};
use caracal_model::UnixSeconds;
use caracal_token::Use;
use http::StatusCode;

use super::{Management, Problem, authenticated};
use crate::exchange::subject_token::LEEWAY_SECONDS;
use crate::http::answer::NO_STORE;
use crate::introspection;
use crate::state::Sts;
use crate::token_revocation;

/// Ends a token at the request of the application it was issued to.
pub(in crate::http) async fn revoke(
    State(sts): State<Arc<Sts>>,
    Path(zone): Path<String>,
    peer: Peer,
    request_id: RequestId,
    request: Request,
) -> Response {
    match end(&sts, &zone, peer, &request_id, request).await {
        Ok(()) => (StatusCode::OK, NO_STORE).into_response(),
        Err(problem) => problem.respond(request_id.as_str()),
    }
}

/// A token that is not one of this zone is as good as revoked (RFC 7009 section 2.2), and so is one that has expired.
async fn end(
    sts: &Sts,
    zone: &str,
    peer: Peer,
    request_id: &RequestId,
    request: Request,
) -> Result<(), Problem> {
    let sender = authenticated(sts, zone, peer, request_id, Management::Revocation, request).await?;
    let token = sender.form.get("token").filter(|token| !token.is_empty());
    let token = token.ok_or_else(|| Problem::invalid_request("token is required"))?;
    let now = UnixSeconds(sts.clock.unix_seconds());
    let zone = sender.caller.zone();
    let mut claims = introspection::genuine(sts, zone, token, now);
    if claims.is_none()
        && let Some(zone) = introspection::newer(sts, zone).await
    {
        claims = introspection::genuine(sts, &zone, token, now);
    }
    let Some(claims) = claims else { return Ok(()) };
    if claims.client_id != sender.caller.application().id {
        return Err(Problem::not_the_holder());
    }
    // What stands on the record of a session mandate may outlive the mandate itself.
    let is_over = claims.exp.saturating_add(LEEWAY_SECONDS) <= now.0;
    if is_over && claims.r#use != Use::Session {
        return Ok(());
    }
    token_revocation::revoke(sts, &claims, request_id.as_str())
        .await
        .map_err(|error| {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "a token was not revoked"
            );
            Problem::unavailable("the revocation cannot be stored")
        })
}
