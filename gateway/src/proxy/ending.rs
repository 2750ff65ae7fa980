//! How does a request end? What is written down of it, and, where Pingora could not be made to end it, what its client is told.

use std::io;

use bytes::{BufMut, BytesMut};
use http::Version;
use http::header::{CONNECTION, CONTENT_LENGTH, DATE};
use pingora_core::protocols::http::date::get_cached_date;
use pingora_core::protocols::http::v2::server::HttpSession;
use pingora_error::{ErrorType, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufWriter};
use tokio::time::timeout;

use super::{DRAIN_MAX, answer};
use crate::Gateway;
use crate::connection::{Client, Left, Socket, Trip};
use crate::context::{Answer, Context, Verdict};
use crate::denial::Denial;
use crate::metrics::Stage;
use crate::stage::forward;
use crate::stage::stream::{self, Farewell};

/// Counts and records a request that has ended; `stopped` is what ended it early after it was let through.
pub(super) async fn conclude(gateway: &Gateway, context: &Context, stopped: Option<&Denial>) {
    if let Some(answered) = context.seen.answered {
        gateway.metrics.stages.note(Stage::Stream, answered);
    }
    match &context.verdict {
        Verdict::Admitted(admission) => {
            gateway.metrics.allowed.inc();
            if let Some(denial) = stopped {
                count_stop(gateway, denial, context.seen.upstream_status.is_some());
            }
            gateway.evidence.outcome(&context.seen, admission, stopped).await;
        }
        Verdict::Public(_) => gateway.metrics.public.inc(),
        Verdict::Denied(denial) => note_denial(gateway, denial, context).await,
        Verdict::Pending => {
            if let Some(denial) = stopped {
                note_denial(gateway, denial, context).await;
            }
        }
        Verdict::Served => {}
    }
}

async fn note_denial(gateway: &Gateway, denial: &Denial, context: &Context) {
    gateway.metrics.count_denial(denial);
    if !gateway.evidence.denial(&context.seen, denial).await {
        // One source's flood fills neither the ledger nor the log.
        return;
    }
    let face = denial.face();
    tracing::info!(
        request.id = %context.seen.request_id, source = %context.seen.source, status = face.status,
        reason = face.label, detail = denial.detail(), "denied"
    );
}

fn count_stop(gateway: &Gateway, denial: &Denial, had_begun: bool) {
    if had_begun {
        let cut = gateway
            .metrics
            .streams_cut
            .with_label_values(&[denial.face().label]);
        cut.inc();
    } else {
        gateway.metrics.count_denial(denial);
    }
}

/// Ends a request whose authority ended while Pingora waited for an upstream that takes nothing. The upstream is let go already;
/// here the client is told, as far as its answer allows, and the end is recorded.
pub(crate) async fn given_up(gateway: &Gateway, left: Left, trip: Trip) {
    let Left {
        client: Some(client),
        request: Some(mut context),
    } = left
    else {
        return;
    };
    let denial = context.stopped.take().or_else(|| forward::denial_of_trip(&trip));
    let denial = denial.unwrap_or(Denial::Stopping);
    tracing::debug!(
        denial = denial.face().label,
        "a request whose upstream takes nothing was given up"
    );
    if context.seen.upstream_status.is_none()
        && let Some(reachable) = context.verdict.reachable()
    {
        reachable.untried(gateway, context.seen.attempts);
    }
    let told = timeout(DRAIN_MAX, tell(client, &context, &denial, &trip));
    // The client may be gone, or take nothing; then there is nobody to tell.
    let (_told, ()) = tokio::join!(told, conclude(gateway, &context, Some(&denial)));
}

async fn tell(client: Client, context: &Context, denial: &Denial, trip: &Trip) -> Result<()> {
    match client {
        Client::Connection(connection) => {
            let words = match context.answer {
                Answer::NotBegun => refusal(denial, context)?,
                Answer::OpenEnded => stream::last_chunk(trip).unwrap_or_default().into(),
                Answer::Framed => BytesMut::new(),
            };
            if let Err(error) = close(connection, &words).await {
                tracing::debug!(%error, "the client closed first");
            }
            Ok(())
        }
        Client::Stream(stream) => finish(*stream, context, denial, trip).await,
    }
}

/// A refusal as it stands on an HTTP/1.1 connection, which ends with it (RFC 9112 section 9.6).
fn refusal(denial: &Denial, context: &Context) -> Result<BytesMut> {
    let (mut head, body) = answer::refusal(denial, &context.seen.request_id)?;
    head.insert_header(CONTENT_LENGTH, body.len())?;
    head.insert_header(DATE, get_cached_date())?;
    head.insert_header(CONNECTION, "close")?;
    let reason = head.get_reason_phrase().unwrap_or_default();
    let line = format!("HTTP/1.1 {} {reason}\r\n", head.status.as_u16());
    let mut words = BytesMut::from(line.as_str());
    head.header_to_h1_wire(&mut words);
    words.put_slice(b"\r\n");
    words.put_slice(body.as_bytes());
    Ok(words)
}

/// Writes the last words and closes. What the client still sends is read for a while, so that it gets them instead of a broken
/// connection (RFC 9112 section 9.6).
async fn close(mut connection: BufWriter<Socket>, words: &[u8]) -> io::Result<()> {
    connection.write_all(words).await?;
    connection.shutdown().await?;
    let mut unwanted = vec![0; 16 * 1024];
    while connection.read(&mut unwanted).await? > 0 {}
    Ok(())
}

/// Ends one HTTP/2 stream: with the whole answer that there is, a reason, or a reset. A client that still sends is told by the end
/// of the stream to stop (RFC 9113 section 8.1).
async fn finish(mut stream: HttpSession, context: &Context, denial: &Denial, trip: &Trip) -> Result<()> {
    let Some(begun) = stream.response_written() else {
        let (head, body) = answer::refusal(denial, &context.seen.request_id)?;
        stream.write_response_header(Box::new(head), false)?;
        stream.write_body(body.into(), true).await?;
        return stream.drain_request_body().await;
    };
    match stream::farewell(trip, begun, Version::HTTP_2, &ErrorType::ReadError) {
        Some(Farewell::Trailers(trailers)) => stream.write_trailers(trailers),
        Some(Farewell::Chunk(_)) | None => {
            stream.shutdown_with_reason(h2::Reason::CANCEL);
            Ok(())
        }
    }
}
