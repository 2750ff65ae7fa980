//! What governed traffic sees while something is down, and afterwards.

use caracal_bus::{Bus, RedisBus};
use caracal_model::AnchorKind;
use caracal_testing::{FaultProxy, TestRedis, wait_until};
use caracal_wire::stream::SESSIONS_REVOKE;
use std::sync::Arc;

use crate::rig::{Rig, SOON, ZONE, mandate_upstream};
use crate::sts::{FakeSts, Grant, one_shot};

#[tokio::test]
async fn stale_revocations_refuse_and_recover() {
    let rig = Rig::with(&[("REVOCATION_FRESHNESS", "1s")]).await;
    rig.relay.silence();
    let stale = caracal_testing::wait_for(SOON, async || {
        let answer = rig.send(rig.get("/")).await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    assert_eq!(
        stale.refusal(),
        (
            503,
            "sts_unavailable".into(),
            "revocation state unavailable".into()
        )
    );
    let forwarded = rig.upstream.requests().len();
    let missing = http::Request::get("/").header("host", "x");
    assert_eq!(
        rig.send(missing).await.refusal().2,
        "revocation state unavailable",
        "it is the first check"
    );
    assert_eq!(rig.upstream.requests().len(), forwarded);
    let _relay = crate::rig::Relay::start(Arc::clone(&rig.bus) as Arc<dyn Bus>);
    wait_until(SOON, async || rig.send(rig.get("/")).await.status == 200).await;
}

#[tokio::test]
async fn a_silent_sts_times_out_then_is_left_alone_then_tried_again() {
    let rig = Rig::with(&[("STS_TIMEOUT", "200ms")]).await;
    assert_eq!(rig.send(rig.get("/")).await.status, 200);
    rig.sts.grant(Grant::Silence);
    for _failure in 0..3 {
        let answer = rig.send(rig.get("/")).await;
        assert_eq!(
            answer.refusal(),
            (504, "sts_unavailable".into(), "sts timeout".into())
        );
    }
    let exchanges = rig.sts.exchanges().len();
    let answer = rig.send(rig.get("/")).await;
    assert_eq!(
        answer.refusal(),
        (503, "sts_unavailable".into(), "sts unavailable".into())
    );
    assert_eq!(answer.header("retry-after"), Some("10"));
    assert_eq!(
        rig.sts.exchanges().len(),
        exchanges,
        "an open breaker asks nobody"
    );
    rig.sts
        .grant(Grant::Upstream(mandate_upstream(rig.upstream.url())));
    wait_until(SOON, async || rig.send(rig.get("/")).await.status == 200).await;
}

#[tokio::test]
async fn a_restarted_sts_is_found_again() {
    let rig = Rig::start().await;
    assert_eq!(rig.send(rig.get("/")).await.status, 200);
    let address = rig.sts.address;
    rig.sts.stop();
    let gone = caracal_testing::wait_for(SOON, async || {
        let answer = rig.send(rig.get("/")).await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    assert_eq!((gone.status, gone.refusal().1.as_str()), (502, "sts_unavailable"));
    let keys = rig.sts.keys();
    let again = caracal_testing::wait_for(SOON, async || {
        // The port is free once the old one has drained.
        tokio::net::TcpListener::bind(address).await.ok()
    })
    .await;
    drop(again);
    let sts = FakeSts::start_at(address, keys, mandate_upstream(rig.upstream.url())).await;
    wait_until(SOON, async || {
        let answer = rig.send(rig.request("GET", "/", &sts.mandate())).await;
        answer.status == 200
    })
    .await;
}

#[tokio::test]
async fn without_redis_nothing_passes_and_with_it_everything_does_again() {
    let redis = TestRedis::new().await;
    let proxy = FaultProxy::before(redis.url()).await;
    let bus: Arc<dyn Bus> = Arc::new(RedisBus::connect(&proxy.url_through(redis.url())).unwrap());
    let rig = Rig::on(bus, &[]).await;
    assert_eq!(rig.send(rig.get("/")).await.status, 200);
    let forwarded = rig.upstream.requests().len();
    proxy.refuse();
    let answer = rig.send(rig.get("/")).await;
    assert_eq!(answer.status, 503, "{:?}", answer.body);
    assert_eq!(rig.upstream.requests().len(), forwarded);
    proxy.resume();
    wait_until(SOON, async || rig.send(rig.get("/")).await.status == 200).await;
}

#[tokio::test]
async fn a_message_that_cannot_be_read_makes_the_snapshot_be_taken_again() {
    let rig = Rig::start().await;
    let call = || {
        let mandate = rig.sts.sign(one_shot().bound_to("session-1", "edge-1"));
        rig.request("GET", "/", &mandate)
    };
    rig.sts.revoke_in_snapshot(AnchorKind::Session, "session-1");
    assert_eq!(
        rig.send(call()).await.status,
        200,
        "nobody has announced the revocation"
    );
    let nothing_named = [("zone_id", ZONE), ("reason", "test")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    rig.publish(SESSIONS_REVOKE, nothing_named.into()).await;
    wait_until(SOON, async || rig.send(call()).await.status == 401).await;
}
