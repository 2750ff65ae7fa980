//! Several replicas of the STS behind one gateway: what goes to the next one, and what is not repeated.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use caracal_bus::{Bus, MemoryBus};
use caracal_model::AnchorKind;
use caracal_testing::{Behaviour, TestKeys, Upstream as Service, wait_for, wait_until};
use http::StatusCode;
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::client::{Answer, send, wait_for_status};
use crate::rig::{Gateway, RESOURCE, Relay, SOON, mandate_upstream};
use crate::sts::{FakeSts, Grant, one_shot};

/// A gateway that knows two replicas, which share their keys.
struct Pair {
    gateway: Gateway,
    replicas: [FakeSts; 2],
    upstream: Service,
    bus: Arc<dyn Bus>,
    relay: Relay,
}

impl Pair {
    async fn start(settings: &[(&str, &str)]) -> Self {
        let upstream = Service::start(Behaviour::Echo).await;
        let keys = Arc::new(TestKeys::new());
        let replica = async || {
            let any = "127.0.0.1:0".parse().unwrap();
            FakeSts::start_at(any, Arc::clone(&keys), mandate_upstream(upstream.url())).await
        };
        let replicas = [replica().await, replica().await];
        Self::of(replicas, upstream, settings).await
    }

    async fn of(replicas: [FakeSts; 2], upstream: Service, settings: &[(&str, &str)]) -> Self {
        let bus: Arc<dyn Bus> = Arc::new(MemoryBus::new());
        let relay = Relay::start(Arc::clone(&bus));
        let urls = format!("{}, {}", replicas[0].url(), replicas[1].url());
        let gateway = Gateway::start(Arc::clone(&bus), &urls, settings).await;
        wait_for_status(gateway.addresses.admin, "/ready", StatusCode::OK).await;
        Self {
            gateway,
            replicas,
            upstream,
            bus,
            relay,
        }
    }

    async fn call(&self) -> Answer {
        call(&self.gateway, &self.replicas[0].mandate()).await
    }

    fn exchanges(&self) -> [usize; 2] {
        [0, 1].map(|index| self.replicas[index].exchanges().len())
    }
}

async fn call(gateway: &Gateway, mandate: &str) -> Answer {
    let request = http::Request::get("/")
        .header("host", "gateway.test:8081")
        .header("authorization", format!("Bearer {mandate}"))
        .header("x-caracal-resource", RESOURCE);
    send(
        gateway.addresses.main,
        request.body(Full::new(Bytes::new())).unwrap(),
    )
    .await
}

/// Stops it and waits until its port refuses.
async fn stop(sts: &FakeSts) {
    sts.stop();
    wait_until(SOON, async || TcpStream::connect(sts.address).await.is_err()).await;
}

#[tokio::test]
async fn calls_are_shared_between_the_replicas() {
    let pair = Pair::start(&[]).await;
    for _call in 0..10 {
        assert_eq!(pair.call().await.status, 200);
    }
    assert_eq!(pair.exchanges(), [5, 5], "in turn");
}

#[tokio::test]
async fn a_replica_that_is_gone_fails_no_call_and_is_used_again_when_it_is_back() {
    let pair = Pair::start(&[]).await;
    for _call in 0..4 {
        assert_eq!(pair.call().await.status, 200);
    }
    stop(&pair.replicas[0]).await;
    let before = pair.exchanges();
    for _call in 0..20 {
        let answer = pair.call().await;
        assert_eq!(answer.status, 200, "the other one answers: {:?}", answer.body);
    }
    assert_eq!(
        pair.exchanges(),
        [before[0], before[1] + 20],
        "each was asked of the other one, once"
    );
    wait_for_status(pair.gateway.addresses.admin, "/ready", StatusCode::OK).await;

    let [gone, _other] = &pair.replicas;
    let back = FakeSts::start_at(gone.address, gone.keys(), mandate_upstream(pair.upstream.url())).await;
    wait_until(SOON, async || {
        let answer = pair.call().await;
        assert_eq!(
            answer.status, 200,
            "nor does its return fail one: {:?}",
            answer.body
        );
        !back.exchanges().is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_call_that_was_sent_is_not_repeated_at_the_other_replica() {
    let pair = Pair::start(&[("STS_TIMEOUT", "200ms")]).await;
    pair.replicas[0].grant(Grant::Silence);
    let mut statuses = Vec::new();
    for _call in 0..6 {
        statuses.push(pair.call().await.status);
    }
    assert_eq!(
        statuses.iter().filter(|status| **status == 504).count(),
        3,
        "its turns fail until it is left alone: {statuses:?}"
    );
    assert_eq!(pair.exchanges(), [3, 3], "each call was sent once");
    for _call in 0..4 {
        assert_eq!(pair.call().await.status, 200, "it is left alone, and only it");
    }
}

#[tokio::test]
async fn keys_and_revocations_come_from_the_replica_that_has_them() {
    let pair = Pair::start(&[]).await;
    let [gone, other] = &pair.replicas;
    stop(gone).await;
    // Another gateway starts now: without revocations it is not ready, without keys it forwards nothing.
    let urls = format!("{},{}", gone.url(), other.url());
    other.revoke_in_snapshot(AnchorKind::Session, "session-1");
    let late = Gateway::start(Arc::clone(&pair.bus), &urls, &[]).await;
    wait_for_status(late.addresses.admin, "/ready", StatusCode::OK).await;
    assert_eq!(call(&late, &other.mandate()).await.status, 200);
    let revoked = other.sign(one_shot().bound_to("session-1", "edge-1"));
    assert_eq!(call(&late, &revoked).await.status, 401);
    drop(pair.relay);
}

/// An STS that answers the first request of a connection and ends the connection at the second: what a process does that
/// dies of a request. Everything but exchanges it passes on to `inner`.
struct Fatal {
    address: std::net::SocketAddr,
    received: Arc<AtomicUsize>,
}

impl Fatal {
    async fn before(inner: &FakeSts) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let received = Arc::new(AtomicUsize::new(0));
        let (inner, count) = (inner.address, Arc::clone(&received));
        tokio::spawn(async move {
            while let Ok((client, _peer)) = listener.accept().await {
                tokio::spawn(Self::serve(client, inner, Arc::clone(&count)));
            }
        });
        Self { address, received }
    }

    async fn serve(mut client: TcpStream, inner: std::net::SocketAddr, count: Arc<AtomicUsize>) {
        let mut server = TcpStream::connect(inner).await.unwrap();
        let (mut from_client, mut from_server) = (vec![0; 65_536], vec![0; 65_536]);
        let mut exchanges = 0;
        loop {
            tokio::select! {
                read = client.read(&mut from_client) => {
                    let Ok(read @ 1..) = read else { return };
                    let is_exchange = from_client.starts_with(b"POST");
                    exchanges += usize::from(is_exchange);
                    count.fetch_add(usize::from(is_exchange), Ordering::SeqCst);
                    if exchanges > 1 || server.write_all(&from_client[..read]).await.is_err() {
                        return;
                    }
                }
                read = server.read(&mut from_server) => {
                    let Ok(read @ 1..) = read else { return };
                    if client.write_all(&from_server[..read]).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn a_call_that_ends_its_connection_is_sent_once_more_and_no_more() {
    let upstream = Service::start(Behaviour::Echo).await;
    let sts = FakeSts::start(mandate_upstream(upstream.url())).await;
    let doors = [Fatal::before(&sts).await, Fatal::before(&sts).await];
    let bus: Arc<dyn Bus> = Arc::new(MemoryBus::new());
    let _relay = Relay::start(Arc::clone(&bus));
    let urls = doors
        .each_ref()
        .map(|door| format!("http://{}", door.address))
        .join(",");
    let gateway = Gateway::start(bus, &urls, &[]).await;
    wait_for_status(gateway.addresses.admin, "/ready", StatusCode::OK).await;
    let sent = || {
        doors
            .iter()
            .map(|door| door.received.load(Ordering::SeqCst))
            .sum::<usize>()
    };
    // One kept connection to each, both of which will end at the next exchange.
    wait_for(SOON, async || {
        let _any = call(&gateway, &sts.mandate()).await;
        doors
            .iter()
            .all(|door| door.received.load(Ordering::SeqCst) > 0)
            .then_some(())
    })
    .await;
    let before = sent();
    let answer = call(&gateway, &sts.mandate()).await;
    assert_eq!(
        answer.status, 200,
        "sent again on a new connection: {:?}",
        answer.body
    );
    assert_eq!(sent(), before + 2, "once more, and that was all");
}

#[tokio::test]
async fn an_sts_behind_a_unix_socket_is_asked_for_everything_there() {
    let upstream = Service::start(Behaviour::Echo).await;
    let sts = FakeSts::start(mandate_upstream(upstream.url())).await;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("sts.sock");
    sts.listen_at(&socket);
    sts.declare(&[("GET", "/", "crm:read")]);
    let bus: Arc<dyn Bus> = Arc::new(MemoryBus::new());
    let _relay = Relay::start(Arc::clone(&bus));
    let url = format!("unix:{}", socket.display());
    let gateway = Gateway::start(bus, &url, &[]).await;
    wait_for_status(gateway.addresses.admin, "/ready", StatusCode::OK).await;
    let mandate = sts.sign(one_shot().scope("crm:read"));
    assert_eq!(call(&gateway, &mandate).await.status, 200);
    wait_until(SOON, async || sts.operation_questions() == 1).await;
    assert_eq!(
        (sts.exchanges().len(), sts.snapshot_requests(), sts.key_requests()),
        (1, 1, 1),
        "exchange, revocations and keys, each at the socket"
    );
}

#[tokio::test]
async fn the_sts_is_told_how_much_of_the_time_is_left() {
    let pair = Pair::start(&[("STS_TIMEOUT", "7s")]).await;
    assert_eq!(pair.call().await.status, 200);
    let told = pair.replicas.iter().flat_map(FakeSts::exchanges);
    let told: Vec<u64> = told.map(|exchange| exchange.timeout_ms).collect();
    assert!(
        matches!(told[..], [left] if left < 7_000),
        "the whole time is never left: {told:?}"
    );
}
