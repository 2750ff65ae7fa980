//! Open responses: events pass as they come, and end when the authority under them ends.

use std::sync::Arc;
use std::time::Duration;

use caracal_bus::Bus;
use caracal_chassis::Clock;
use caracal_model::{Anchor, AnchorKind};
use caracal_testing::{Behaviour, wait_until};
use http::StatusCode;
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::client::{Raw, open, wait_for_status};
use crate::rig::{Gateway, RESOURCE, Rig, SOON, mandate_upstream, now};
use crate::sts::{Grant, one_shot};

/// The head and the first event of a stream that then falls silent.
const EVENT_STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\nb\r\ndata: one\n\n\r\n";

/// A revoked anchor of each kind a mandate stands on.
fn anchors() -> [Anchor; 4] {
    [
        Anchor::from_parts(AnchorKind::AuthorityRecord, "ar-1").unwrap(),
        Anchor::from_parts(AnchorKind::AuthorityRecord, "ar-0").unwrap(),
        Anchor::from_parts(AnchorKind::Session, "session-1").unwrap(),
        Anchor::from_parts(AnchorKind::Delegation, "edge-1").unwrap(),
    ]
}

fn bound() -> caracal_testing::Mandate {
    one_shot()
        .anchored_in("ar-1", "ar-0")
        .bound_to("session-1", "edge-1")
}

fn get(rig: &Rig, mandate: caracal_testing::Mandate, extra: &str) -> String {
    format!(
        "GET /events HTTP/1.1\r\nhost: x\r\nx-request-id: req-stream\r\nauthorization: Bearer {}\r\nx-caracal-resource: {RESOURCE}\r\n{extra}\r\n",
        rig.sts.sign(mandate)
    )
}

/// An upstream that speaks raw: sends `answer`, then waits for the gateway to hang up, and says when it did.
async fn raw_upstream(answer: &'static str) -> (String, tokio::sync::oneshot::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (gone, hung_up) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let (mut stream, _peer) = listener.accept().await.unwrap();
        let mut buffer = [0; 8_192];
        let _request = stream.read(&mut buffer).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
        let _nobody_waits = gone.send(());
    });
    (url, hung_up)
}

/// An upstream whose connections the test answers itself, once a request came in.
async fn held_upstream() -> (mpsc::UnboundedReceiver<TcpStream>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (give, take) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let (mut stream, _peer) = listener.accept().await.unwrap();
        let mut buffer = [0; 8_192];
        let _request = stream.read(&mut buffer).await.unwrap();
        give.send(stream).unwrap();
    });
    (take, url)
}

#[tokio::test]
async fn events_pass_as_they_come() {
    let rig = Rig::start().await;
    let (url, _hung_up) = raw_upstream(EVENT_STREAM).await;
    rig.sts.grant(Grant::Upstream(mandate_upstream(url)));
    let mut raw = Raw::connect(rig.gateway.addresses.main).await;
    raw.write(get(&rig, bound(), "")).await;
    let text = raw.until("data: one\n\n").await;
    assert!(text.contains("text/event-stream"), "{text}");
}

#[tokio::test]
async fn revoking_any_anchor_cuts_an_idle_stream_at_both_ends() {
    for anchor in anchors() {
        let rig = Rig::start().await;
        let (url, hung_up) = raw_upstream(EVENT_STREAM).await;
        rig.sts.grant(Grant::Upstream(mandate_upstream(url)));
        let mut raw = Raw::connect(rig.gateway.addresses.main).await;
        raw.write(get(&rig, bound(), "")).await;
        let head = raw.until("data: one\n\n").await;
        assert!(
            head.to_ascii_lowercase().contains("trailer: x-caracal-revoked"),
            "{head}"
        );
        let revoked = Instant::now();
        rig.revoke(anchor.clone()).await;
        let text = raw.until_closed().await;
        println!(
            "{anchor}: cut {:?} after the revocation was published",
            revoked.elapsed()
        );
        assert!(text.ends_with("0\r\nX-Caracal-Revoked: true\r\n\r\n"), "{text}");
        tokio::time::timeout(SOON, hung_up)
            .await
            .expect("the upstream is let go too")
            .unwrap();
        let outcome = rig
            .event("req-stream", "gateway_resource_request", "interrupted")
            .await;
        assert_eq!(outcome["metadata_json"]["revocation_interrupted"], true);
        assert_eq!(outcome["metadata_json"]["upstream_status"], 200);
    }
}

#[tokio::test]
async fn an_http_client_reads_why_the_stream_ended_in_the_trailer() {
    let rig = Rig::start().await;
    rig.upstream.set(Behaviour::Sse(Duration::from_millis(20)));
    let request = rig.request("GET", "/events", &rig.sts.sign(bound()));
    let response = open(rig.gateway.addresses.main, request.body(Full::default()).unwrap()).await;
    let mut body = response.into_body();
    let first = body.frame().await.unwrap().unwrap();
    assert!(first.is_data());
    let [anchor, ..] = anchors();
    rig.revoke(anchor).await;
    let collected = tokio::time::timeout(SOON, body.collect())
        .await
        .expect("the stream ends")
        .unwrap();
    assert_eq!(collected.trailers().unwrap()["x-caracal-revoked"], "true");
    wait_until(SOON, async || rig.upstream.open_streams() == 0).await;
}

#[tokio::test]
async fn a_revocation_reaches_a_hundred_streams() {
    let rig = Rig::start().await;
    rig.upstream.set(Behaviour::Sse(Duration::from_mins(1)));
    let mut streams = Vec::new();
    for _stream in 0..100 {
        let mut raw = Raw::connect(rig.gateway.addresses.main).await;
        raw.write(get(&rig, bound(), "")).await;
        raw.until("id: 1\n").await;
        streams.push(raw);
    }
    let revoked = Instant::now();
    let [.., delegation] = anchors();
    rig.revoke(delegation).await;
    for stream in &mut streams {
        assert!(
            stream
                .until_closed()
                .await
                .ends_with("X-Caracal-Revoked: true\r\n\r\n")
        );
    }
    println!(
        "100 streams cut {:?} after the revocation was published",
        revoked.elapsed()
    );
}

/// A client whose mandate is good for 40 s and grows so much older while the upstream thinks, which then answers; with what must stay for
/// the answer to go on.
async fn aged_while_the_upstream_thinks(by: Duration) -> (Raw, impl Sized) {
    let rig = Rig::start().await;
    let clock = Clock::manual(now());
    let bus: Arc<dyn Bus> = Arc::clone(&rig.bus) as _;
    let gateway = Gateway::start_at(clock.clone(), bus, &rig.sts.url(), &[]).await;
    wait_for_status(gateway.addresses.admin, "/ready", StatusCode::OK).await;
    let (mut upstream, url) = held_upstream().await;
    rig.sts.grant(Grant::Upstream(mandate_upstream(url)));
    let mut raw = Raw::connect(gateway.addresses.main).await;
    raw.write(get(&rig, bound().issued(clock.unix_seconds(), 40), ""))
        .await;
    let mut connection = upstream.recv().await.unwrap();
    clock.advance(by);
    connection.write_all(EVENT_STREAM.as_bytes()).await.unwrap();
    (raw, (rig, gateway, upstream, connection))
}

#[tokio::test]
async fn the_mandates_expiry_cuts_an_idle_stream() {
    // All but the last second of the mandate passes.
    let (mut raw, _open) = aged_while_the_upstream_thinks(Duration::from_secs(39)).await;
    let text = raw.until_closed().await;
    assert!(
        text.contains("x-caracal-token-expires-in: 1\r\n")
            || text.contains("X-Caracal-Token-Expires-In: 1\r\n"),
        "{text}"
    );
    assert!(
        text.ends_with("0\r\nX-Caracal-Revoked: expired\r\n\r\n"),
        "{text}"
    );
}

#[tokio::test]
async fn a_mandate_that_expires_while_the_upstream_thinks_gets_no_answer() {
    let (mut raw, _open) = aged_while_the_upstream_thinks(Duration::from_secs(41)).await;
    let text = raw.until("}").await;
    assert!(text.starts_with("HTTP/1.1 401 "), "{text}");
    assert!(
        text.contains("credential_expired_not_renewable") && text.contains("credential expired"),
        "{text}"
    );
    assert!(!text.contains("data: one"), "{text}");
}

#[tokio::test]
async fn a_response_of_known_length_is_left_incomplete() {
    let rig = Rig::start().await;
    let (url, hung_up) = raw_upstream("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart").await;
    rig.sts.grant(Grant::Upstream(mandate_upstream(url)));
    let mut raw = Raw::connect(rig.gateway.addresses.main).await;
    raw.write(get(&rig, bound(), "")).await;
    raw.until("content-length: 100").await;
    let [anchor, ..] = anchors();
    rig.revoke(anchor).await;
    let text = raw.until_closed().await;
    assert!(!text.contains("Revoked"), "{text}");
    tokio::time::timeout(SOON, hung_up)
        .await
        .expect("the upstream is let go too")
        .unwrap();
}

#[tokio::test]
async fn a_client_that_does_not_read_cannot_keep_a_revoked_stream_open() {
    let rig = Rig::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let flooded = tokio::spawn(async move {
        let (mut stream, _peer) = listener.accept().await.unwrap();
        let mut buffer = [0; 8_192];
        let _request = stream.read(&mut buffer).await.unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            .await
            .unwrap();
        let chunk = format!("10000\r\n{}\r\n", "x".repeat(65_536));
        // Ends when the gateway hangs up.
        while stream.write_all(chunk.as_bytes()).await.is_ok() {}
    });
    rig.sts.grant(Grant::Upstream(mandate_upstream(url)));
    let mut raw = Raw::connect(rig.gateway.addresses.main).await;
    raw.write(get(&rig, bound(), "")).await;
    raw.until("xxxx").await;
    let [.., session, _delegation] = anchors();
    rig.revoke(session).await;
    tokio::time::timeout(SOON, flooded)
        .await
        .expect("the upstream is let go")
        .unwrap();
    let outcome = rig
        .event("req-stream", "gateway_resource_request", "interrupted")
        .await;
    assert_eq!(outcome["metadata_json"]["revocation_interrupted"], true);
    drop(raw);
}

#[tokio::test]
async fn a_websocket_passes_and_is_cut_as_well() {
    let rig = Rig::start().await;
    rig.upstream.set(Behaviour::Upgrade);
    let mut raw = Raw::connect(rig.gateway.addresses.main).await;
    let handshake =
        "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\nsec-websocket-version: 13\r\n";
    raw.write(get(&rig, bound(), handshake)).await;
    let head = raw.until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(head.to_ascii_lowercase().contains("upgrade: websocket"), "{head}");
    raw.write("ping").await;
    raw.until("ping").await;
    let forwarded = rig.upstream.requests().pop().unwrap();
    assert_eq!(forwarded.header("sec-websocket-key"), Some("x"));
    let [anchor, ..] = anchors();
    rig.revoke(anchor).await;
    raw.until_closed().await;
    wait_until(SOON, async || rig.upstream.open_streams() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_websocket_stays_open_however_fast_the_upstream_consents() {
    let rig = Rig::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    rig.sts.grant(Grant::Upstream(mandate_upstream(format!(
        "http://{}",
        listener.local_addr().unwrap()
    ))));
    let handshake =
        "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\nsec-websocket-version: 13\r\n";
    for _handshake in 0..200 {
        let mut raw = Raw::connect(rig.gateway.addresses.main).await;
        raw.write(get(&rig, bound(), handshake)).await;
        let (mut upstream, _peer) = listener.accept().await.unwrap();
        // Consent is there before the request is.
        let consent = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
        upstream.write_all(consent.as_bytes()).await.unwrap();
        raw.until("\r\n\r\n").await;
        upstream.write_all(b"from the upstream").await.unwrap();
        raw.until("from the upstream").await;
        raw.write("from the client").await;
        let mut received = Vec::new();
        while !received.ends_with(b"from the client") {
            let read = upstream.read_buf(&mut received).await.unwrap();
            assert!(
                read > 0,
                "the gateway closed: {}",
                String::from_utf8_lossy(&received)
            );
        }
    }
}

#[tokio::test]
async fn an_upstream_that_falls_silent_is_given_up() {
    let rig = Rig::with(&[("STREAM_IDLE_TIMEOUT", "300ms")]).await;
    let (url, hung_up) =
        raw_upstream("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n").await;
    rig.sts.grant(Grant::Upstream(mandate_upstream(url)));
    let mut raw = Raw::connect(rig.gateway.addresses.main).await;
    raw.write(get(&rig, bound(), "")).await;
    let text = raw.until_closed().await;
    assert!(
        text.contains("one") && !text.contains("0\r\n\r\n"),
        "an incomplete response looks incomplete: {text}"
    );
    tokio::time::timeout(SOON, hung_up)
        .await
        .expect("the upstream is let go")
        .unwrap();
}
