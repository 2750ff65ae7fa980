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
/// Clocks of producers may be ahead of ours.
const AHEAD: Duration = Duration::minutes(1);

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
    if let Some(refusal) = operator.refusal(&headers) {
        return refusal;
    }
    let Some(zone) = query.zone_id.as_deref().filter(|zone| !zone.is_empty()) else {
        return bad_request("zone_id is required");
    };
    let now = OffsetDateTime::from(operator.clock.now());
    // A request is looked for in all of the ledger, anything else in the last day.
    let since_default = query.request_id.is_none().then(|| now - WINDOW_DEFAULT);
    let (Ok(until), Ok(since)) = (time(query.until.as_deref()), time(query.since.as_deref())) else {
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
        since: since.or(since_default),
        until: until.unwrap_or(now + AHEAD),
        decision: query.decision.as_deref(),
        request_id: query.request_id.as_deref(),
        after_seq,
        limit: query.limit.unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX),
    };
    match operator.find(&wanted).await {
        Ok(links) => {
            let is_full = i64::try_from(links.len()).is_ok_and(|found| found == wanted.limit);
            let next = links.last().filter(|_| is_full).and_then(|link| link.chain_seq);
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
    if let Some(refusal) = operator.refusal(&headers) {
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
    /// Why the caller is not let in; none when it holds the token.
    fn refusal(&self, headers: &HeaderMap) -> Option<Response> {
        let Some(expected) = &self.admin_token else {
            return Some(StatusCode::NOT_FOUND.into_response());
        };
        let presented = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        if presented.is_some_and(|token| expected.matches(token)) {
            return None;
        }
        let challenge = [(header::WWW_AUTHENTICATE, "Bearer realm=\"caracal-audit\"")];
        Some((StatusCode::UNAUTHORIZED, challenge, "unauthorized").into_response())
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

fn time(text: Option<&str>) -> Result<Option<OffsetDateTime>, time::error::Parse> {
    text.filter(|text| !text.is_empty())
        .map(|text| OffsetDateTime::parse(text, &Rfc3339))
        .transpose()
}

fn bad_request(problem: &'static str) -> Response {
    (StatusCode::BAD_REQUEST, problem).into_response()
}

fn unavailable(error: &caracal_storage::StorageError) -> Response {
    tracing::error!(%error, "the ledger cannot be read");
    (StatusCode::SERVICE_UNAVAILABLE, "the ledger cannot be read now").into_response()
}
