//! What stands behind every proxy that is measured, and what proxies ask that have their requests authorized elsewhere: a small
//! service on one thread that remembers nothing. `origin <port>`.
//!
//! | path | answer |
//! |---|---|
//! | `/events` | an event at once and then one every 100 ms, until the client goes away |
//! | `/socket` | consents to an upgrade and sends every byte back |
//! | `/bytes/<n>` | as many bytes |
//! | any other | 200 and ten bytes, after the request's body; with the header that an authorizer would put in |

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

type Body = BoxBody<Bytes, Infallible>;

/// Pause between two events.
const PAUSE: Duration = Duration::from_millis(100);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let port: u16 = std::env::args().nth(1).context("a port")?.parse()?;
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await?;
    loop {
        let (stream, _client) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(serve(stream));
    }
}

async fn serve(stream: TcpStream) {
    let connection = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .with_upgrades();
    // A client that goes away is none of our concern.
    let _ended = connection.await;
}

async fn answer(mut request: Request<Incoming>) -> hyper::Result<Response<Body>> {
    let path = request.uri().path();
    if path == "/socket" {
        return Ok(upgrade(request));
    }
    if path == "/events" {
        return Ok(events());
    }
    let bytes = path.strip_prefix("/bytes/").and_then(|bytes| bytes.parse().ok());
    while let Some(frame) = request.body_mut().frame().await {
        frame?;
    }
    let body = bytes.map_or(Bytes::from_static(b"{\"ok\":true}"), |bytes| {
        vec![b'x'; bytes].into()
    });
    let mut answer = Response::new(Full::new(body).boxed());
    answer
        .headers_mut()
        .insert("x-upstream-key", HeaderValue::from_static("key"));
    Ok(answer)
}

fn events() -> Response<Body> {
    let events = stream::unfold(0_u64, async |number| {
        if number > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        let event = format!("id: {number}\ndata: tick\n\n");
        Some((Ok(Frame::data(Bytes::from(event))), number + 1))
    });
    let mut answer = Response::new(BodyExt::boxed(StreamBody::new(Box::pin(events))));
    let event_stream = HeaderValue::from_static("text/event-stream");
    answer.headers_mut().insert(header::CONTENT_TYPE, event_stream);
    answer
}

fn upgrade(request: Request<Incoming>) -> Response<Body> {
    let protocol = request.headers().get(header::UPGRADE).cloned();
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(request).await else {
            return;
        };
        let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
        // Until the client goes away.
        let _ended = tokio::io::copy(&mut reader, &mut writer).await;
    });
    let mut answer = Response::new(Full::default().boxed());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = protocol {
        answer.headers_mut().insert(header::UPGRADE, protocol);
    }
    answer
}
