//! gRPC through the gateway, HTTP/2 on both sides: unary and streaming calls, their trailers, and their early ends.

use bytes::{BufMut, Bytes, BytesMut};
use caracal_model::{Anchor, AnchorKind};
use caracal_testing::{LiveBody, LiveUpstream, Pipe, Speaks};
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::rig::{RESOURCE, Rig, SOON, mandate_upstream};
use crate::sts::{Grant, one_shot};

/// A message as gRPC frames it: not compressed, its length, its bytes.
fn message(text: &str) -> Bytes {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(text.len()).unwrap());
    framed.put_slice(text.as_bytes());
    framed.freeze()
}

fn status(code: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.parse().unwrap());
    trailers.insert("grpc-message", "said".parse().unwrap());
    trailers.insert("x-custom-bin", "AAEC".parse().unwrap());
    for unwanted in ["x-caracal-revoked", "set-cookie", "content-length", "server"] {
        trailers.insert(unwanted, "1".parse().unwrap());
    }
    trailers
}

/// A server of gRPC: `/echo` sends every message back as it comes and ends with status 0, `/refuse` answers with nothing but
/// trailers. Hands out the answers under way.
async fn server() -> (LiveUpstream, mpsc::UnboundedReceiver<Pipe>) {
    let (tell, told) = mpsc::unbounded_channel();
    let upstream = LiveUpstream::start(Speaks::H2c, move |request: Request<Incoming>| {
        let tell = tell.clone();
        async move {
            assert_eq!(request.headers()["te"], "trailers");
            let answer = Response::builder().header("content-type", "application/grpc");
            let (pipe, body) = Pipe::new();
            if request.uri().path() == "/refuse" {
                let empty = http_body_util::Empty::new().map_err(|never| match never {});
                return answer.header("grpc-status", "7").body(empty.boxed()).unwrap();
            }
            tell.send(pipe.clone()).unwrap();
            tokio::spawn(async move {
                let mut incoming = request.into_body();
                loop {
                    match incoming.frame().await {
                        Some(Ok(frame)) => {
                            pipe.data(frame.into_data().unwrap());
                        }
                        // The client is gone: so is the call.
                        Some(Err(_gone)) => return,
                        None => return pipe.trailers(status("0")),
                    }
                }
            });
            answer.body(body).unwrap()
        }
    })
    .await;
    (upstream, told)
}

struct Call {
    pipe: Pipe,
    head: http::response::Parts,
    body: Incoming,
}

impl Call {
    /// The next piece of the answer.
    async fn next(&mut self) -> Option<Result<hyper::body::Frame<Bytes>, hyper::Error>> {
        tokio::time::timeout(SOON, self.body.frame())
            .await
            .expect("a piece comes soon, or the end")
    }

    async fn data(&mut self) -> Bytes {
        self.next().await.unwrap().unwrap().into_data().unwrap()
    }

    /// No further message.
    fn finish(&mut self) {
        (self.pipe, _) = Pipe::new();
    }

    async fn trailers(&mut self) -> HeaderMap {
        self.next().await.unwrap().unwrap().into_trailers().unwrap()
    }
}

/// Begins a call over HTTP/2 with `first` as its first message.
async fn call(rig: &Rig, path: &str, first: &str) -> Call {
    let stream = TcpStream::connect(rig.gateway.addresses.main).await.unwrap();
    let (mut sender, connection) =
        http2::handshake::<_, _, LiveBody>(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let mandate = rig.sts.sign(one_shot().bound_to("session-1", "edge-1"));
    let (pipe, body) = Pipe::new();
    pipe.data(message(first));
    let request = Request::post(format!("http://gateway.test{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("authorization", format!("Bearer {mandate}"))
        .header("x-caracal-resource", RESOURCE)
        .body(body)
        .unwrap();
    let answer = tokio::time::timeout(SOON, sender.send_request(request)).await;
    let (head, body) = answer.expect("an answer comes soon").unwrap().into_parts();
    Call { pipe, head, body }
}

async fn rig() -> (Rig, LiveUpstream, mpsc::UnboundedReceiver<Pipe>) {
    let (server, answers) = server().await;
    let rig = Rig::with(&[("UPSTREAM_H2C_HOSTS", "127.0.0.1")]).await;
    rig.sts.grant(Grant::Upstream(mandate_upstream(server.url())));
    (rig, server, answers)
}

#[tokio::test]
async fn messages_stream_both_ways_and_the_status_comes_in_the_trailers() {
    let (rig, _server, _answers) = rig().await;
    let mut call = call(&rig, "/echo", "first").await;
    assert_eq!(call.head.status, 200);
    assert_eq!(call.head.headers["content-type"], "application/grpc");
    assert_eq!(call.data().await, message("first"));
    for text in ["second", "third"] {
        call.pipe.data(message(text));
        assert_eq!(call.data().await, message(text), "before the next is sent");
    }
    call.finish();
    let trailers = call.trailers().await;
    for (name, value) in [
        ("grpc-status", Some("0")),
        ("grpc-message", Some("said")),
        ("x-custom-bin", Some("AAEC")),
        ("x-caracal-revoked", None),
        ("set-cookie", None),
        ("content-length", None),
        ("server", None),
    ] {
        let found = trailers.get(name).map(|value| value.to_str().unwrap());
        assert_eq!(found, value, "{name}");
    }
    assert!(call.next().await.is_none());
}

#[tokio::test]
async fn an_answer_of_nothing_but_trailers_passes() {
    let (rig, _server, _answers) = rig().await;
    let mut call = call(&rig, "/refuse", "x").await;
    assert_eq!(call.head.status, 200);
    assert_eq!(call.head.headers["grpc-status"], "7");
    assert!(call.next().await.is_none());
}

#[tokio::test]
async fn a_revoked_call_ends_with_a_status_and_its_server_is_let_go() {
    let (rig, _server, mut answers) = rig().await;
    let mut call = call(&rig, "/echo", "first").await;
    assert_eq!(call.data().await, message("first"));
    rig.revoke(Anchor::from_parts(AnchorKind::Session, "session-1").unwrap())
        .await;
    let trailers = call.trailers().await;
    assert_eq!(trailers["grpc-status"], "16");
    assert_eq!(trailers["x-caracal-revoked"], "true");
    let answer = answers.recv().await.unwrap();
    tokio::time::timeout(SOON, answer.let_go())
        .await
        .expect("the server is let go");
}

#[tokio::test]
async fn a_cancelled_call_is_cancelled_at_its_server() {
    let (rig, _server, mut answers) = rig().await;
    let mut call = call(&rig, "/echo", "first").await;
    assert_eq!(call.data().await, message("first"));
    drop(call);
    let answer = answers.recv().await.unwrap();
    tokio::time::timeout(SOON, answer.let_go())
        .await
        .expect("the server hears of it");
}

#[tokio::test]
async fn a_call_that_its_server_breaks_off_does_not_end_well() {
    let (rig, _server, mut answers) = rig().await;
    let mut call = call(&rig, "/echo", "first").await;
    assert_eq!(call.data().await, message("first"));
    answers.recv().await.unwrap().break_off();
    assert!(call.next().await.unwrap().is_err(), "no clean end");
}
