//! A client that sends exactly what a test says and shows exactly what came back.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use caracal_testing::wait_until;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::rig::SOON;

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {:?}", self.body))
    }

    /// Status, code and description of a refusal.
    pub(crate) fn refusal(&self) -> (u16, String, String) {
        let body = self.json();
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        (self.status, text("error"), text("error_description"))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Sends a request on a connection of its own and returns the head of the answer with its body still open.
pub(crate) async fn open(gateway: SocketAddr, request: Request<Full<Bytes>>) -> http::Response<Incoming> {
    let stream = TcpStream::connect(gateway).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(async move {
        // How the connection ends is seen in the body.
        let _ended = connection.await;
    });
    let answer = tokio::time::timeout(SOON, sender.send_request(request)).await;
    answer
        .expect("an answer comes soon")
        .expect("the gateway answers")
}

/// Sends a request and reads the whole answer.
pub(crate) async fn send(gateway: SocketAddr, request: Request<Full<Bytes>>) -> Answer {
    let answer = open(gateway, request).await;
    let (head, body) = answer.into_parts();
    let body = tokio::time::timeout(SOON, body.collect())
        .await
        .expect("the body ends soon");
    Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body: body.unwrap().to_bytes(),
    }
}

/// A connection that is kept from one request to the next.
pub(crate) struct Kept(http1::SendRequest<Full<Bytes>>);

impl Kept {
    pub(crate) async fn to(gateway: SocketAddr) -> Self {
        Self::over(TcpStream::connect(gateway).await.unwrap()).await
    }

    /// On a stream that is there.
    pub(crate) async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(async move {
            // How it ends is seen in the answers.
            let _ended = connection.await;
        });
        Self(sender)
    }

    /// `None` when the connection ended without an answer.
    pub(crate) async fn try_send(&mut self, request: http::request::Builder) -> Option<Answer> {
        let request = request.body(Full::default()).unwrap();
        let exchange = async {
            self.0.ready().await.ok()?;
            let (head, body) = self.0.send_request(request).await.ok()?.into_parts();
            Some(Answer {
                status: head.status.as_u16(),
                headers: head.headers,
                body: body.collect().await.unwrap().to_bytes(),
            })
        };
        let answer = tokio::time::timeout(SOON, exchange).await;
        answer.expect("an answer or the end comes soon")
    }

    /// The whole answer.
    pub(crate) async fn send(&mut self, request: http::request::Builder) -> Answer {
        self.try_send(request).await.expect("an answer")
    }
}

/// A connection on which bytes are written and read as they are.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    pub(crate) received: Vec<u8>,
}

impl Raw {
    pub(crate) async fn connect(gateway: SocketAddr) -> Self {
        Self {
            stream: TcpStream::connect(gateway).await.unwrap(),
            received: Vec::new(),
        }
    }

    pub(crate) async fn write(&mut self, text: impl AsRef<[u8]>) {
        self.stream.write_all(text.as_ref()).await.unwrap();
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.received).into_owned()
    }

    /// Reads until `end` was received.
    pub(crate) async fn until(&mut self, end: &str) -> String {
        while !self.text().contains(end) {
            let read = self.more().await;
            assert!(read, "closed before {end:?} came: {:?}", self.text());
        }
        self.text()
    }

    /// Reads until the gateway closes; whether it closed in good order.
    pub(crate) async fn until_closed(&mut self) -> String {
        while self.more().await {}
        self.text()
    }

    async fn more(&mut self) -> bool {
        let mut buffer = [0; 4_096];
        let read = tokio::time::timeout(SOON, self.stream.read(&mut buffer)).await;
        match read.expect("something comes, or the end") {
            Ok(0) | Err(_) => false,
            Ok(count) => {
                self.received.extend_from_slice(&buffer[..count]);
                true
            }
        }
    }
}

/// Sends raw bytes, which must ask for the connection to be closed, and returns everything that came back.
pub(crate) async fn exchange_raw(gateway: SocketAddr, request: &str) -> String {
    let mut raw = Raw::connect(gateway).await;
    raw.write(request).await;
    raw.until_closed().await
}

/// Asks for `path` until the answer has `status`.
pub(crate) async fn wait_for_status(address: SocketAddr, path: &str, status: StatusCode) {
    wait_until(Duration::from_secs(30), async || {
        let request = Request::get(path)
            .header("host", "x")
            .body(Full::default())
            .unwrap();
        send(address, request).await.status == status.as_u16()
    })
    .await;
}
