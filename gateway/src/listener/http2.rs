//! How are the streams of an HTTP/2 connection served? Each by a task of its own, all within the limits of the connection.

use std::sync::Arc;
use std::time::Duration;

use pingora_core::apps::HttpServerApp;
use pingora_core::protocols::Digest;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::{H2Accept, H2Options, HttpSession, handshake};
use pingora_error::Result;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Server;
use crate::config::Config;
use crate::connection::{ClientConnection, ClientStream, Downstream, Leash, Origin};

/// What a stream may send before its bytes are taken (RFC 9113 section 6.9).
const STREAM_WINDOW_BYTES: u32 = 128 * 1024;
/// What all streams of a connection may.
const CONNECTION_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// What of an answer waits here for a client that does not take it, for each stream.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// Requests that are no requests before the connection is closed.
const REJECTED_MAX: usize = 32;
/// Requests beyond the limit that are refused before the connection is closed.
const REFUSED_MAX: usize = 1_000;
/// How long a connection may take to end after its last stream.
const CLOSE_MAX: Duration = Duration::from_secs(1);

type Connection = h2::server::Connection<pingora_core::protocols::Stream, bytes::Bytes>;

/// The limits of HTTP/2 connections.
pub(super) fn options(config: &Config) -> H2Options {
    let mut options = H2Options::default();
    options
        .max_concurrent_streams(config.doors.http2_streams_max)
        // Somewhat longer heads are refused like those of HTTP/1.1, with a body and a record; the library only says 431.
        .max_header_list_size(u32::try_from(config.head_bytes_max.saturating_mul(2)).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    options
}

/// Serves a connection until it ends, or until the gateway stops and its streams have ended.
pub(super) async fn serve(server: &Server, connection: ClientConnection) {
    let origin = connection.downstream().origin.clone();
    let connection = connection.carrying_streams(server.write_timeout);
    let begun = handshake(Box::new(connection), Some(server.http2.clone()));
    let mut connection = match tokio::time::timeout(server.patience.head, begun).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return tracing::debug!(%error, "an HTTP/2 handshake failed"),
        Err(_elapsed) => return tracing::debug!("an HTTP/2 handshake took too long"),
    };
    let mut streams = JoinSet::new();
    accept_streams(server, &mut connection, &origin, &mut streams).await;
    // What is answered must still go out, and what was admitted must be recorded to its end.
    let ended = async { while streams.join_next().await.is_some() {} };
    tokio::select! {
        () = ended => {}
        () = closed(&mut connection) => {}
    }
    while streams.join_next().await.is_some() {}
    let _closed = tokio::time::timeout(CLOSE_MAX, closed(&mut connection)).await;
}

/// Takes streams until the connection takes no more.
async fn accept_streams(
    server: &Server,
    connection: &mut Connection,
    origin: &Origin,
    streams: &mut JoinSet<()>,
) {
    let digest = Arc::new(Digest::default());
    let mut stopping = server.stopping.subscribe();
    let mut is_ending = false;
    let (mut rejected, mut refused) = (0, 0);
    let mut idle_until = Instant::now() + server.patience.idle;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stopping.wait_for(|stops| *stops), if !is_ending => {
                connection.graceful_shutdown();
                is_ending = true;
                continue;
            }
            Some(ended) = streams.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a stream ended in a panic");
                }
                idle_until = Instant::now() + server.patience.idle;
                continue;
            }
            accepted = HttpSession::from_h2_conn(connection, Arc::clone(&digest)) => accepted,
            () = tokio::time::sleep_until(idle_until), if streams.is_empty() => {
                return connection.abrupt_shutdown(h2::Reason::NO_ERROR);
            }
        };
        match accepted {
            Ok(Some(H2Accept::Session(mut session))) => {
                if streams.len() >= server.http2_tasks_max {
                    // Streams that are reset at once leave their work behind (rapid reset).
                    session.shutdown_with_reason(h2::Reason::REFUSED_STREAM);
                    refused += 1;
                    if refused >= REFUSED_MAX {
                        tracing::debug!(peer = %origin.peer, "too many requests were begun and given up");
                        return connection.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
                    }
                    continue;
                }
                streams.spawn(serve_stream(server, session, origin.clone()));
            }
            Ok(Some(H2Accept::Rejected)) => {
                rejected += 1;
                if rejected >= REJECTED_MAX {
                    return connection.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
                }
            }
            Ok(None) => return,
            Err(error) => return tracing::debug!(%error, "an HTTP/2 connection ended"),
        }
    }
}

/// Serves one request.
fn serve_stream(
    server: &Server,
    session: HttpSession,
    origin: Origin,
) -> impl Future<Output = ()> + Send + 'static {
    let (app, stopping, watch) = (
        Arc::clone(&server.app),
        server.stopping.subscribe(),
        server.watch.clone(),
    );
    let leash = Leash::of_stream(server.patience);
    let stream = ClientStream::new(
        session,
        Downstream {
            origin,
            leash: leash.clone(),
        },
        server.patience,
    );
    async move {
        let session = ServerSession::new_custom(Box::new(stream));
        // A stream carries one request: nothing comes back to be used again.
        let serving = app.process_new_http(session, &stopping);
        let _none = watch.over(&leash, serving).await;
    }
}

/// Drives a connection that takes no more streams until it is closed.
async fn closed(connection: &mut Connection) {
    let closed: Result<(), h2::Error> = std::future::poll_fn(|context| connection.poll_closed(context)).await;
    if let Err(error) = closed {
        tracing::debug!(%error, "an HTTP/2 connection ended");
    }
}
