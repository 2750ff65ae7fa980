//! Authority that ends while a request is under way: what the client still sends is cut, and so is the waiting for an answer.
//! Open answers are in `streaming.rs`.

use std::sync::Arc;
use std::time::Duration;

use caracal_bus::Bus;
use caracal_chassis::Clock;
use caracal_model::{Anchor, AnchorKind};
use caracal_testing::{Behaviour, LiveUpstream, Pipe, Speaks, wait_until};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Notify, mpsc};

use crate::client::{Raw, wait_for_status};
use crate::rig::{Gateway, RESOURCE, Rig, SOON, mandate_upstream, now};
use crate::sts::{Grant, one_shot};

/// What an upstream saw of a request's body: a piece, or (`None`) that it broke off.
type Seen = mpsc::UnboundedReceiver<Option<usize>>;

/// An upstream that takes a body and never answers.
async fn listening(speaks: Speaks) -> (LiveUpstream, Seen) {
    let (tell, seen) = mpsc::unbounded_channel();
    let upstream = LiveUpstream::start(speaks, move |request: Request<Incoming>| {
        let tell = tell.clone();
        async move {
            let mut body = request.into_body();
            while let Some(Ok(frame)) = body.frame().await {
                if let Ok(piece) = frame.into_data() {
                    let _test_is_over = tell.send(Some(piece.len()));
                }
            }
            let _test_is_over = tell.send(None);
            let (_pipe, body) = Pipe::new();
            Response::new(body)
        }
    })
    .await;
    (upstream, seen)
}

fn upload(mandate: &str) -> String {
    format!(
        "POST /upload HTTP/1.1\r\nhost: x\r\nx-request-id: req-upload\r\nauthorization: Bearer {mandate}\r\nx-caracal-resource: {RESOURCE}\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n"
    )
}

async fn revoke(rig: &Rig) {
    rig.revoke(Anchor::from_parts(AnchorKind::Session, "session-1").unwrap())
        .await;
}

async fn next(seen: &mut Seen) -> Option<usize> {
    let next = tokio::time::timeout(SOON, seen.recv()).await;
    next.expect("the upstream hears something").unwrap()
}

#[tokio::test]
async fn a_revocation_cuts_an_upload_whose_client_pauses() {
    for (speaks, settings) in [
        (Speaks::Http1, &[][..]),
        (Speaks::H2c, &[("UPSTREAM_H2C_HOSTS", "127.0.0.1")]),
    ] {
        let rig = Rig::with(settings).await;
        let (upstream, mut seen) = listening(speaks).await;
        rig.sts.grant(Grant::Upstream(mandate_upstream(upstream.url())));
        let mut raw = Raw::connect(rig.gateway.addresses.main).await;
        let mandate = rig.sts.sign(one_shot().bound_to("session-1", "edge-1"));
        raw.write(upload(&mandate)).await;
        assert_eq!(next(&mut seen).await, Some(5));
        revoke(&rig).await;
        assert_eq!(next(&mut seen).await, None, "{speaks:?}: the upstream is let go");
        let text = raw.until("session revoked").await;
        assert!(text.starts_with("HTTP/1.1 401 "), "{text}");
        let outcome = rig
            .event("req-upload", "gateway_resource_request", "interrupted")
            .await;
        assert_eq!(outcome["metadata_json"]["revocation_interrupted"], true);
    }
}

#[tokio::test]
async fn a_revocation_cuts_an_upload_whose_client_never_pauses() {
    let rig = Rig::start().await;
    let (upstream, mut seen) = listening(Speaks::Http1).await;
    rig.sts.grant(Grant::Upstream(mandate_upstream(upstream.url())));
    let raw = Raw::connect(rig.gateway.addresses.main).await;
    let (mut reading, mut writing) = raw.stream.into_split();
    let mandate = rig.sts.sign(one_shot().bound_to("session-1", "edge-1"));
    writing.write_all(upload(&mandate).as_bytes()).await.unwrap();
    let sending = tokio::spawn(async move {
        // Ends when the gateway hangs up.
        while writing.write_all(b"1\r\nx\r\n").await.is_ok() {}
    });
    assert!(next(&mut seen).await.is_some());
    revoke(&rig).await;
    let cut = async { while next(&mut seen).await.is_some() {} };
    tokio::time::timeout(SOON, cut)
        .await
        .expect("the upstream is let go");
    let mut answer = Vec::new();
    // The answer, or nothing but the end: the client was still sending when it came.
    let _ended = tokio::io::AsyncReadExt::read_to_end(&mut reading, &mut answer).await;
    tokio::time::timeout(SOON, sending)
        .await
        .expect("the client is let go")
        .unwrap();
}

#[tokio::test]
async fn the_mandates_expiry_cuts_an_upload() {
    let rig = Rig::start().await;
    let clock = Clock::manual(now());
    let bus: Arc<dyn Bus> = Arc::clone(&rig.bus) as _;
    // The clock runs ahead of what the relay says.
    let settings = [("REVOCATION_FRESHNESS", "600s")];
    let gateway = Gateway::start_at(clock.clone(), bus, &rig.sts.url(), &settings).await;
    wait_for_status(gateway.addresses.admin, "/ready", StatusCode::OK).await;
    let (upstream, mut seen) = listening(Speaks::Http1).await;
    let release = Arc::new(Notify::new());
    rig.sts.grant(Grant::Held(
        Arc::clone(&release),
        mandate_upstream(upstream.url()),
    ));
    let mut raw = Raw::connect(gateway.addresses.main).await;
    let mandate = one_shot().issued(clock.unix_seconds(), 40);
    raw.write(upload(&rig.sts.sign(mandate))).await;
    wait_until(SOON, async || rig.sts.exchanges().len() == 1).await;
    // While the STS thinks, all but the last seconds of the mandate pass.
    clock.advance(Duration::from_secs(38));
    release.notify_one();
    assert_eq!(next(&mut seen).await, Some(5));
    assert_eq!(next(&mut seen).await, None, "the upstream is let go");
    let text = raw.until("credential expired").await;
    assert!(text.starts_with("HTTP/1.1 401 "), "{text}");
}

#[tokio::test]
async fn a_session_revoked_while_the_upstream_thinks_gets_its_refusal_at_once() {
    let rig = Rig::start().await;
    rig.upstream.set(Behaviour::Held);
    let mut raw = Raw::connect(rig.gateway.addresses.main).await;
    raw.write(format!(
        "GET / HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\nx-caracal-resource: {RESOURCE}\r\n\r\n",
        rig.sts.sign(one_shot().bound_to("session-1", "edge-1"))
    ))
    .await;
    wait_until(SOON, async || rig.upstream.requests().len() == 1).await;
    revoke(&rig).await;
    // The upstream never answers.
    let text = raw.until("session revoked").await;
    assert!(text.starts_with("HTTP/1.1 401 "), "{text}");
}
