use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::routing::{get, post};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::*;

/// Long enough for any step on a busy machine; a test that needs it has failed.
const SOON: Duration = Duration::from_secs(20);

struct Server {
    address: SocketAddr,
    shutdown: Shutdown,
    serving: JoinHandle<Result<(), ServeError>>,
}

async fn start(router: Router, limits: Limits) -> Server {
    let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = Shutdown::new();
    let serving = tokio::spawn(serve(listener, router, limits, shutdown.clone()));
    Server {
        address,
        shutdown,
        serving,
    }
}

impl Server {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn ended(self) {
        tokio::time::timeout(SOON, self.serving)
            .await
            .expect("the server must end")
            .unwrap()
            .unwrap();
    }
}

/// Reads one answer with a `content-length` from a kept connection.
async fn read_answer(stream: &mut (impl AsyncReadExt + Unpin)) -> (u16, String, String) {
    let mut text = String::new();
    let mut byte = [0];
    while !text.ends_with("\r\n\r\n") {
        let read = tokio::time::timeout(SOON, stream.read(&mut byte))
            .await
            .expect("an answer")
            .unwrap();
        assert_eq!(read, 1, "the connection ended after {text:?}");
        text.push(char::from(byte[0]));
    }
    let header = |name: &str| {
        let line = text.lines().find(|line| line.to_lowercase().starts_with(name));
        line.and_then(|line| line.split_once(": "))
            .map(|(_, value)| value.to_owned())
    };
    let length = header("content-length").unwrap_or_default().parse().unwrap_or(0);
    let mut body = vec![0; length];
    tokio::time::timeout(SOON, stream.read_exact(&mut body))
        .await
        .expect("a body")
        .unwrap();
    let status = text.split(' ').nth(1).unwrap().parse().unwrap();
    (status, text.to_lowercase(), String::from_utf8(body).unwrap())
}

async fn exchange(
    stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin),
    request: &str,
) -> (u16, String, String) {
    stream.write_all(request.as_bytes()).await.unwrap();
    read_answer(stream).await
}

/// Reads until the server closes; what came.
async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 1_024];
    loop {
        match tokio::time::timeout(SOON, stream.read(&mut buffer))
            .await
            .expect("the server must close")
        {
            Ok(0) | Err(_) => return String::from_utf8_lossy(&bytes).into_owned(),
            Ok(read) => bytes.extend_from_slice(&buffer[..read]),
        }
    }
}

#[tokio::test]
async fn every_request_has_a_name_and_a_peer() {
    let router = Router::new().route(
        "/",
        get(|id: RequestId, peer: Peer| async move { format!("{id} {}", peer.ip().unwrap()) }),
    );
    let server = start(router, Limits::default()).await;
    let mut stream = server.connect().await;

    let (status, head, body) = exchange(
        &mut stream,
        "GET / HTTP/1.1\r\nhost: a\r\nx-request-id: req-1\r\n\r\n",
    )
    .await;
    assert_eq!((status, body.as_str()), (200, "req-1 127.0.0.1"));
    assert!(head.contains("x-request-id: req-1\r\n"), "{head}");

    let forged = "GET / HTTP/1.1\r\nhost: a\r\nx-request-id: a b\r\n\r\n";
    let (_, head, body) = exchange(&mut stream, forged).await;
    let id = body.split(' ').next().unwrap();
    assert_eq!(id.len(), 36, "a name that is not safe to log is replaced: {body}");
    assert!(head.contains(&format!("x-request-id: {id}\r\n")), "{head}");
}

#[tokio::test]
async fn a_panic_becomes_a_json_500_and_the_connection_lives_on() {
    let router = Router::new().route("/", get(|| async { "well" })).route(
        "/panic",
        get(|id: RequestId| async move { assert!(id.as_str().is_empty(), "a bug") }),
    );
    let server = start(router, Limits::default()).await;
    let mut stream = server.connect().await;
    let (status, _, body) = exchange(
        &mut stream,
        "GET /panic HTTP/1.1\r\nhost: a\r\nx-request-id: req-1\r\n\r\n",
    )
    .await;
    assert_eq!(status, 500);
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (&body["error"], &body["requestId"]),
        (&"internal_error".into(), &"req-1".into())
    );
    let (status, ..) = exchange(&mut stream, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_body_over_the_limit_is_a_json_413_unless_the_handler_answers_it() {
    async fn mapped(
        body: Result<Bytes, axum::extract::rejection::BytesRejection>,
    ) -> (StatusCode, Json<Value>) {
        match body {
            Ok(_) => (StatusCode::OK, Json(Value::Null)),
            Err(rejection) => (rejection.status(), Json(serde_json::json!({"error": "mine"}))),
        }
    }
    let router = Router::new()
        .route("/", post(|body: Bytes| async move { body.len().to_string() }))
        .route("/mapped", post(mapped))
        .route(
            "/large",
            post(|body: Bytes| async move { body.len().to_string() }).layer(DefaultBodyLimit::max(20)),
        );
    let server = start(
        router,
        Limits {
            body_bytes: 10,
            ..Limits::default()
        },
    )
    .await;
    for (path, length, status, expected) in [
        ("/", 10, 200, "10"),
        ("/", 11, 413, "\"error\":\"payload_too_large\""),
        ("/mapped", 11, 413, "\"error\":\"mine\""),
        ("/large", 20, 200, "20"),
        ("/large", 21, 413, "\"error\":\"payload_too_large\""),
    ] {
        let body = "x".repeat(length);
        let request = format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n{body}");
        let (answered, _, body) = exchange(&mut server.connect().await, &request).await;
        assert!(
            answered == status && body.contains(expected),
            "{path} {length}: {answered} {body}"
        );
    }
}

#[tokio::test]
async fn headers_over_the_limit_are_a_431() {
    let router = Router::new().route("/", get(|| async { "well" }));
    let server = start(
        router,
        Limits {
            header_bytes: 8 << 10,
            ..Limits::default()
        },
    )
    .await;
    let request = format!(
        "GET / HTTP/1.1\r\nhost: a\r\nx-large: {}\r\n\r\n",
        "x".repeat(9 << 10)
    );
    let (status, ..) = exchange(&mut server.connect().await, &request).await;
    assert_eq!(status, 431);
}

#[tokio::test]
async fn a_handler_that_takes_too_long_is_a_json_503() {
    let router = Router::new().route("/", get(std::future::pending::<()>));
    let server = start(
        router,
        Limits {
            request_timeout: Duration::from_millis(20),
            ..Limits::default()
        },
    )
    .await;
    let (status, _, body) = exchange(&mut server.connect().await, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(
        status == 503 && body.contains("request_timeout"),
        "{status} {body}"
    );
}

#[tokio::test]
async fn a_client_that_sends_its_headers_slowly_is_cut_off() {
    let router = Router::new().route("/", get(|| async { "well" }));
    let limits = Limits {
        header_timeout: Duration::from_millis(30),
        ..Limits::default()
    };
    let server = start(router, limits).await;
    for begun in ["", "GET / HTTP/1.1\r\nhost:"] {
        let mut stream = server.connect().await;
        stream.write_all(begun.as_bytes()).await.unwrap();
        assert_eq!(read_to_end(&mut stream).await, "", "after {begun:?}");
    }
    let mut stream = server.connect().await;
    exchange(&mut stream, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    stream.write_all(b"GET / HT").await.unwrap();
    assert_eq!(
        read_to_end(&mut stream).await,
        "",
        "the second request on a connection has the same limit"
    );
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_answer_is_cut_off() {
    struct Dropped(Shutdown);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.trigger();
        }
    }
    let ended = Shutdown::new();
    let dropped = ended.clone();
    let endless = move || {
        let dropped = Dropped(dropped.clone());
        let pieces = futures_util::stream::repeat_with(move || {
            let _held_by_the_stream = &dropped;
            Ok::<_, io::Error>(Bytes::from_static(&[0; 16 << 10]))
        });
        async move { axum::body::Body::from_stream(pieces) }
    };
    let limits = Limits {
        write_timeout: Duration::from_millis(30),
        ..Limits::default()
    };
    let server = start(Router::new().route("/", get(endless)), limits).await;
    let mut stream = server.connect().await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    tokio::time::timeout(SOON, ended.requested())
        .await
        .expect("the answer must be given up");
}

#[tokio::test]
async fn an_unused_connection_is_kept_for_the_idle_time_and_not_the_header_time() {
    let router = Router::new().route("/", get(|| async { "well" }));
    let idle = Duration::from_millis(400);
    let limits = Limits {
        header_timeout: Duration::from_millis(100),
        idle_timeout: idle,
        ..Limits::default()
    };
    let server = start(router, limits).await;
    let mut stream = server.connect().await;
    exchange(&mut stream, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let since = tokio::time::Instant::now();
    assert_eq!(read_to_end(&mut stream).await, "");
    assert!(since.elapsed() > idle / 2, "closed after {:?}", since.elapsed());
}

#[tokio::test]
async fn a_long_answer_outlives_the_header_and_idle_times() {
    let slow = || async {
        let pieces = futures_util::stream::unfold(0, |sent| async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            (sent < 10).then(|| (Ok::<_, io::Error>("tick\n"), sent + 1))
        });
        axum::body::Body::from_stream(pieces)
    };
    let limits = Limits {
        header_timeout: Duration::from_millis(50),
        idle_timeout: Duration::from_millis(50),
        ..Limits::default()
    };
    let server = start(Router::new().route("/", get(slow)), limits).await;
    let mut stream = server.connect().await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    let answer = read_to_end(&mut stream).await;
    assert_eq!(answer.matches("tick").count(), 10, "{answer}");
}

#[tokio::test]
async fn a_shutdown_lets_requests_in_progress_end_and_takes_no_new_ones() {
    let (entered, mut has_entered) = mpsc::channel::<()>(1);
    let release = Shutdown::new();
    let gate = release.clone();
    let handler = move || {
        let (entered, gate) = (entered.clone(), gate.clone());
        async move {
            entered.send(()).await.unwrap();
            gate.requested().await;
            "done"
        }
    };
    let server = start(Router::new().route("/", get(handler)), Limits::default()).await;
    let mut idle = server.connect().await;
    let mut stream = server.connect().await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    has_entered.recv().await.unwrap();
    server.shutdown.trigger();
    assert_eq!(
        read_to_end(&mut idle).await,
        "",
        "a connection without a request is closed"
    );
    let address = server.address;
    assert!(!server.serving.is_finished());
    release.trigger();
    let (status, head, body) = read_answer(&mut stream).await;
    assert_eq!((status, body.as_str()), (200, "done"));
    assert!(head.contains("connection: close"), "{head}");
    server.ended().await;
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn requests_that_outlive_the_drain_time_are_cut_off() {
    let (entered, mut has_entered) = mpsc::channel::<()>(1);
    let handler = move || {
        let entered = entered.clone();
        async move {
            entered.send(()).await.unwrap();
            std::future::pending::<()>().await;
        }
    };
    let limits = Limits {
        drain_timeout: Duration::from_millis(20),
        ..Limits::default()
    };
    let server = start(Router::new().route("/", get(handler)), limits).await;
    let mut stream = server.connect().await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    has_entered.recv().await.unwrap();
    server.shutdown.trigger();
    server.ended().await;
    assert_eq!(read_to_end(&mut stream).await, "");
}

#[tokio::test]
async fn connections_over_the_limit_wait_for_their_turn() {
    let router = Router::new().route("/", get(|| async { "well" }));
    let server = start(
        router,
        Limits {
            connections: 1,
            ..Limits::default()
        },
    )
    .await;
    let mut first = server.connect().await;
    exchange(&mut first, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let mut second = server.connect().await;
    second
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    let early = tokio::time::timeout(Duration::from_millis(50), second.read_u8()).await;
    assert!(early.is_err(), "the second connection must wait");
    drop(first);
    assert_eq!(read_answer(&mut second).await.0, 200);
}

#[tokio::test]
async fn a_unix_socket_serves_its_owner_and_replaces_what_was_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sts.sock");
    drop(bind_unix(&path).unwrap());
    let listener = bind_unix(&path).unwrap();
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let router = Router::new().route("/", get(|peer: Peer| async move { format!("{peer:?}") }));
    let shutdown = Shutdown::new();
    let serving = tokio::spawn(serve_unix(listener, router, Limits::default(), shutdown.clone()));
    let mut stream = UnixStream::connect(&path).await.unwrap();
    let (status, _, body) = exchange(&mut stream, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!((status, body.as_str()), (200, "Local"));
    shutdown.trigger();
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let taken = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = taken.local_addr().unwrap();
    let error = bind(address).await.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot listen on {address}"));
}
