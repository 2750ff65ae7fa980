//! How clients come in: through a Unix socket, behind a load balancer that names them, and not too many from one place.

use bytes::Bytes;
use caracal_testing::Behaviour;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::client::{Raw, exchange_raw};
use crate::rig::{RESOURCE, Rig, SOON};
use crate::sts::one_shot;

fn get(rig: &Rig, host: &str) -> String {
    let mandate = rig.sts.sign(one_shot());
    format!(
        "GET /x HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\nauthorization: Bearer {mandate}\r\nx-caracal-resource: {RESOURCE}\r\n\r\n"
    )
}

#[tokio::test]
async fn a_process_of_this_machine_calls_through_a_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gateway.sock");
    let rig = Rig::with(&[("UNIX_SOCKET", path.to_str().unwrap())]).await;
    let stream = UnixStream::connect(&path).await.unwrap();
    let (mut sender, connection) = http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    for _call in 0..2 {
        let answer = sender
            .send_request(rig.get("/x").body(Full::default()).unwrap())
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
        let _body = answer.into_body().collect().await.unwrap();
    }
    let seen = rig.upstream.requests().pop().unwrap();
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600, "nobody else connects");
}

#[tokio::test]
async fn a_listed_load_balancer_names_the_client_of_a_connection() {
    let rig = Rig::with(&[("PROXY_PROTOCOL_FROM", "127.0.0.0/8")]).await;
    let gateway = rig.gateway.addresses.main;
    let one = "PROXY TCP4 203.0.113.7 10.0.0.1 5000 443\r\n";
    let answer = exchange_raw(gateway, &format!("{one}{}", get(&rig, "x"))).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(
        rig.upstream.requests().pop().unwrap().header("x-forwarded-for"),
        Some("203.0.113.7")
    );
    // Version 2, in two pieces.
    let mut raw = Raw::connect(gateway).await;
    raw.write(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0").await;
    tokio::task::yield_now().await;
    raw.write(
        [
            &b"\x0c\xcb\x00\x71\x08\x0a\0\0\x01\x13\x88\x01\xbb"[..],
            get(&rig, "x").as_bytes(),
        ]
        .concat(),
    )
    .await;
    let answer = raw.until_closed().await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(
        rig.upstream.requests().pop().unwrap().header("x-forwarded-for"),
        Some("203.0.113.8")
    );
}

#[tokio::test]
async fn without_its_header_a_load_balancers_connection_carries_nothing() {
    let rig = Rig::with(&[("PROXY_PROTOCOL_FROM", "127.0.0.0/8")]).await;
    for before in ["", "PROXY TCP4 nobody 10.0.0.1 1 2\r\n", "PROXY\r\n"] {
        let answer = exchange_raw(rig.gateway.addresses.main, &format!("{before}{}", get(&rig, "x"))).await;
        assert_eq!(answer, "", "{before:?}");
    }
    assert!(rig.upstream.requests().is_empty());
}

#[tokio::test]
async fn a_header_of_anybody_else_is_no_request() {
    let rig = Rig::with(&[("PROXY_PROTOCOL_FROM", "10.0.0.0/8")]).await;
    let one = "PROXY TCP4 203.0.113.7 10.0.0.1 5000 443\r\n";
    let answer = exchange_raw(rig.gateway.addresses.main, &format!("{one}{}", get(&rig, "x"))).await;
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(rig.upstream.requests().is_empty());
}

#[tokio::test]
async fn one_source_has_so_many_connections() {
    let rig = Rig::with(&[("MAX_CONNECTIONS_PER_SOURCE", "2")]).await;
    let gateway = rig.gateway.addresses.main;
    let mut held = Vec::new();
    for _connection in 0..2 {
        let mut raw = Raw::connect(gateway).await;
        raw.write("GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let _ready = raw.until("{\"ok\":true}").await;
        held.push(raw);
    }
    let mut third = Raw::connect(gateway).await;
    assert_eq!(third.until_closed().await, "");
    drop(held);
    caracal_testing::wait_until(SOON, async || {
        exchange_raw(gateway, &get(&rig, "x"))
            .await
            .starts_with("HTTP/1.1 200")
    })
    .await;
}

#[tokio::test]
async fn one_source_has_so_many_requests_in_progress() {
    let rig = Rig::with(&[("MAX_REQUESTS_PER_SOURCE", "1")]).await;
    rig.upstream.set(Behaviour::Held);
    let gateway = rig.gateway.addresses.main;
    let mut first = Raw::connect(gateway).await;
    first.write(get(&rig, "x")).await;
    caracal_testing::wait_until(SOON, async || !rig.upstream.requests().is_empty()).await;
    let refused = rig.send(rig.get("/x")).await;
    assert_eq!(refused.refusal().2, "too many requests in progress");
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")));
    rig.upstream.set(Behaviour::Echo);
    rig.upstream.release();
    assert!(first.until_closed().await.starts_with("HTTP/1.1 200"));
    caracal_testing::wait_until(SOON, async || rig.send(rig.get("/x")).await.status == 200).await;
}
