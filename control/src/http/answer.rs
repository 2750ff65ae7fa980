//! How does an outcome become a response?

use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use caracal_storage::page::{Page, Position};
use http::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};

use crate::cursor;
use crate::refusal::Refusal;

/// A refusal on its way out: the admission writes its body, because only there the request is known.
#[derive(Debug, Clone)]
pub(super) struct Refused(pub(super) Arc<Refusal>);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.code().status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = status.into_response();
        response.extensions_mut().insert(Refused(Arc::new(self)));
        response
    }
}

/// 200 with a body.
pub(super) fn ok(body: impl Serialize) -> Response {
    Json(body).into_response()
}

/// 201 with a body.
pub(super) fn created(body: impl Serialize) -> Response {
    (StatusCode::CREATED, Json(body)).into_response()
}

/// 202 with a body.
pub(super) fn accepted(body: impl Serialize) -> Response {
    (StatusCode::ACCEPTED, Json(body)).into_response()
}

/// 204.
pub(super) fn no_content() -> Response {
    StatusCode::NO_CONTENT.into_response()
}

/// A page of a list. A full page says where the next one begins; the last page that is exactly full is followed by an
/// empty one.
pub(super) fn list<'r, R, V: Serialize>(
    rows: &'r [R],
    page: &Page,
    position: impl Fn(&'r R) -> Position,
    view: impl Fn(&'r R) -> V,
) -> Response {
    let is_full = i64::try_from(rows.len()).is_ok_and(|count| count >= page.limit);
    let next = rows
        .last()
        .filter(|_| is_full)
        .map(|row| cursor::encode(&position(row)));
    let items: Vec<V> = rows.iter().map(view).collect();
    let items = serde_json::to_value(items).unwrap_or(Value::Null);
    Json(json!({ "items": items, "next_cursor": next })).into_response()
}
