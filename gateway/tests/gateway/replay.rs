//! A one-shot mandate passes once, on whichever gateway it is tried.

use std::sync::Arc;

use caracal_bus::{Bus, MemoryBus, RedisBus};
use caracal_testing::{TestRedis, wait_until};
use futures_util::future::join_all;
use http::StatusCode;
use http_body_util::Full;

use crate::client::{send, wait_for_status};
use crate::rig::{Gateway, Rig, SOON, now};
use crate::sts::{one_shot, reusable};

const REPLAYED: (u16, &str, &str) = (401, "invalid_token", "token replay detected");

#[tokio::test]
async fn of_a_hundred_concurrent_uses_one_passes() {
    let rig = Rig::start().await;
    let mandate = rig.sts.mandate();
    let answers = join_all((0..100).map(|_use| rig.send(rig.request("GET", "/", &mandate)))).await;
    let passed = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(passed, 1);
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        let (status, code, description) = answer.refusal();
        assert_eq!((status, code.as_str(), description.as_str()), REPLAYED);
    }
    assert_eq!(rig.upstream.requests().len(), 1, "one request was forwarded");
    assert_eq!(
        rig.sts.exchanges().len(),
        1,
        "a replay that comes back to the same gateway costs no exchange"
    );
}

#[tokio::test]
async fn a_replay_is_recorded_as_an_anomaly() {
    let rig = Rig::start().await;
    let mandate = rig
        .sts
        .sign(one_shot().with(|claims| claims.jti = "jti-1".parse().unwrap()));
    assert_eq!(rig.send(rig.request("GET", "/", &mandate)).await.status, 200);
    let answer = rig
        .send(
            rig.request("GET", "/", &mandate)
                .header("x-request-id", "req-again"),
        )
        .await;
    assert_eq!(answer.refusal().2, REPLAYED.2);
    let event = rig.event("req-again", "replay_detected", "anomaly").await;
    assert_eq!(event["decision"], "deny");
    let metadata = &event["metadata_json"];
    assert_eq!(metadata["jti"], "jti-1");
    assert_eq!(metadata["client_id"], "app-1");
    assert_eq!(metadata["request_id"], "req-again");
    assert_eq!(metadata["subject_fp"], caracal_token::fingerprint(&mandate));
}

#[tokio::test]
async fn two_gateways_that_share_a_redis_share_the_table() {
    let redis = TestRedis::new().await;
    let bus: Arc<dyn Bus> = Arc::new(RedisBus::connect(redis.url()).unwrap());
    let rig = Rig::on(bus, &[]).await;
    let other_bus: Arc<dyn Bus> = Arc::new(RedisBus::connect(redis.url()).unwrap());
    let other = Gateway::start(other_bus, &rig.sts.url(), &[]).await;
    wait_for_status(other.addresses.admin, "/ready", StatusCode::OK).await;
    let gateways = [rig.gateway.addresses.main, other.addresses.main];
    for _round in 0..5 {
        let mandate = rig.sts.mandate();
        let uses = (0..20).map(|attempt| {
            let request = rig.request("GET", "/", &mandate).body(Full::default()).unwrap();
            send(gateways[attempt % 2], request)
        });
        let answers = join_all(uses).await;
        let passed = answers.iter().filter(|answer| answer.status == 200).count();
        assert_eq!(passed, 1, "exactly one use of a mandate passes");
    }
    assert_eq!(rig.upstream.requests().len(), 5);
}

#[tokio::test]
async fn a_mandate_stays_burned_when_the_exchange_fails() {
    let rig = Rig::start().await;
    let mandate = rig.sts.mandate();
    rig.sts.grant(crate::sts::Grant::Raw(
        503,
        "application/json",
        r#"{"error":"access_denied"}"#.into(),
    ));
    assert_eq!(rig.send(rig.request("GET", "/", &mandate)).await.status, 503);
    rig.sts
        .grant(crate::sts::Grant::Upstream(crate::rig::mandate_upstream(
            rig.upstream.url(),
        )));
    assert_eq!(
        rig.send(rig.request("GET", "/", &mandate)).await.refusal().2,
        REPLAYED.2
    );
}

#[tokio::test]
async fn a_use_is_remembered_longer_than_the_mandate_is_accepted_by_any_clock_within_a_minute() {
    const LEEWAY_MS: i64 = 60_000;
    const CLOCK_AHEAD_MS: i64 = 60_000;
    let rig = Rig::start().await;
    let mandate = rig.sts.mandate();
    assert_eq!(rig.send(rig.request("GET", "/", &mandate)).await.status, 200);
    let token = caracal_token::UnverifiedToken::parse(&mandate).unwrap();
    let expires_ms = token.unverified_claims().exp * 1_000;
    let kept_until = rig.bus.claimed_until.load(std::sync::atomic::Ordering::SeqCst);
    assert!(
        kept_until >= expires_ms + LEEWAY_MS + CLOCK_AHEAD_MS,
        "{kept_until}"
    );
}

#[tokio::test]
async fn a_reusable_mandate_passes_again_and_again_without_a_claim() {
    let rig = Rig::start().await;
    let mandate = rig.sts.sign(reusable());
    for _use in 0..5 {
        assert_eq!(rig.send(rig.request("GET", "/", &mandate)).await.status, 200);
    }
    assert_eq!(rig.bus.claims.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_gateway_alone_refuses_mandates_from_before_its_table_began() {
    let before = now();
    let rig = Rig::on(Arc::new(MemoryBus::new()), &[("REDIS_URL", "memory:")]).await;
    let old = rig.sts.sign(one_shot().issued(before - 10, 900));
    assert_eq!(
        rig.send(rig.request("GET", "/", &old)).await.refusal().2,
        REPLAYED.2
    );
    assert_eq!(
        rig.send(rig.get("/")).await.status,
        200,
        "ready means that fresh mandates pass"
    );
    let reusable = rig.sts.sign(reusable().issued(before - 10, 900));
    assert_eq!(rig.send(rig.request("GET", "/", &reusable)).await.status, 200);
}

#[tokio::test]
async fn without_the_shared_table_nothing_is_forwarded() {
    let rig = Rig::start().await;
    rig.bus
        .claims_fail
        .store(true, std::sync::atomic::Ordering::SeqCst);
    let answer = rig.send(rig.get("/")).await;
    assert_eq!(
        answer.refusal(),
        (503, "sts_unavailable".into(), "replay state unavailable".into())
    );
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(rig.upstream.requests().is_empty());
    rig.bus
        .claims_fail
        .store(false, std::sync::atomic::Ordering::SeqCst);
    wait_until(SOON, async || rig.send(rig.get("/")).await.status == 200).await;
}
