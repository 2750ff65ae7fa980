//! What control and operators ask about policies: what would these documents decide, and what does this process decide by?

use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use caracal_chassis::server::{BodyError, read_body};
use caracal_model::ZoneId;
use caracal_policy::{Bundle, Explanation, Finding, Findings, PolicyError, Regime, with_schema_version};
use caracal_wire::error::ErrorCode;
use caracal_wire::policy::{PolicyStatus, SimulationRequest};
use http::StatusCode;
use http::request::Parts;
use serde_json::{Value, json};

use super::answer::{NO_STORE, error};
use super::gateway;
use crate::limit::evaluation::NotEvaluated;
use crate::state::Sts;

const BODY_BYTES_MAX: usize = 65_536;

/// Simulations share one turn among the evaluations, under a zone that cannot exist.
const SIMULATIONS: &str = "internal:simulations";

/// `POST /internal/policy/simulate`: compiles documents and, with an input, decides on it and says why. Touches nothing that
/// is in force.
pub(super) async fn simulate(State(sts): State<Arc<Sts>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = match read_body(body, BODY_BYTES_MAX).await {
        Ok(body) => body,
        Err(BodyError::TooLarge(_)) => {
            let (status, code) = (StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::PayloadTooLarge);
            return error(status, code, "request body too large", None);
        }
        Err(BodyError::Broken(_)) => return malformed("malformed request body"),
    };
    if let Some(refused) = refuse_stranger(&sts, &parts, &body) {
        return refused;
    }
    let Ok(asked) = serde_json::from_slice::<SimulationRequest>(&body) else {
        return malformed("malformed request body");
    };
    if asked.policies.is_empty() {
        return malformed("at least one policy is required");
    }
    let Ok(zone) = ZoneId::try_from(SIMULATIONS) else {
        return malformed("malformed request body");
    };
    let echo = json!({
        "policy_set_id": asked.policy_set_id,
        "version_id": asked.version_id,
        "manifest_sha256": asked.manifest_sha256,
    });
    match sts.evaluations.run(&zone, move || tried(&asked)).await {
        Ok(Ok(explanation)) => simulated(echo, explanation.as_ref()),
        Ok(Err(Fault::Findings(findings))) => unprocessable(&findings.to_string(), findings.as_slice()),
        Ok(Err(Fault::Undecided(reason))) => unprocessable(&chain(&reason), &[]),
        Err(NotEvaluated::Overrun) => unprocessable("the documents take too long", &[]),
        Err(NotEvaluated::Busy | NotEvaluated::Suspended | NotEvaluated::Lost) => error(
            StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::StsUnavailable,
            "too many evaluations",
            None,
        ),
    }
}

/// `GET /internal/policy/status/{zone}`: what this process decides by. Loads the zone if it is not in memory.
pub(super) async fn status(
    State(sts): State<Arc<Sts>>,
    Path(zone_id): Path<String>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let body = read_body(body, 1_024).await.unwrap_or_default();
    if let Some(refused) = refuse_stranger(&sts, &parts, &body) {
        return refused;
    }
    let nothing = PolicyStatus {
        zone_id: zone_id.clone(),
        loaded: false,
        policy_set_version_id: None,
        manifest_sha256: None,
        loaded_at: None,
        age_seconds: None,
        zone_version: None,
        replica: Some(sts.replica.clone()),
    };
    let model = match ZoneId::try_from(zone_id) {
        Ok(zone) => sts.zones.model(&zone).await.ok(),
        Err(_) => None,
    };
    let status = match model {
        None => nothing,
        Some(zone) => {
            let identity = zone.policy.identity();
            let loaded_at = zone.policy.loaded_at();
            PolicyStatus {
                loaded: zone.policy.bundle().is_ok(),
                policy_set_version_id: identity.version_id.as_ref().map(ToString::to_string),
                manifest_sha256: Some(identity.manifest_sha256.clone()),
                loaded_at: rfc3339(loaded_at),
                age_seconds: Some(zone.policy.age(sts.clock.unix_seconds()).as_secs()),
                zone_version: Some(zone.version),
                ..nothing
            }
        }
    };
    (NO_STORE, axum::Json(status)).into_response()
}

/// Why a simulation has no result.
enum Fault {
    Findings(Findings),
    Undecided(PolicyError),
}

/// `None` when there was no input to decide on.
fn tried(asked: &SimulationRequest) -> Result<Option<Explanation>, Fault> {
    let modules: Vec<(&str, &str)> = asked
        .policies
        .iter()
        .map(|document| (document.id.as_str(), document.content.as_str()))
        .collect();
    let bundle = Bundle::check(&modules).map_err(Fault::Findings)?;
    let Some(input) = &asked.input else {
        return Ok(None);
    };
    let explanation = caracal_policy::explain(&bundle, &with_schema_version(input.get()), Regime::Restrict);
    explanation.map(Some).map_err(Fault::Undecided)
}

fn simulated(mut answer: Value, explanation: Option<&Explanation>) -> Response {
    let result = explanation.map(|explanation| &explanation.decision);
    if let Some(members) = answer.as_object_mut() {
        members.insert("result".to_owned(), json!(result));
        members.insert("explanation".to_owned(), json!(explanation));
    }
    (NO_STORE, axum::Json(answer)).into_response()
}

fn unprocessable(description: &str, findings: &[Finding]) -> Response {
    let answer = json!({
        "error": ErrorCode::PolicyEvalFailed.as_str(),
        "error_description": description,
        "diagnostics": findings,
    });
    (StatusCode::UNPROCESSABLE_ENTITY, NO_STORE, axum::Json(answer)).into_response()
}

fn malformed(description: &str) -> Response {
    error(
        StatusCode::BAD_REQUEST,
        ErrorCode::InvalidToken,
        description,
        None,
    )
}

fn refuse_stranger(sts: &Sts, parts: &Parts, body: &Bytes) -> Option<Response> {
    let path = parts.uri.path();
    let reason = gateway::verify(sts, &parts.headers, parts.method.as_str(), path, body).err()?;
    tracing::warn!(%reason, "refused a question about policies");
    let description = "invalid gateway signature";
    Some(error(
        StatusCode::UNAUTHORIZED,
        ErrorCode::AccessDenied,
        description,
        None,
    ))
}

/// An error and its causes, outermost first. What it quotes, the asker has sent.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text.chars().take(2_000).collect()
}

fn rfc3339(unix_seconds: i64) -> Option<String> {
    let at = time::OffsetDateTime::from_unix_timestamp(unix_seconds).ok()?;
    at.format(&time::format_description::well_known::Rfc3339).ok()
}
