//! Stage 7b: may an open response stay open? Cut by signal when an anchor is revoked or the mandate expires.
//!
//! The signal is watched by the client connection itself (`crate::connection`); here is what arms it, what looks between
//! chunks when there is no time to wait for a signal, and how a cut response ends.

use std::sync::Arc;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, TRAILER, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Version};
use pingora_error::{ErrorType, Result};
use pingora_http::ResponseHeader;
use tokio::time::{Duration, Instant};

use super::revocation::Standing;
use crate::Gateway;
use crate::config::Timeouts;
use crate::connection::{Authority, Leash, Trip};

/// Name of the trailer that tells a client why a chunked response ended early.
const TRAILER_NAME: &str = "X-Caracal-Revoked";
/// The same name as a field.
const TRAILER_FIELD: HeaderName = HeaderName::from_static("x-caracal-revoked");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// The gRPC status of a call whose caller is not (any more) authorised.
const UNAUTHENTICATED: &str = "16";
/// The end of a chunked response whose authority was revoked (RFC 9112 section 7.1.2).
const REVOKED: &[u8] = b"0\r\nX-Caracal-Revoked: true\r\n\r\n";
/// The end of a chunked response whose mandate expired.
const EXPIRED: &[u8] = b"0\r\nX-Caracal-Revoked: expired\r\n\r\n";

/// Beyond the read timeout of the client's connection, which is to speak first.
const READ_SLACK: Duration = Duration::from_secs(5);

/// The request goes upstream; the client connection waits for the answer's head. What the client still sends, and the
/// waiting itself, last only as long as the authority does; a public request has none.
pub(crate) fn await_head(
    gateway: &Gateway,
    timeouts: &Timeouts,
    leash: &Leash,
    standing: Option<&Standing>,
    is_whole: bool,
) {
    let authority = standing.map(|standing| authority(gateway, standing));
    leash.forwarding(authority, head_due_within(timeouts, is_whole));
}

/// A piece of the request goes upstream: the answer's head is due only after the last one. Returns why the piece must not
/// go, if so: a busy request has no pause in which a signal could be heard. Memory only.
pub(crate) fn sent_piece(
    timeouts: &Timeouts,
    leash: &Leash,
    is_whole: bool,
    is_answered: bool,
) -> Option<Trip> {
    let silence_max = if is_answered {
        timeouts.stream_idle
    } else {
        head_due_within(timeouts, is_whole)
    };
    leash.sends(silence_max, is_answered)
}

/// While the client has not sent everything, it is the client that everybody waits for.
fn head_due_within(timeouts: &Timeouts, is_whole: bool) -> Duration {
    if is_whole {
        timeouts.upstream
    } else {
        timeouts.upstream.max(timeouts.read + READ_SLACK)
    }
}

/// The answer's head is here: from now on the response stays open only as long as its authority lasts, by the clock of
/// this moment, if it needs one. Returns why it must not even begin, if so.
pub(crate) fn begin(
    gateway: &Gateway,
    timeouts: &Timeouts,
    leash: &Leash,
    standing: Option<&Standing>,
) -> Option<Trip> {
    let authority = standing.map(|standing| authority(gateway, standing));
    leash.forwarding(authority, timeouts.stream_idle);
    leash.check()
}

fn authority(gateway: &Gateway, standing: &Standing) -> Authority {
    let caller = standing.caller();
    let left = caller.claims().exp.saturating_sub(gateway.clock.unix_seconds());
    let expires_at = Instant::now() + Duration::from_secs(u64::try_from(left).unwrap_or(0));
    Authority::new(Arc::clone(caller.held()), expires_at)
}

/// Looks between two chunks: a busy response has no pause in which a signal could be heard. Memory only.
pub(crate) fn between_chunks(timeouts: &Timeouts, leash: &Leash) -> Option<Trip> {
    leash.progress(timeouts.stream_idle);
    leash.check()
}

/// Announces the trailer where there can be one, and speaks to an HTTP/1.0 client without chunks. Whether the answer may end
/// with a trailer.
///
/// # Errors
/// None: both header values are constant.
pub(crate) fn frame(response: &mut ResponseHeader, client: Version, method: &Method) -> Result<bool> {
    if response.version == Version::HTTP_2 && client != Version::HTTP_2 && has_open_end(response, method) {
        // What Pingora does later, when it is too late to announce a trailer.
        response.insert_header(TRANSFER_ENCODING, "chunked")?;
    }
    if response.status.is_informational() || !is_open_ended(response, client) {
        return Ok(false);
    }
    if client == Version::HTTP_10 {
        response.remove_header(&TRANSFER_ENCODING);
        return Ok(false);
    }
    response.insert_header(TRAILER, TRAILER_NAME)?;
    Ok(true)
}

/// Whether an answer of an HTTP/2 upstream has a body whose length is not known.
fn has_open_end(response: &ResponseHeader, method: &Method) -> bool {
    *method != Method::HEAD
        && !response.status.is_informational()
        && !matches!(response.status.as_u16(), 204 | 304)
        && !response.headers.contains_key(CONTENT_LENGTH)
}

/// Whether the answer ends where its framing says so, rather than after a length: then trailers may follow.
fn is_open_ended(response: &ResponseHeader, client: Version) -> bool {
    if client == Version::HTTP_2 {
        let has_no_body = matches!(response.status.as_u16(), 204 | 205 | 304);
        !has_no_body && !response.headers.contains_key(CONTENT_LENGTH)
    } else {
        response.headers.contains_key(TRANSFER_ENCODING)
    }
}

/// How a response that was cut for `trip` ends, if it can end with a reason: nothing was left half written, and its
/// end is not told by a length. Else it is left incomplete, which an HTTP client notices (RFC 9112 section 8, RFC 9113
/// section 8.1).
pub(crate) fn farewell(
    trip: &Trip,
    written: &ResponseHeader,
    client: Version,
    error: &ErrorType,
) -> Option<Farewell> {
    let is_mid_piece = matches!(error, ErrorType::WriteError | ErrorType::WriteTimedout);
    if is_mid_piece || !is_open_ended(written, client) {
        return None;
    }
    if client != Version::HTTP_2 {
        return last_chunk(trip).map(Farewell::Chunk);
    }
    let value = match trip {
        Trip::Revoked(_) => "true",
        Trip::Expired => "expired",
        Trip::Idle | Trip::SlowHead | Trip::UpstreamSilent | Trip::Stopping => return None,
    };
    let mut trailers = HeaderMap::with_capacity(3);
    trailers.insert(TRAILER_FIELD, HeaderValue::from_static(value));
    if is_grpc(written) {
        trailers.insert(GRPC_STATUS, HeaderValue::from_static(UNAUTHENTICATED));
        trailers.insert(
            GRPC_MESSAGE,
            HeaderValue::from_static("the authority of the call ended"),
        );
    }
    Some(Farewell::Trailers(trailers))
}

/// The end of a chunked response that was cut for `trip`, if it can be told.
pub(crate) fn last_chunk(trip: &Trip) -> Option<&'static [u8]> {
    match trip {
        Trip::Revoked(_) => Some(REVOKED),
        Trip::Expired => Some(EXPIRED),
        Trip::Idle | Trip::SlowHead | Trip::UpstreamSilent | Trip::Stopping => None,
    }
}

/// The last words of a response.
#[derive(Debug)]
pub(crate) enum Farewell {
    /// In place of the terminating chunk (HTTP/1.1).
    Chunk(&'static [u8]),
    /// A trailer section (HTTP/2).
    Trailers(HeaderMap),
}

/// Whether a gRPC client reads it, which learns from trailers how its call ended (gRPC over HTTP/2, "Responses").
fn is_grpc(response: &ResponseHeader) -> bool {
    let kind = response.headers.get(CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}
