//! Stage 7b: may an open response stay open? Cut by signal when an anchor is revoked or the mandate expires.
//!
//! The signal is watched by the client connection itself (`crate::connection`); here is what arms it, what looks between
//! chunks when there is no time to wait for a signal, and how a cut response ends.

use http::Version;
use http::header::{TRAILER, TRANSFER_ENCODING};
use pingora_error::{ErrorType, Result};
use pingora_http::ResponseHeader;
use tokio::time::{Duration, Instant};

use super::revocation::Standing;
use crate::Gateway;
use crate::connection::{Authority, Leash, Trip};

/// Name of the trailer that tells a client why a chunked response ended early.
const TRAILER_NAME: &str = "X-Caracal-Revoked";
/// The end of a chunked response whose authority was revoked (RFC 9112 section 7.1.2).
const REVOKED: &[u8] = b"0\r\nX-Caracal-Revoked: true\r\n\r\n";
/// The end of a chunked response whose mandate expired.
const EXPIRED: &[u8] = b"0\r\nX-Caracal-Revoked: expired\r\n\r\n";

/// The request goes upstream; the client connection waits for the answer's head.
pub(crate) fn await_head(gateway: &Gateway, leash: &Leash) {
    leash.forwarding(None, gateway.config.timeouts.upstream);
}

/// A piece of the request went upstream: the answer's head is due only after the last one.
pub(crate) fn sent_piece(gateway: &Gateway, leash: &Leash) {
    leash.progress(gateway.config.timeouts.upstream);
}

/// The answer's head is here: from now on the response stays open only as long as its authority lasts. Returns why it
/// must not even begin, if so.
pub(crate) fn begin(gateway: &Gateway, leash: &Leash, standing: &Standing) -> Option<Trip> {
    let caller = standing.caller();
    let left = caller.claims().exp.saturating_sub(gateway.clock.unix_seconds());
    let expires_at = Instant::now() + Duration::from_secs(u64::try_from(left).unwrap_or(0));
    let set = gateway.revocations.set().clone();
    leash.forwarding(
        Some(Authority::new(caller.anchors().clone(), set, expires_at)),
        gateway.config.timeouts.stream_idle,
    );
    leash.check()
}

/// Looks between two chunks: a busy response has no pause in which a signal could be heard. Memory only.
pub(crate) fn between_chunks(gateway: &Gateway, leash: &Leash) -> Option<Trip> {
    leash.progress(gateway.config.timeouts.stream_idle);
    leash.check()
}

/// Announces the trailer where there can be one, and speaks to an HTTP/1.0 client without chunks.
///
/// # Errors
/// None: both header values are constant.
pub(crate) fn frame(response: &mut ResponseHeader, client: Version) -> Result<()> {
    if response.status.is_informational() || !response.headers.contains_key(TRANSFER_ENCODING) {
        return Ok(());
    }
    if client == Version::HTTP_10 {
        response.remove_header(&TRANSFER_ENCODING);
        return Ok(());
    }
    response.insert_header(TRAILER, TRAILER_NAME)
}

/// How a response that was cut for `trip` ends: with a last chunk that says so, if it is chunked and stands at the end
/// of a chunk; else it is left incomplete, which an HTTP client notices (RFC 9112 section 8).
pub(crate) fn farewell(trip: &Trip, written: &ResponseHeader, error: &ErrorType) -> Option<&'static [u8]> {
    let is_mid_chunk = matches!(error, ErrorType::WriteError | ErrorType::WriteTimedout);
    if is_mid_chunk || !written.headers.contains_key(TRANSFER_ENCODING) {
        return None;
    }
    match trip {
        Trip::Revoked(_) => Some(REVOKED),
        Trip::Expired => Some(EXPIRED),
        Trip::Idle | Trip::SlowHead | Trip::UpstreamSilent => None,
    }
}
