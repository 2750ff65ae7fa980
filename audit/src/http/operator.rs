//! The operator's routes: `Authorization: Bearer <AUDIT_ADMIN_TOKEN>`; without such a token configured they do not exist.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use caracal_storage::audit_event::{self, Link, Search};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use super::Operator;
use crate::verify;

const LIMIT_DEFAULT: i64 = 100;
const LIMIT_MAX: i64 = 1_000;
const WINDOW_DEFAULT: Duration = Duration::hours(24);

/// `GET /api/audit/search`.
#[derive(Debug, Deserialize)]
pub(super) struct SearchQuery {
    zone_id: Option<String>,
    since: Option<String>,
    until: Option<String>,
    decision: Option<String>,
    request_id: Option<String>,
    limit: Option<i64>,
    cursor: Option<String>,
}

/// One found link, in the shape that the published operator tooling reads.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Found {
    event: Value,
    ingested_at: String,
    #[serde(rename = "ContentSHA256")]
    content_sha256: Option<String>,
    #[serde(rename = "PrevContentSHA256")]
    prev_content_sha256: Option<String>,
    #[serde(rename = "ChainHMAC")]
    chain_hmac: Option<String>,
    chain_seq: Option<i64>,
}

/// Finds links of one zone.
pub(super) async fn search(
    State(operator): State<Arc<Operator>>,
    headers: HeaderMap,
    Query(query): Query<SearchQuery>,
) -> Response {
    if let Err(refusal) = operator.authorize(&headers) {
        return refusal;
    }
    let Some(zone) = query.zone_id.as_deref().filter(|zone| !zone.is_empty()) else {
        return bad_request("zone_id is required");
    };
    let now = OffsetDateTime::from(operator.clock.now());
    let (Ok(until), Ok(since)) = (
        time_or(query.until.as_deref(), now + Duration::minutes(1)),
        time_or(query.since.as_deref(), now - WINDOW_DEFAULT),
    ) else {
        return bad_request("since and until are RFC 3339 times");
    };
    let Ok(after_seq) = query
        .cursor
        .as_deref()
        .filter(|cursor| !cursor.is_empty())
        .map_or(Ok(0), str::parse)
    else {
        return bad_request("cursor is the next_cursor of an earlier answer");
    };
    let wanted = Search {
        zone,
        since,
        until,
        decision: query.decision.as_deref(),
        request_id: query.request_id.as_deref(),
        after_seq,
        limit: query.limit.unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX),
    };
    match operator.find(&wanted).await {
        Ok(links) => {
            let next = if links.len() as i64 == wanted.limit {
                links.last().and_then(|link| link.chain_seq)
            } else {
                None
            };
            let events: Vec<Found> = links.into_iter().map(found).collect();
            Json(
                json!({"events": events, "next_cursor": next.map(|seq| seq.to_string()).unwrap_or_default()}),
            )
            .into_response()
        }
        Err(error) => unavailable(&error),
    }
}

/// `GET /api/audit/verify`.
#[derive(Debug, Deserialize)]
pub(super) struct VerifyQuery {
    zone_id: Option<String>,
}

/// Recomputes the chain of one zone.
pub(super) async fn verify(
    State(operator): State<Arc<Operator>>,
    headers: HeaderMap,
    Query(query): Query<VerifyQuery>,
) -> Response {
    if let Err(refusal) = operator.authorize(&headers) {
        return refusal;
    }
    let Some(zone) = query.zone_id.as_deref().filter(|zone| !zone.is_empty()) else {
        return bad_request("zone_id is required");
    };
    match verify::zone(&operator.database, zone, &operator.keys).await {
        Ok(report) => Json(report).into_response(),
        Err(error) => unavailable(&error),
    }
}

impl Operator {
    fn authorize(&self, headers: &HeaderMap) -> Result<(), Response> {
        let Some(expected) = &self.admin_token else {
            return Err(StatusCode::NOT_FOUND.into_response());
        };
        let presented = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        if presented.is_some_and(|token| expected.matches(token)) {
            return Ok(());
        }
        let challenge = [(header::WWW_AUTHENTICATE, "Bearer realm=\"caracal-audit\"")];
        Err((StatusCode::UNAUTHORIZED, challenge, "unauthorized").into_response())
    }

    async fn find(&self, wanted: &Search<'_>) -> Result<Vec<Link>, caracal_storage::StorageError> {
        audit_event::search(&mut self.database.read().await?, wanted).await
    }
}

fn found(link: Link) -> Found {
    let document = |text: Option<String>| text.and_then(|text| serde_json::from_str::<Value>(&text).ok());
    let event = json!({
        "id": link.id,
        "zone_id": link.zone_id,
        "event_type": link.event_type,
        "request_id": link.request_id,
        "decision": link.decision,
        "policy_set_id": link.policy_set_id,
        "policy_set_version_id": link.policy_set_version_id,
        "manifest_sha": link.manifest_sha,
        "evaluation_status": link.evaluation_status,
        "determining_policies_json": document(link.determining_policies),
        "diagnostics_json": document(link.diagnostics),
        "metadata_json": document(link.metadata),
        "occurred_at": link.occurred_at.format(&Rfc3339).unwrap_or_default(),
    });
    Found {
        event,
        ingested_at: link.ingested_at.format(&Rfc3339).unwrap_or_default(),
        content_sha256: link.content_sha256,
        prev_content_sha256: link.prev_content_sha256,
        chain_hmac: link.chain_hmac,
        chain_seq: link.chain_seq,
    }
}

fn time_or(text: Option<&str>, default: OffsetDateTime) -> Result<OffsetDateTime, time::error::Parse> {
    text.filter(|text| !text.is_empty())
        .map_or(Ok(default), |text| OffsetDateTime::parse(text, &Rfc3339))
}

fn bad_request(problem: &'static str) -> Response {
    (StatusCode::BAD_REQUEST, problem).into_response()
}

fn unavailable(error: &caracal_storage::StorageError) -> Response {
    tracing::error!(%error, "the ledger cannot be read");
    (StatusCode::SERVICE_UNAVAILABLE, "the ledger cannot be read now").into_response()
}
