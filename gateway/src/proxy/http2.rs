//! What must a request look like to an upstream that speaks HTTP/2?

use http::header::{EXPECT, HeaderName, HeaderValue, TE};
use pingora_error::Result;
use pingora_http::RequestHeader;
use pingora_proxy::Session;

/// Fits the upstream's head to HTTP/2. A client that understands trailers is announced as one: gRPC servers insist on it
/// (RFC 9113 section 8.2.2 allows `te: trailers` and no other). A client that asks before it sends its body is told to go on
/// here, because an interim answer of an HTTP/2 upstream does not reach us.
pub(super) async fn adapt(session: &mut Session, head: &mut RequestHeader) -> Result<()> {
    if takes_trailers(session.req_header()) {
        head.insert_header(TE, HeaderValue::from_static("trailers"))?;
    }
    let expected = head.remove_header::<HeaderName>(&EXPECT);
    let asks = expected.is_some_and(|expected| expected.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if asks && session.as_http1().is_some() {
        session.write_continue_response().await?;
    }
    Ok(())
}

fn takes_trailers(request: &RequestHeader) -> bool {
    request
        .headers
        .get_all(TE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
}
