//! What does every request pass before and after its handler?

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use http::{StatusCode, header};
use serde_json::json;

use super::request_id::{REQUEST_ID_HEADER, RequestId};

/// One layer instead of one per concern, because each layer costs an allocation per request.
pub(super) async fn guard(request_timeout: Duration, mut request: Request, next: Next) -> Response {
    let id = RequestId::adopt(request.headers());
    request.extensions_mut().insert(id.clone());
    guarded(request_timeout, id, next.run(request)).await
}

/// The answer of a handler to the request `id`, or what is answered in its stead.
pub(super) async fn guarded(
    request_timeout: Duration,
    id: RequestId,
    handled: impl Future<Output = Response>,
) -> Response {
    let handled = AssertUnwindSafe(handled).catch_unwind();
    let response = match tokio::time::timeout(request_timeout, handled).await {
        Ok(Ok(response)) => json_payload_too_large(response, &id),
        Ok(Err(_panic)) => {
            // The panic hook has logged the message and the place.
            tracing::error!(request.id = %id, "a handler panicked");
            error(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal_error",
                "The service failed to process the request",
                &id,
            )
        }
        Err(_elapsed) => {
            tracing::warn!(request.id = %id, "a request took too long");
            error(
                StatusCode::SERVICE_UNAVAILABLE,
                "request_timeout",
                "The request took too long",
                &id,
            )
        }
    };
    with_request_id(response, &id)
}

/// An extractor that meets the body limit answers plain text; every other error of the services is JSON.
fn json_payload_too_large(response: Response, id: &RequestId) -> Response {
    let content_type = response
        .headers()
        .get(header::CONTENT_TYPE)
        .map(http::HeaderValue::as_bytes);
    let is_json = content_type.is_some_and(|value| value.starts_with(b"application/"));
    if response.status() != StatusCode::PAYLOAD_TOO_LARGE || is_json {
        return response;
    }
    error(
        StatusCode::PAYLOAD_TOO_LARGE,
        "payload_too_large",
        "request body too large",
        id,
    )
}

fn error(status: StatusCode, code: &str, description: &str, id: &RequestId) -> Response {
    let body = json!({"error": code, "error_description": description, "requestId": id.as_str()});
    (status, axum::Json(body)).into_response()
}

fn with_request_id(mut response: Response, id: &RequestId) -> Response {
    if let (false, Some(value)) = (
        response.headers().contains_key(REQUEST_ID_HEADER),
        id.header_value(),
    ) {
        response.headers_mut().insert(REQUEST_ID_HEADER, value);
    }
    response
}
