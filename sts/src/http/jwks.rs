//! `GET /.well-known/jwks.json?zone_id=`: the verification keys of one zone (RFC 7517).

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use caracal_model::{UnixSeconds, ZoneId};
use caracal_wire::error::ErrorCode;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::answer::error;
use crate::key::KeySetUnavailable;
use crate::state::Sts;
use crate::zone::ZoneError;

const CACHE_CONTROL: HeaderValue = HeaderValue::from_static("public, max-age=300, must-revalidate");

/// The key set of a zone, from memory: no SQL for a zone in use, and none for one that was just found not to exist.
pub(super) async fn key_set(
    State(sts): State<Arc<Sts>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let Some(zone) = zone_parameter(query.as_deref().unwrap_or_default()) else {
        return error(
            StatusCode::BAD_REQUEST,
            ErrorCode::InvalidToken,
            "zone_id required",
            None,
        );
    };
    let Ok(zone) = ZoneId::try_from(zone) else {
        return not_found();
    };
    let model = match sts.zones.model(&zone).await {
        Ok(model) => model,
        Err(ZoneError::Unknown) => return not_found(),
        Err(ZoneError::Unavailable) => {
            let description = "zone configuration unavailable";
            return error(
                StatusCode::SERVICE_UNAVAILABLE,
                ErrorCode::StsUnavailable,
                description,
                None,
            );
        }
    };
    match model.keys.published(UnixSeconds(sts.clock.unix_seconds())) {
        Ok(published) => {
            let is_known = headers
                .get_all(header::IF_NONE_MATCH)
                .iter()
                .any(|value| names(value, &published.etag));
            let common = [
                (header::CACHE_CONTROL, CACHE_CONTROL),
                (
                    header::X_CONTENT_TYPE_OPTIONS,
                    HeaderValue::from_static("nosniff"),
                ),
                (
                    header::ETAG,
                    HeaderValue::from_str(&published.etag).unwrap_or(HeaderValue::from_static("\"\"")),
                ),
            ];
            if is_known {
                return (StatusCode::NOT_MODIFIED, common).into_response();
            }
            let content_type = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
            (common, content_type, published.body.clone()).into_response()
        }
        Err(KeySetUnavailable::None) => not_found(),
        Err(KeySetUnavailable::Unopened) => error(
            StatusCode::INTERNAL_SERVER_ERROR,
            ErrorCode::InternalError,
            "zone signing keys unavailable",
            None,
        ),
    }
}

fn not_found() -> Response {
    error(
        StatusCode::NOT_FOUND,
        ErrorCode::ResourceNotFound,
        "zone signing key not found",
        None,
    )
}

/// The value of `zone_id`. Ids need no escaping; a colon may come escaped nevertheless.
fn zone_parameter(query: &str) -> Option<String> {
    let form = caracal_wire::form::parse(query.as_bytes(), &[]).ok()?;
    form.get("zone_id")
        .filter(|zone| !zone.is_empty())
        .map(str::to_owned)
}

/// Whether an `If-None-Match` value names `etag` (RFC 9110 section 13.1.2; weak comparison).
fn names(value: &HeaderValue, etag: &str) -> bool {
    let Ok(value) = value.to_str() else { return false };
    value
        .split(',')
        .map(str::trim)
        .any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag)
}
