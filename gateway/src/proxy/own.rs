//! Which requests does the gateway answer by itself? Health and readiness, the proofs of ACME, and redirects.

use std::time::Duration;

use pingora_error::Result;
use pingora_proxy::Session;
use serde_json::json;
use tokio::time::Instant;

use super::session::inbound;
use super::{Proxy, answer};
use crate::Gateway;
use crate::acme::challenges::HTTP_PREFIX;
use crate::context::{Context, Verdict};
use crate::denial::Denial;
use crate::stage::route::Location;

/// How long an answer about readiness holds on the port of requests.
const READINESS_HOLDS: Duration = Duration::from_millis(500);

impl Proxy {
    /// Answers `/health` and `/ready` on this port too, when it should.
    pub(super) async fn serve_health(&self, session: &mut Session, context: &mut Context) -> Result<bool> {
        if !self.gateway.config.health_on_main {
            return Ok(false);
        }
        let body = match session.req_header().uri.path() {
            "/health" => Ok(()),
            "/ready" => self.is_ready().await,
            _ => return Ok(false),
        };
        context.verdict = Verdict::Served;
        let is_ready = session.req_header().uri.path() == "/ready";
        let (status, body) = match body {
            Ok(()) if is_ready => (200, json!({"ok": true, "ready": true})),
            Ok(()) => (200, json!({"ok": true})),
            Err(reason) => (503, json!({"ok": false, "ready": false, "reason": reason})),
        };
        session.set_close_on_response_before_downstream_finish(false);
        answer::document(session, status, &body, &context.seen.request_id).await?;
        Ok(true)
    }

    /// Whether the gateway is ready, as it was a moment ago: anybody may ask here, and must not make it ask others each time.
    async fn is_ready(&self) -> Result<(), &'static str> {
        let mut known = self.known_readiness.lock().await;
        if let Some((at, readiness)) = &*known
            && at.elapsed() < READINESS_HOLDS
        {
            return *readiness;
        }
        let readiness = self.readiness.evaluate().await;
        *known = Some((Instant::now(), readiness));
        readiness
    }

    /// Answers the certificate authority that asks whether a name is ours. What nobody was asked for may be an upstream's.
    pub(super) async fn serve_challenge(&self, session: &mut Session, context: &mut Context) -> Result<bool> {
        let Some(acme) = &self.gateway.acme else {
            return Ok(false);
        };
        let token = session.req_header().uri.path().strip_prefix(HTTP_PREFIX);
        let Some(token) = token.map(str::to_owned) else {
            return Ok(false);
        };
        let Some(proof) = acme.challenges().answer(&token).await else {
            return Ok(false);
        };
        context.verdict = Verdict::Served;
        session.set_close_on_response_before_downstream_finish(false);
        answer::proof(session, proof, &context.seen.request_id).await?;
        Ok(true)
    }

    /// Answers a request that takes a redirect.
    pub(super) async fn redirect(
        &self,
        session: &mut Session,
        location: Result<Location, Denial>,
        context: &Context,
    ) -> Result<Verdict> {
        let location = match location {
            Ok(location) => location,
            Err(denial) => return Ok(Verdict::Denied(denial)),
        };
        session.set_close_on_response_before_downstream_finish(false);
        let Location { status, address } = location;
        answer::redirect(session, status, &address, &context.seen.request_id).await?;
        self.gateway.metrics.redirected.inc();
        Ok(Verdict::Served)
    }
}

/// Sends a request that came in clear to the same address in TLS, when that is how the gateway is to be used.
pub(super) async fn send_to_tls(
    gateway: &Gateway,
    session: &mut Session,
    context: &mut Context,
) -> Result<bool> {
    let request = inbound(session)?;
    if !request.belongs_to_tls() {
        return Ok(false);
    }
    let Some(location) = request.in_tls(&gateway.config.public_urls) else {
        context.verdict = Verdict::Denied(Denial::BadRequest);
        answer::refuse(session, &Denial::BadRequest, &context.seen.request_id).await?;
        return Ok(true);
    };
    context.verdict = Verdict::Served;
    answer::redirect(session, 308, &location, &context.seen.request_id).await?;
    Ok(true)
}
