//! What streams through, piece by piece: events, interim answers, uploads, upgraded connections, and how each ends when one side goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use caracal_testing::{LiveUpstream, Pipe, Speaks, wait_until};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};

use crate::client::{Raw, exchange_raw};
use crate::rig::{RESOURCE, Rig, SOON, mandate_upstream};
use crate::sts::Grant;

fn head(rig: &Rig, line: &str, more: &str) -> String {
    format!(
        "{line}\r\nhost: x\r\nauthorization: Bearer {}\r\nx-caracal-resource: {RESOURCE}\r\n{more}\r\n",
        rig.sts.mandate()
    )
}

/// An upstream that hands each connection to the test once the head of a request was read from it.
async fn raw_upstream(rig: &Rig) -> mpsc::UnboundedReceiver<(TcpStream, String)> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (give, take) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (mut stream, _peer) = listener.accept().await.unwrap();
            let mut read = Vec::new();
            while !read.windows(4).any(|window| window == b"\r\n\r\n") {
                read.push(stream.read_u8().await.unwrap());
            }
            let _test_is_over = give.send((stream, String::from_utf8(read).unwrap()));
        }
    });
    rig.sts.grant(Grant::Upstream(mandate_upstream(url)));
    take
}

#[tokio::test]
async fn every_event_is_seen_before_the_next_is_sent() {
    for (speaks, settings) in [
        (Speaks::Http1, &[][..]),
        (Speaks::H2c, &[("UPSTREAM_H2C_HOSTS", "127.0.0.1")]),
    ] {
        let rig = Rig::with(settings).await;
        let (give, mut pipes) = mpsc::unbounded_channel();
        let upstream = LiveUpstream::start(speaks, move |_request| {
            let (pipe, body) = Pipe::new();
            give.send(pipe).unwrap();
            async move {
                let answer = Response::builder().header("content-type", "text/event-stream");
                answer.body(body).unwrap()
            }
        })
        .await;
        rig.sts.grant(Grant::Upstream(mandate_upstream(upstream.url())));
        let mut raw = Raw::connect(rig.gateway.addresses.main).await;
        raw.write(head(&rig, "GET /events HTTP/1.1", "")).await;
        let pipe = pipes.recv().await.unwrap();
        for event in 1..=10 {
            let text = format!("id: {event}\ndata: x\n\n");
            assert!(pipe.data(text.clone()));
            raw.until(&text).await;
        }
        drop(pipe);
        raw.until("\r\n0\r\n\r\n").await;
    }
}

#[tokio::test]
async fn interim_answers_pass_cleaned_to_clients_that_know_them() {
    const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\nserver: nginx\r\nx-caracal-identity: x\r\ncontent-length: 7\r\nconnection: x-hop\r\nx-hop: 1\r\nlocation: https://elsewhere.test/\r\n\r\n";
    const FINAL: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone";
    let rig = Rig::start().await;
    let mut upstream = raw_upstream(&rig).await;
    let mut raw = Raw::connect(rig.gateway.addresses.main).await;
    raw.write(head(&rig, "GET / HTTP/1.1", "")).await;
    let (mut connection, _head) = upstream.recv().await.unwrap();
    connection.write_all(HINTS.as_bytes()).await.unwrap();
    // Seen before the upstream says more.
    let interim = raw.until("\r\n\r\n").await.to_ascii_lowercase();
    assert!(
        interim.starts_with("http/1.1 103 ") && interim.contains("link: </style.css>"),
        "{interim}"
    );
    for name in [
        "server",
        "x-caracal",
        "content-length",
        "x-hop",
        "location",
        "connection",
    ] {
        assert!(!interim.contains(name), "{name} must not pass: {interim}");
    }
    connection.write_all(FINAL.as_bytes()).await.unwrap();
    raw.until("done").await;

    let mut raw = Raw::connect(rig.gateway.addresses.main).await;
    raw.write(head(&rig, "GET / HTTP/1.0", "")).await;
    // The same connection to the upstream carries the second request.
    let mut second = vec![0; 4_096];
    let _head = connection.read(&mut second).await.unwrap();
    let both = [HINTS, FINAL].concat();
    connection.write_all(both.as_bytes()).await.unwrap();
    let text = raw.until_closed().await;
    assert!(
        text.starts_with("HTTP/1.1 200 ") && !text.contains("103"),
        "{text}"
    );
}

#[tokio::test]
async fn an_answer_that_breaks_off_never_looks_whole() {
    let rig = Rig::start().await;
    let mut upstream = raw_upstream(&rig).await;
    for (framing, part) in [
        ("content-length: 100", "part"),
        ("transfer-encoding: chunked", "4\r\npart\r\n"),
        ("transfer-encoding: chunked", "a\r\npart"),
    ] {
        let mut raw = Raw::connect(rig.gateway.addresses.main).await;
        raw.write(head(&rig, "GET / HTTP/1.1", "")).await;
        let (mut connection, _head) = upstream.recv().await.unwrap();
        let answer = format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n{part}");
        connection.write_all(answer.as_bytes()).await.unwrap();
        drop(connection);
        let text = raw.until_closed().await;
        let (_head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            body.len() < 100 && !body.contains("0\r\n\r\n"),
            "{framing} {part}: {text}"
        );
    }
}

#[tokio::test]
async fn a_request_that_breaks_off_never_looks_whole() {
    for (speaks, settings) in [
        (Speaks::Http1, &[][..]),
        (Speaks::H2c, &[("UPSTREAM_H2C_HOSTS", "127.0.0.1")]),
    ] {
        for framing in ["content-length: 20\r\n", "transfer-encoding: chunked\r\n"] {
            let rig = Rig::with(settings).await;
            let (tell, mut told) = mpsc::unbounded_channel();
            let upstream = LiveUpstream::start(speaks, move |request: Request<Incoming>| {
                let tell = tell.clone();
                async move {
                    let mut body = request.into_body();
                    let _first = body.frame().await;
                    tell.send(None).unwrap();
                    tell.send(Some(body.collect().await.is_ok())).unwrap();
                    let (_pipe, body) = Pipe::new();
                    Response::new(body)
                }
            })
            .await;
            rig.sts.grant(Grant::Upstream(mandate_upstream(upstream.url())));
            let mut raw = Raw::connect(rig.gateway.addresses.main).await;
            raw.write(head(&rig, "POST / HTTP/1.1", framing)).await;
            raw.write("5\r\nfirst\r\n").await;
            assert_eq!(told.recv().await, Some(None));
            drop(raw);
            let whole = tokio::time::timeout(SOON, told.recv()).await;
            assert_eq!(
                whole.expect("the upstream hears that the client left"),
                Some(Some(false)),
                "{speaks:?} {framing}"
            );
        }
    }
}

#[tokio::test]
async fn an_upstream_that_does_not_read_holds_the_client_back() {
    const TOTAL: usize = 64 << 20;
    let rig = Rig::with(&[("MAX_REQUEST_BYTES", "100MiB")]).await;
    for speaks in [Speaks::Http1, Speaks::Tls(&["h2"])] {
        let (go, arrived) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let (may_read, count) = (Arc::clone(&go), Arc::clone(&arrived));
        let upstream = LiveUpstream::start(speaks, move |request: Request<Incoming>| {
            let (may_read, count) = (Arc::clone(&may_read), Arc::clone(&count));
            async move {
                may_read.notified().await;
                let mut body = request.into_body();
                while let Some(Ok(frame)) = body.frame().await {
                    count.fetch_add(frame.data_ref().map_or(0, Bytes::len), Ordering::SeqCst);
                }
                let (_pipe, body) = Pipe::new();
                Response::new(body)
            }
        })
        .await;
        let authority = caracal_testing::test_authority();
        let settings = [
            ("CARACAL_TLS_EXTRA_CA_FILE", authority.to_str().unwrap()),
            ("MAX_REQUEST_BYTES", "100MiB"),
        ];
        let rig = if speaks == Speaks::Http1 {
            &rig
        } else {
            &Rig::with(&settings).await
        };
        rig.sts.grant(Grant::Upstream(mandate_upstream(upstream.url())));
        let raw = Raw::connect(rig.gateway.addresses.main).await;
        let (mut reading, mut writing) = raw.stream.into_split();
        let head = head(
            rig,
            "POST / HTTP/1.1",
            &format!("connection: close\r\ncontent-length: {TOTAL}\r\n"),
        );
        writing.write_all(head.as_bytes()).await.unwrap();
        let sent = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&sent);
        let sending = tokio::spawn(async move {
            let piece = vec![b'x'; 64 << 10];
            while counter.load(Ordering::SeqCst) < TOTAL {
                writing.write_all(&piece).await.unwrap();
                counter.fetch_add(piece.len(), Ordering::SeqCst);
            }
            // A client that closes, if only its own half, is gone.
            writing
        });
        // Once nothing more goes in: what is in sockets and windows is less than half.
        let mut before = (0, 0);
        wait_until(SOON, async || {
            let now = sent.load(Ordering::SeqCst);
            before = if now == before.0 {
                (now, before.1 + 1)
            } else {
                (now, 0)
            };
            now > 0 && before.1 >= 20
        })
        .await;
        let held = sent.load(Ordering::SeqCst);
        assert!(held < TOTAL / 2, "{speaks:?}: {held} bytes are somewhere");
        go.notify_one();
        let sent = tokio::time::timeout(Duration::from_mins(1), sending).await;
        let _open = sent.expect("the rest goes through").unwrap();
        let mut answer = Vec::new();
        reading.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{speaks:?}: {answer}");
        assert_eq!(arrived.load(Ordering::SeqCst), TOTAL, "{speaks:?}");
    }
}

#[tokio::test]
async fn answers_without_a_body_end_with_their_head() {
    for (speaks, settings) in [
        (Speaks::Http1, &[][..]),
        (Speaks::H2c, &[("UPSTREAM_H2C_HOSTS", "127.0.0.1")]),
    ] {
        let rig = Rig::with(settings).await;
        let upstream = LiveUpstream::start(speaks, |request: Request<Incoming>| async move {
            let status = request.uri().path().trim_start_matches('/').parse().unwrap();
            let (_pipe, body) = Pipe::new();
            let mut answer = Response::builder().status::<u16>(status);
            if status != 204 {
                answer = answer.header("content-length", "5");
            }
            answer.body(body).unwrap()
        })
        .await;
        rig.sts.grant(Grant::Upstream(mandate_upstream(upstream.url())));
        for (line, has_length) in [
            ("HEAD /200 HTTP/1.1", true),
            ("GET /204 HTTP/1.1", false),
            ("GET /304 HTTP/1.1", true),
        ] {
            let request = head(&rig, line, "connection: close\r\n");
            let answer = exchange_raw(rig.gateway.addresses.main, &request).await;
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            let head = head.to_ascii_lowercase();
            assert_eq!(body, "", "{speaks:?} {line}: {answer}");
            assert!(!head.contains("transfer-encoding"), "{speaks:?} {line}: {answer}");
            assert_eq!(
                head.contains("content-length: 5"),
                has_length,
                "{speaks:?} {line}: {answer}"
            );
        }
    }
}

const HANDSHAKE: &str = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: chat, superchat\r\n";
const CONSENT: &str = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nsec-websocket-protocol: superchat\r\n\r\n";

async fn websocket(rig: &Rig) -> (Raw, TcpStream) {
    let mut upstream = raw_upstream(rig).await;
    let mut raw = Raw::connect(rig.gateway.addresses.main).await;
    raw.write(head(rig, "GET /chat HTTP/1.1", HANDSHAKE)).await;
    let (mut connection, asked) = upstream.recv().await.unwrap();
    let asked = asked.to_ascii_lowercase();
    for expected in [
        "upgrade: websocket",
        "sec-websocket-key: dghlihnhbxbszsbub25jzq==",
        "sec-websocket-protocol: chat, superchat",
    ] {
        assert!(asked.contains(expected), "{expected}: {asked}");
    }
    connection.write_all(CONSENT.as_bytes()).await.unwrap();
    let consent = raw.until("\r\n\r\n").await.to_ascii_lowercase();
    for expected in [
        "http/1.1 101 ",
        "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=",
        "sec-websocket-protocol: superchat",
    ] {
        assert!(consent.contains(expected), "{expected}: {consent}");
    }
    raw.write("ping").await;
    let mut four = [0; 4];
    connection.read_exact(&mut four).await.unwrap();
    assert_eq!(&four, b"ping");
    connection.write_all(b"pong").await.unwrap();
    raw.until("pong").await;
    (raw, connection)
}

#[tokio::test]
async fn a_websocket_that_the_upstream_closes_is_closed_at_the_client() {
    let rig = Rig::start().await;
    let (mut raw, connection) = websocket(&rig).await;
    drop(connection);
    raw.until_closed().await;
}

#[tokio::test]
async fn a_websocket_that_the_client_closes_is_closed_at_the_upstream() {
    let rig = Rig::start().await;
    let (raw, mut connection) = websocket(&rig).await;
    drop(raw);
    let end = tokio::time::timeout(SOON, connection.read(&mut [0; 16])).await;
    assert!(matches!(end.expect("the upstream hears of it"), Ok(0) | Err(_)));
}

#[tokio::test]
async fn an_upstream_that_declines_a_websocket_answers_as_usual() {
    let rig = Rig::start().await;
    let mut upstream = raw_upstream(&rig).await;
    let mut raw = Raw::connect(rig.gateway.addresses.main).await;
    raw.write(head(&rig, "GET /chat HTTP/1.1", HANDSHAKE)).await;
    let (mut connection, _asked) = upstream.recv().await.unwrap();
    connection
        .write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno")
        .await
        .unwrap();
    let text = raw.until("\r\n\r\nno").await;
    assert!(text.starts_with("HTTP/1.1 403 "), "{text}");
}

/// Lets `UPSTREAM_TIMEOUT` pass: a call to an upstream that never answers is refused for it.
async fn until_an_upstream_would_be_silent_for_too_long(rig: &Rig) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    rig.sts.grant(Grant::Upstream(mandate_upstream(url)));
    let answer = rig.send(rig.get("/")).await;
    assert_eq!(answer.refusal().2, "upstream timeout");
}

#[tokio::test]
async fn a_client_that_pauses_its_upload_is_not_a_silent_upstream() {
    let rig = Rig::with(&[("UPSTREAM_TIMEOUT", "200ms")]).await;
    let mut requests = raw_upstream(&rig).await;
    let mut client = Raw::connect(rig.gateway.addresses.main).await;
    client
        .write(head(
            &rig,
            "POST / HTTP/1.1",
            "content-length: 10\r\nconnection: close\r\n",
        ))
        .await;
    client.write("half ").await;
    let (mut upstream, _head) = requests.recv().await.unwrap();
    until_an_upstream_would_be_silent_for_too_long(&rig).await;
    client.write("whole").await;
    let mut body = [0; 10];
    upstream.read_exact(&mut body).await.unwrap();
    assert_eq!(&body, b"half whole");
    upstream
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        .await
        .unwrap();
    let answer = client.until_closed().await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok"),
        "{answer}"
    );
}

#[tokio::test]
async fn an_open_public_answer_may_be_silent_for_longer_than_its_head() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = listener.local_addr().unwrap();
    let route = format!(r#"[{{"path_prefix":"/public","public":true,"upstream":"http://{upstream}"}}]"#);
    let rig = Rig::with(&[("UPSTREAM_TIMEOUT", "200ms"), ("ROUTE", &route)]).await;
    let mut client = Raw::connect(rig.gateway.addresses.main).await;
    client.write("GET /public HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let (mut upstream, _peer) = listener.accept().await.unwrap();
    let mut head = [0; 4_096];
    let _read = upstream.read(&mut head).await.unwrap();
    upstream
        .write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
        )
        .await
        .unwrap();
    let _head = client.until("\r\n\r\n").await;
    until_an_upstream_would_be_silent_for_too_long(&rig).await;
    upstream.write_all(b"b\r\ndata: one\n\n\r\n").await.unwrap();
    client.until("data: one\n\n").await;
}
