//! HTTP/2: many calls on one connection, each with an authority and an end of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use caracal_bus::Bus;
use caracal_bus::spool::{Fsync, Spool, SpoolLimits};
use caracal_model::{Anchor, AnchorKind};
use caracal_testing::Behaviour;
use http::{Method, Request, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use tokio::net::TcpStream;

use crate::rig::{Gateway, RESOURCE, Rig, SOON, mandate_upstream};
use crate::sts::{Grant, one_shot};
use crate::tls_upstream::file;

pub(crate) type Sender = SendRequest<Full<Bytes>>;

/// A client in clear that speaks HTTP/2 from its first byte.
async fn connect(gateway: SocketAddr) -> Sender {
    let stream = TcpStream::connect(gateway).await.unwrap();
    over(stream).await
}

pub(crate) async fn over(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
) -> Sender {
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(async move {
        // How the connection ends is seen in its streams.
        let _ended = connection.await;
    });
    sender
}

pub(crate) fn call(rig: &Rig, path: &str, mandate: caracal_testing::Mandate) -> http::request::Builder {
    Request::builder()
        .uri(format!("http://gateway.test:8081{path}"))
        .header("authorization", format!("Bearer {}", rig.sts.sign(mandate)))
        .header("x-caracal-resource", RESOURCE)
}

pub(crate) async fn send(
    sender: &mut Sender,
    request: http::request::Builder,
    body: &str,
) -> http::Response<Incoming> {
    let request = request
        .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))
        .unwrap();
    sender.ready().await.unwrap();
    let answer = tokio::time::timeout(SOON, sender.send_request(request)).await;
    answer
        .expect("an answer comes soon")
        .expect("the gateway answers")
}

async fn json(answer: http::Response<Incoming>) -> serde_json::Value {
    let body = tokio::time::timeout(SOON, answer.into_body().collect()).await;
    serde_json::from_slice(&body.unwrap().unwrap().to_bytes()).unwrap()
}

#[tokio::test]
async fn a_governed_call_passes_over_http2_with_its_body_and_host() {
    let rig = Rig::start().await;
    let mut sender = connect(rig.gateway.addresses.main).await;
    let request = call(&rig, "/v1/users?x=%2F", one_shot())
        .method(Method::POST)
        .header("te", "trailers");
    let answer = send(&mut sender, request, "hello").await;
    assert_eq!(
        (answer.version(), answer.status().as_u16()),
        (Version::HTTP_2, 200)
    );
    assert!(answer.headers().contains_key("x-request-id"));
    let seen = rig.upstream.requests().pop().unwrap();
    assert_eq!(
        (seen.target.as_str(), &seen.body[..]),
        ("/v1/users?x=%2F", &b"hello"[..])
    );
    assert_eq!(seen.header("x-forwarded-host"), Some("gateway.test:8081"));
    assert!(!seen.header("authorization").unwrap().contains("gateway"));
}

#[tokio::test]
async fn refusals_over_http2_are_those_of_the_contract() {
    let rig = Rig::start().await;
    let mut sender = connect(rig.gateway.addresses.main).await;
    let mandate = rig.sts.mandate();
    for (with, expected) in [
        (None, (401, "missing bearer token")),
        (Some("x"), (401, "malformed bearer token")),
        (Some(mandate.as_str()), (200, "")),
        (Some(mandate.as_str()), (401, "token replay detected")),
    ] {
        let mut request = Request::builder()
            .uri("http://g/")
            .header("x-caracal-resource", RESOURCE);
        if let Some(bearer) = with {
            request = request.header("authorization", format!("Bearer {bearer}"));
        }
        let answer = send(&mut sender, request, "").await;
        assert_eq!(answer.status().as_u16(), expected.0);
        let body = json(answer).await;
        assert_eq!(body["error_description"].as_str().unwrap_or_default(), expected.1);
    }
    let big = Request::builder()
        .uri("http://g/")
        .header("x-big", "x".repeat(40_000));
    let answer = send(&mut sender, big, "").await;
    assert_eq!(answer.status(), 431);
    assert_eq!(json(answer).await["error"], "payload_too_large");
}

#[tokio::test]
async fn one_connection_carries_many_calls_at_once() {
    let rig = Rig::start().await;
    rig.upstream.set(Behaviour::Held);
    let sender = connect(rig.gateway.addresses.main).await;
    let calls: Vec<_> = (0..40)
        .map(|n| {
            let (mut sender, request) = (sender.clone(), call(&rig, &format!("/{n}"), one_shot()));
            tokio::spawn(async move { send(&mut sender, request, "").await.status() })
        })
        .collect();
    caracal_testing::wait_until(SOON, async || rig.upstream.requests().len() == 40).await;
    rig.upstream.release();
    for call in calls {
        assert_eq!(call.await.unwrap(), 200);
    }
}

#[tokio::test]
async fn revoking_one_mandate_ends_its_stream_and_no_other_of_the_connection() {
    let rig = Rig::start().await;
    rig.upstream.set(Behaviour::Sse(Duration::from_millis(10)));
    let mut sender = connect(rig.gateway.addresses.main).await;
    let doomed = one_shot().anchored_in("ar-1", "ar-1");
    let mut doomed = send(&mut sender, call(&rig, "/a", doomed), "").await.into_body();
    let lasting = one_shot().anchored_in("ar-2", "ar-2");
    let mut lasting = send(&mut sender, call(&rig, "/b", lasting), "").await.into_body();
    let _event = doomed.frame().await.unwrap().unwrap();
    rig.revoke(Anchor::from_parts(AnchorKind::AuthorityRecord, "ar-1").unwrap())
        .await;
    let trailers = tokio::time::timeout(SOON, async {
        loop {
            match doomed
                .frame()
                .await
                .expect("trailers come before the end")
                .unwrap()
                .into_trailers()
            {
                Ok(trailers) => break trailers,
                Err(_data) => {}
            }
        }
    });
    assert_eq!(trailers.await.unwrap()["x-caracal-revoked"], "true");
    assert!(doomed.frame().await.is_none());
    for _more in 0..5 {
        assert!(lasting.frame().await.unwrap().unwrap().is_data());
    }
}

#[tokio::test]
async fn a_silent_stream_is_cut_by_signal() {
    let rig = Rig::start().await;
    rig.upstream.set(Behaviour::Sse(Duration::from_hours(1)));
    let mut sender = connect(rig.gateway.addresses.main).await;
    let mandate = one_shot().anchored_in("ar-1", "ar-1");
    let mut body = send(&mut sender, call(&rig, "/a", mandate), "").await.into_body();
    rig.revoke(Anchor::from_parts(AnchorKind::AuthorityRecord, "ar-1").unwrap())
        .await;
    let end = tokio::time::timeout(SOON, async {
        while let Some(frame) = body.frame().await {
            if let Ok(trailers) = frame.unwrap().into_trailers() {
                return trailers;
            }
        }
        panic!("no trailers");
    });
    assert_eq!(end.await.unwrap()["x-caracal-revoked"], "true");
}

#[tokio::test]
async fn an_answer_with_a_length_that_is_cut_is_reset() {
    let rig = Rig::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut stream, _peer) = listener.accept().await.unwrap();
        let mut buffer = [0; 8_192];
        let _request = stream.read(&mut buffer).await.unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
            .await
            .unwrap();
        let _until_closed = stream.read(&mut buffer).await;
    });
    rig.sts.grant(Grant::Upstream(mandate_upstream(url)));
    let mut sender = connect(rig.gateway.addresses.main).await;
    let mandate = one_shot().anchored_in("ar-1", "ar-1");
    let mut body = send(&mut sender, call(&rig, "/a", mandate), "").await.into_body();
    let _half = body.frame().await.unwrap().unwrap();
    rig.revoke(Anchor::from_parts(AnchorKind::AuthorityRecord, "ar-1").unwrap())
        .await;
    let end = tokio::time::timeout(SOON, body.frame()).await.unwrap();
    assert!(end.unwrap().is_err(), "a short answer never looks whole");
}

#[tokio::test]
async fn tls_clients_choose_http2_and_the_port_in_clear_sends_them_there() {
    let rig = Rig::with(&[
        ("TLS_CERT_FILE", &file("server.pem")),
        ("TLS_KEY_FILE", &file("server.key")),
        ("HTTP_PORT", "0"),
        ("GATEWAY_PUBLIC_URLS", "https://gateway.test:8443"),
    ])
    .await;
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(rustls::pki_types::CertificateDer::from_pem_file(file("ca.pem")).unwrap())
        .unwrap();
    for (offered, chosen) in [(&["h2", "http/1.1"][..], "h2"), (&["http/1.1"], "http/1.1")] {
        let mut config = rustls::ClientConfig::builder()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = TcpStream::connect(rig.gateway.addresses.main).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let stream = connector
            .connect("localhost".try_into().unwrap(), stream)
            .await
            .unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(chosen.as_bytes()));
        if chosen == "h2" {
            let answer = send(&mut over(stream).await, call(&rig, "/x", one_shot()), "").await;
            assert_eq!(answer.status(), 200);
            let seen = rig.upstream.requests().pop().unwrap();
            assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
        }
    }
    let plain = rig.gateway.addresses.plain.unwrap();
    let request = rig.get("/a%2Fb?q=1").body(Full::default()).unwrap();
    let answer = crate::client::send(plain, request).await;
    assert_eq!(
        (answer.status, answer.header("location")),
        (308, Some("https://gateway.test:8443/a%2Fb?q=1"))
    );
}

#[tokio::test]
async fn streams_given_up_at_once_do_not_pile_up() {
    let rig = Rig::with(&[("HTTP2_STREAMS", "4")]).await;
    rig.upstream.set(Behaviour::Held);
    let stream = TcpStream::connect(rig.gateway.addresses.main).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    let driver = tokio::spawn(connection);
    let mut requests = Vec::new();
    for _request in 0..100 {
        requests.push(call(&rig, "/x", one_shot()).body(()).unwrap());
    }
    let flood = async move {
        loop {
            for request in &requests {
                client = client.ready().await?;
                let (_answer, mut stream) = client.send_request(request.clone(), false)?;
                tokio::task::yield_now().await;
                stream.send_reset(h2::Reason::CANCEL);
            }
        }
    };
    let refused: Result<(), h2::Error> = tokio::time::timeout(SOON, flood)
        .await
        .expect("the gateway ends it");
    assert!(refused.is_err());
    let ended = driver.await.unwrap();
    println!("{refused:?}; {ended:?}");
    // The gateway is well.
    rig.upstream.set(Behaviour::Echo);
    let mut sender = connect(rig.gateway.addresses.main).await;
    assert_eq!(
        send(&mut sender, call(&rig, "/x", one_shot()), "").await.status(),
        200
    );
}

#[tokio::test]
async fn a_stopping_gateway_lets_open_streams_end_and_takes_no_more() {
    let rig = Rig::with(&[("DRAIN_TIMEOUT", "20s")]).await;
    rig.upstream.set(Behaviour::Held);
    let sender = connect(rig.gateway.addresses.main).await;
    let open = {
        let (mut sender, request) = (sender.clone(), call(&rig, "/x", one_shot()));
        tokio::spawn(async move { send(&mut sender, request, "").await.status() })
    };
    caracal_testing::wait_until(SOON, async || !rig.upstream.requests().is_empty()).await;
    rig.gateway.stop();
    caracal_testing::wait_until(SOON, async || {
        TcpStream::connect(rig.gateway.addresses.main).await.is_err()
    })
    .await;
    rig.upstream.release();
    assert_eq!(open.await.unwrap(), 200);
    caracal_testing::wait_until(SOON, async || sender.is_closed()).await;
}

#[tokio::test]
async fn the_pieces_of_a_cookie_reach_the_upstream_as_one() {
    let rig = Rig::start().await;
    let mut sender = connect(rig.gateway.addresses.main).await;
    let request = call(&rig, "/x", one_shot())
        .header("cookie", "a=1")
        .header("cookie", "b=2; c=3");
    assert_eq!(send(&mut sender, request, "").await.status(), 200);
    let seen = rig.upstream.requests().pop().unwrap();
    let cookies: Vec<_> = seen.headers.get_all("cookie").iter().collect();
    assert_eq!(cookies, ["a=1; b=2; c=3"]);
}

#[tokio::test]
async fn what_a_stop_cuts_is_recorded_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let spool = ("AUDIT_REPLAY_DIR", folder.path().to_str().unwrap());
    let rig = Rig::with(&[spool]).await;
    rig.upstream.set(Behaviour::Sse(Duration::from_millis(10)));
    let mut sender = connect(rig.gateway.addresses.main).await;
    let request = call(&rig, "/stream", one_shot()).header("x-request-id", "req-stopped");
    let mut body = send(&mut sender, request, "").await.into_body();
    let _event = body.frame().await.unwrap().unwrap();
    rig.gateway.stop();
    let end = tokio::time::timeout(SOON, async {
        while let Some(frame) = body.frame().await {
            if frame.is_err() {
                return true;
            }
        }
        false
    });
    assert!(end.await.unwrap(), "a cut answer never looks whole");
    // The next process publishes what this one had no time to.
    let is_free = async || Spool::open(folder.path(), SpoolLimits::default(), Fsync::Never).is_ok();
    caracal_testing::wait_until(SOON, is_free).await;
    let _next = Gateway::start(Arc::clone(&rig.bus) as Arc<dyn Bus>, &rig.sts.url(), &[spool]).await;
    let outcome = rig
        .event("req-stopped", "gateway_resource_request", "interrupted")
        .await;
    assert_eq!(outcome["metadata_json"]["error_kind"], "gateway_stopped");
}
