//! Authority that ends after a request was checked and before its first byte is sent: the upstream hears nothing.

use std::sync::Arc;

use caracal_model::{Anchor, AnchorKind};
use caracal_testing::wait_until;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::sync::{Notify, oneshot};

use crate::client::Raw;
use crate::rig::{RESOURCE, Rig, SOON, mandate_upstream};
use crate::sts::{Grant, one_shot};
use crate::tls_upstream::{acceptor, file};

fn mandate(rig: &Rig) -> String {
    rig.sts.sign(one_shot().bound_to("session-1", "edge-1"))
}

/// A client whose request for `/late` is on its way.
async fn ask(rig: &Rig) -> Raw {
    let mut raw = Raw::connect(rig.gateway.addresses.main).await;
    raw.write(format!(
        "GET /late HTTP/1.1\r\nhost: x\r\nx-request-id: req-late\r\nauthorization: Bearer {}\r\nx-caracal-resource: {RESOURCE}\r\n\r\n",
        mandate(rig)
    ))
    .await;
    raw
}

/// Revokes what the request stands on, and returns when the gateway knows.
async fn revoke(rig: &Rig) {
    rig.revoke(Anchor::from_parts(AnchorKind::Session, "session-1").unwrap())
        .await;
    wait_until(SOON, async || {
        let probe = rig.request("GET", "/probe", &mandate(rig));
        rig.send(probe).await.status == 401
    })
    .await;
}

/// A client whose request waits for the answer of the STS, and what lets the STS answer it.
async fn ask_a_slow_sts(rig: &Rig) -> (Raw, Arc<Notify>) {
    let release = Arc::new(Notify::new());
    let upstream = mandate_upstream(rig.upstream.url());
    rig.sts.grant(Grant::Held(Arc::clone(&release), upstream.clone()));
    let raw = ask(rig).await;
    wait_until(SOON, async || rig.sts.exchanges().len() == 1).await;
    rig.sts.grant(Grant::Upstream(upstream));
    (raw, release)
}

fn heard_of_it(rig: &Rig) -> bool {
    rig.upstream
        .requests()
        .iter()
        .any(|request| request.target == "/late")
}

#[tokio::test]
async fn what_is_revoked_during_the_exchange_is_neither_recorded_as_going_nor_sent() {
    let rig = Rig::with(&[("STS_TIMEOUT", "20s"), ("READ_TIMEOUT", "90s")]).await;
    let (mut raw, release) = ask_a_slow_sts(&rig).await;
    revoke(&rig).await;
    release.notify_one();
    let text = raw.until("}").await;
    assert!(
        text.starts_with("HTTP/1.1 401 ") && text.contains("session revoked"),
        "{text}"
    );
    assert!(!heard_of_it(&rig));
    rig.event("req-late", "gateway_request_denied", "revoked").await;
    let events = rig.events().await;
    let of_request = events.iter().filter(|event| event["request_id"] == "req-late");
    assert_eq!(of_request.count(), 1, "the refusal is all there is");
}

#[tokio::test]
async fn knowledge_that_goes_stale_during_the_exchange_refuses() {
    let rig = Rig::with(&[
        ("STS_TIMEOUT", "20s"),
        ("READ_TIMEOUT", "90s"),
        ("REVOCATION_FRESHNESS", "1s"),
    ])
    .await;
    let (mut raw, release) = ask_a_slow_sts(&rig).await;
    rig.relay.silence();
    wait_until(SOON, async || rig.send(rig.get("/probe")).await.status == 503).await;
    release.notify_one();
    let text = raw.until("}").await;
    assert!(
        text.starts_with("HTTP/1.1 503 ") && text.contains("revocation state unavailable"),
        "{text}"
    );
    assert!(!heard_of_it(&rig));
}

#[tokio::test]
async fn what_is_revoked_during_the_connect_is_not_sent() {
    let rig = Rig::with(&[("CARACAL_TLS_EXTRA_CA_FILE", &file("ca.pem"))]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (connecting, connected) = oneshot::channel();
    let (release, released) = oneshot::channel::<()>();
    // The TLS handshake is part of the connect, and waits for the test.
    let upstream = tokio::spawn(async move {
        let (stream, _peer) = listener.accept().await.unwrap();
        connecting.send(()).unwrap();
        released.await.unwrap();
        let mut stream = acceptor().accept(stream).await.expect("the connect succeeds");
        let mut buffer = [0; 8_192];
        // Nothing also when the gateway hangs up without a close notification.
        stream.read(&mut buffer).await.unwrap_or(0)
    });
    rig.sts.grant(Grant::Upstream(mandate_upstream(format!(
        "https://localhost:{port}"
    ))));
    let mut raw = ask(&rig).await;
    connected.await.unwrap();
    revoke(&rig).await;
    release.send(()).unwrap();
    let text = raw.until("}").await;
    assert!(
        text.starts_with("HTTP/1.1 401 ") && text.contains("session revoked"),
        "{text}"
    );
    let received = tokio::time::timeout(SOON, upstream)
        .await
        .expect("the upstream is let go")
        .unwrap();
    assert_eq!(received, 0, "not a byte of the request");
    let outcome = rig
        .event("req-late", "gateway_resource_request", "interrupted")
        .await;
    assert_eq!(outcome["metadata_json"]["error_kind"], "authority_ended");
}
