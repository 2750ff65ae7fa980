//! `POST /v1/run/manifest` and `POST /v1/run/credential`: from bytes to a claim, and from the outcome to an answer.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use caracal_chassis::Secret;
use caracal_chassis::server::{Peer, RequestId};
use caracal_wire::form::Form;
use caracal_wire::header::LAUNCH_ID;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;
use uuid::Uuid;

use super::answer::{NO_STORE, error, held};
use super::token::{check_head, read_form_body, told, wait};
use crate::exchange::refusal::Refusal;
use crate::exchange::request::parse_form;
use crate::state::Sts;
use crate::workload::refusal::RunRefusal;
use crate::workload::{self, Claim, Wanted};

/// What a workload is launched with.
pub(super) async fn manifest(
    State(sts): State<Arc<Sts>>,
    peer: Peer,
    request_id: RequestId,
    request: Request,
) -> Response {
    let outcome = async {
        let (headers, form) = read(request).await?;
        let claim = claim(&sts, &headers, &form, peer, &request_id)?;
        workload::manifest(&sts, &claim).await
    };
    answer(&sts, &request_id, outcome.await)
}

/// The credential of one binding.
pub(super) async fn credential(
    State(sts): State<Arc<Sts>>,
    peer: Peer,
    request_id: RequestId,
    request: Request,
) -> Response {
    let outcome = async {
        let (headers, form) = read(request).await?;
        let claim = claim(&sts, &headers, &form, peer, &request_id)?;
        let wanted = Wanted {
            env: required(&form, "env")?.to_owned(),
            approval_id: form
                .get("approval_id")
                .filter(|id| !id.is_empty())
                .map(str::to_owned),
        };
        let secret = workload::credential(&sts, &claim, &wanted).await?;
        Ok(Injected {
            env: wanted.env,
            credential: secret.expose().clone(),
        })
    };
    answer(&sts, &request_id, outcome.await)
}

/// Any method but POST.
pub(super) async fn wrong_method(State(sts): State<Arc<Sts>>) -> Response {
    sts.metrics.run_refused(&RunRefusal::Common(Refusal::Method));
    let mut response = refused(&RunRefusal::Common(Refusal::Method));
    response
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static("POST"));
    response
}

#[derive(Serialize)]
struct Injected {
    env: String,
    credential: String,
}

async fn read(request: Request) -> Result<(HeaderMap, Form), RunRefusal> {
    let (parts, body) = request.into_parts();
    check_head(&parts)?;
    let body = read_form_body(body).await?;
    let form = parse_form(&body, &[])?;
    Ok((parts.headers, form))
}

fn claim(
    sts: &Sts,
    headers: &HeaderMap,
    form: &Form,
    peer: Peer,
    request_id: &RequestId,
) -> Result<Claim, RunRefusal> {
    let launch_id = headers.get(LAUNCH_ID).and_then(|value| value.to_str().ok());
    Ok(Claim {
        unverified_id: required(form, "workload_id")?.to_owned(),
        secret: Secret::from(required(form, "secret")?),
        launch_id: launch_id
            .and_then(|text| Uuid::try_parse(text).ok())
            .map(|id| id.to_string()),
        request_id: request_id.as_str().to_owned(),
        source: peer.ip().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        wait: wait(sts, told(headers)),
    })
}

fn required<'f>(form: &'f Form, name: &str) -> Result<&'f str, RunRefusal> {
    form.get(name)
        .filter(|text| !text.is_empty())
        .ok_or(RunRefusal::FieldMissing)
}

fn answer(sts: &Sts, request_id: &RequestId, outcome: Result<impl Serialize, RunRefusal>) -> Response {
    let body = match outcome {
        Ok(body) => serde_json::to_vec(&body),
        Err(refusal) => {
            sts.metrics.run_refused(&refusal);
            tracing::info!(
                request.id = request_id.as_str(),
                refusal = refusal.label(),
                "refused a workload"
            );
            return refused(&refusal);
        }
    };
    let content_type = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    match body {
        Ok(body) => (StatusCode::OK, content_type, NO_STORE, body).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn refused(refusal: &RunRefusal) -> Response {
    if let RunRefusal::Common(Refusal::Hold(hold)) = refusal {
        return held(hold, None);
    }
    let answer = refusal.answer();
    let mut response = error(answer.status, answer.code, &answer.description, None);
    if let Some(seconds) = refusal.retry_after_seconds() {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
