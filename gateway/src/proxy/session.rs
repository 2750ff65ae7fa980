//! What does a session of Pingora's tell about the request on it, and what of that is noted before anything is decided?

use caracal_chassis::server::RequestId;
use pingora_error::{Error, ErrorType, Result};
use pingora_proxy::Session;
use tokio::time::Instant;

use crate::Gateway;
use crate::connection::{ClientConnection, Downstream, Leash};
use crate::context::{Context, Inbound};
use crate::header::{REQUEST_ID, client_address, traceparent};

/// Notes what is seen of a request before anything is decided.
pub(super) fn observe(gateway: &Gateway, session: &Session, context: &mut Context) -> Result<()> {
    let request = inbound(session)?;
    let given = request
        .headers()
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok());
    let seen = &mut context.seen;
    if let Some(request_id) = given.and_then(RequestId::parse) {
        seen.request_id = request_id;
    }
    seen.started = Instant::now();
    seen.method = request.head().method.as_str().into();
    seen.source = client_address(&request, &gateway.config.trust);
    let (trace, traceparent) = traceparent(request.headers(), seen.chance.as_ref());
    seen.trace_id = Some(trace.trace_id().into());
    seen.traceparent = Some(traceparent);
    Ok(())
}

/// What carries the exchange. Always ours: the listener puts nothing else under a session.
fn downstream(session: &Session) -> Result<&Downstream> {
    let downstream = if let Some(session) = session.as_http1() {
        let connection = session
            .stream()
            .as_ref()
            .as_any()
            .downcast_ref::<ClientConnection>();
        connection.map(ClientConnection::downstream)
    } else {
        session.req_header().extensions.get::<Downstream>()
    };
    downstream.ok_or_else(|| Error::explain(ErrorType::InternalError, "a foreign connection"))
}

/// What ends the exchange, or the response on it.
pub(super) fn leash(session: &Session) -> Result<Leash> {
    downstream(session).map(|downstream| downstream.leash.clone())
}

/// The request as it arrived.
pub(super) fn inbound(session: &Session) -> Result<Inbound<'_>> {
    Ok(Inbound::new(session.req_header(), &downstream(session)?.origin))
}

/// Length of the head: as received, or, where it was compressed (HTTP/2), as its fields are counted (RFC 9113 section 6.5.2).
pub(super) fn head_bytes(session: &Session) -> usize {
    const OVERHEAD: usize = 32;
    if let Some(session) = session.as_http1() {
        return session.get_headers_raw_bytes().len();
    }
    let head = session.req_header();
    let fields = head.headers.iter();
    let fields = fields.map(|(name, value)| name.as_str().len() + value.len() + OVERHEAD);
    fields.sum::<usize>() + head.raw_path().len()
}
