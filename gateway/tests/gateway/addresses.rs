//! An upstream with several addresses: requests take turns, and an address that fails is left alone.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use caracal_testing::{LiveBody, LiveUpstream, Speaks, wait_until};
use http::Response;
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::egress::lying_dns;
use crate::rig::{METRICS, Rig, SOON, mandate_upstream};
use crate::sts::Grant;

const FIRST: Ipv4Addr = Ipv4Addr::LOCALHOST;
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// What `both.test` leads to.
const BOTH: &[&[[u8; 4]]] = &[&[FIRST.octets(), OTHER.octets()]];

/// Counts requests and answers 200.
async fn counting(address: SocketAddr) -> (LiveUpstream, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let upstream = LiveUpstream::start_at(address, Speaks::Http1, move |_request| {
        counter.fetch_add(1, Ordering::SeqCst);
        async { Response::new(ok()) }
    })
    .await;
    (upstream, count)
}

fn ok() -> LiveBody {
    Full::new(Bytes::from_static(b"ok"))
        .map_err(|never| match never {})
        .boxed()
}

async fn rig(port: u16, settings: &[(&str, &str)]) -> Rig {
    let (dns, _asked) = lying_dns(BOTH).await;
    let mut all = vec![("GATEWAY_DNS_SERVER", dns.as_str()), METRICS];
    all.extend(settings);
    let rig = Rig::with(&all).await;
    rig.sts.grant(Grant::Upstream(mandate_upstream(format!(
        "http://both.test:{port}"
    ))));
    rig
}

fn seen(count: &AtomicUsize) -> usize {
    count.swap(0, Ordering::SeqCst)
}

#[tokio::test]
async fn requests_take_turns() {
    let (first, on_first) = counting((FIRST, 0).into()).await;
    let port = first.address().port();
    let (_other, on_other) = counting((OTHER, port).into()).await;
    let rig = rig(port, &[]).await;
    for _request in 0..6 {
        assert_eq!(rig.send(rig.get("/")).await.status, 200);
    }
    assert_eq!((seen(&on_first), seen(&on_other)), (3, 3));
}

#[tokio::test]
async fn an_address_nobody_listens_at_costs_no_request_and_is_left_alone_soon() {
    let (first, on_first) = counting((FIRST, 0).into()).await;
    let rig = rig(
        first.address().port(),
        &[("UPSTREAM_EJECT_AFTER", "2"), ("UPSTREAM_EJECT_TIME", "60s")],
    )
    .await;
    for _request in 0..6 {
        let posted = rig.request("POST", "/", &rig.sts.mandate());
        assert_eq!(
            rig.send_with(posted, "body").await.status,
            200,
            "nothing was sent in vain"
        );
    }
    assert_eq!(seen(&on_first), 6);
    assert_eq!(rig.metric("upstream_retries").await, 2, "two of six came to it");
    assert_eq!(rig.metric("upstream_addresses_ejected").await, 1);
    assert_eq!(rig.metric("upstream_ejections").await, 1);
    assert_eq!(
        rig.sts.exchanges().len(),
        6,
        "authority is asked for once for each call"
    );
}

/// Takes connections at `address` and ends each before it answers.
async fn breaking_off(address: SocketAddr) -> tokio::task::JoinHandle<()> {
    let breaking = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _peer) = breaking.accept().await.unwrap();
            let _request = stream.read(&mut [0; 8_192]).await;
        }
    })
}

async fn post(rig: &Rig) -> u16 {
    let posted = rig.request("POST", "/", &rig.sts.mandate());
    rig.send_with(posted, "body").await.status
}

#[tokio::test]
async fn an_address_that_breaks_off_fails_one_request_and_is_left_alone() {
    let (first, on_first) = counting((FIRST, 0).into()).await;
    let port = first.address().port();
    let broken = breaking_off((OTHER, port).into()).await;
    let rig = rig(
        port,
        &[
            ("UPSTREAM_EJECT_AFTER", "1"),
            ("UPSTREAM_EJECT_TIME", "1h"),
            ("UPSTREAM_EJECT_TIME_MAX", "1h"),
        ],
    )
    .await;
    let mut failed = 0;
    for _request in 0..8 {
        failed += usize::from(post(&rig).await == 502);
    }
    assert_eq!((failed, seen(&on_first)), (1, 7));
    broken.abort();
}

#[tokio::test]
async fn an_address_that_was_left_alone_is_tried_again_later() {
    let (first, _on_first) = counting((FIRST, 0).into()).await;
    let port = first.address().port();
    let broken = breaking_off((OTHER, port).into()).await;
    let rig = rig(
        port,
        &[("UPSTREAM_EJECT_AFTER", "1"), ("UPSTREAM_EJECT_TIME", "1s")],
    )
    .await;
    wait_until(SOON, async || {
        post(&rig).await;
        rig.metric("upstream_ejections").await > 0
    })
    .await;
    broken.abort();
    assert!(broken.await.unwrap_err().is_cancelled());
    let (_other, on_other) = counting((OTHER, port).into()).await;
    wait_until(SOON, async || {
        post(&rig).await;
        seen(&on_other) > 0
    })
    .await;
    wait_until(SOON, async || rig.metric("upstream_addresses_ejected").await == 0).await;
}

/// Speaks HTTP/2 at `address`: answers the first request, holds the next `held`, and then ends the connection with a `GOAWAY` of this
/// code that says it has not begun with them (RFC 9113 section 6.8).
async fn going_away(address: SocketAddr, held: usize, code: u8) -> tokio::task::JoinHandle<()> {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const SETTINGS_ACK: [u8; 9] = [0, 0, 0, 4, 1, 0, 0, 0, 0];
    /// `:status: 200` on stream 1, and its end.
    const ANSWER: [u8; 10] = [0, 0, 1, 1, 5, 0, 0, 0, 1, 0x88];
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        let (mut stream, _peer) = listener.accept().await.unwrap();
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.unwrap();
        stream.write_all(&SETTINGS).await.unwrap();
        let mut requests = 0;
        while requests <= held {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.unwrap();
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            stream.read_exact(&mut vec![0; length]).await.unwrap();
            let (kind, flags) = (head[3], head[4]);
            if kind == 4 && flags == 0 {
                stream.write_all(&SETTINGS_ACK).await.unwrap();
            }
            if kind == 1 {
                requests += 1;
                if requests == 1 {
                    stream.write_all(&ANSWER).await.unwrap();
                }
            }
        }
        // After stream 1, for this reason.
        let goodbye = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, code];
        stream.write_all(&goodbye).await.unwrap();
        let _until_closed = stream.read_to_end(&mut Vec::new()).await;
    })
}

#[tokio::test]
async fn a_connection_that_ends_with_many_requests_on_it_is_at_most_one_failure() {
    const HELD: usize = 6;
    const NO_ERROR: u8 = 0;
    const ENHANCE_YOUR_CALM: u8 = 11;
    for code in [NO_ERROR, ENHANCE_YOUR_CALM] {
        let first = LiveUpstream::start_at((FIRST, 0).into(), Speaks::H2c, |_request| async {
            Response::new(ok())
        })
        .await;
        let port = first.address().port();
        let other = going_away((OTHER, port).into(), HELD, code).await;
        let settings = [
            ("UPSTREAM_H2C_HOSTS", "both.test"),
            ("UPSTREAM_EJECT_AFTER", "2"),
            ("UPSTREAM_EJECT_TIME", "60s"),
        ];
        let rig = rig(port, &settings).await;
        // One connection to each, which further requests share.
        for _request in 0..2 {
            assert_eq!(post(&rig).await, 200);
        }
        let statuses = futures_util::future::join_all((0..2 * HELD).map(|_request| post(&rig))).await;
        let failed = statuses.iter().filter(|status| **status == 502).count();
        assert_eq!(failed, HELD, "what was sent is not sent again: {statuses:?}");
        assert_eq!(rig.metric("upstream_ejections").await, 0, "code {code}");
        other.await.unwrap();
    }
}
