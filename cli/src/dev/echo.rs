//! What stands behind the demo resource? An upstream that answers with what it received.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, Method, Uri};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::routing::{any, get};
use futures_util::Stream;

/// The demo upstream: `GET /events` ticks once a second, everything else is echoed as JSON.
pub(crate) fn router() -> Router {
    Router::new().route("/events", get(events)).fallback(any(echo))
}

async fn echo(method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> axum::Json<serde_json::Value> {
    let headers: BTreeMap<&str, String> = headers
        .iter()
        .map(|(name, value)| {
            (
                name.as_str(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        })
        .collect();
    axum::Json(serde_json::json!({
        "method": method.as_str(),
        "path": uri.path(),
        "query": uri.query(),
        "headers": headers,
        "body": String::from_utf8_lossy(&body),
    }))
}

async fn events() -> Sse<impl Stream<Item = Result<Event, std::convert::Infallible>>> {
    let ticks = futures_util::stream::unfold(0_u64, |count| async move {
        if count > 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Some((
            Ok(Event::default().event("tick").data(count.to_string())),
            count + 1,
        ))
    });
    Sse::new(ticks).keep_alive(KeepAlive::default())
}
