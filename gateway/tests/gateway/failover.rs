//! The shared table of uses fails over to a copy that has not heard of the last uses: no mandate passes twice.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use caracal_bus::{Bus, RedisBus};
use caracal_testing::{Behaviour, FaultProxy, RedisServer, Upstream as Service, wait_until};
use futures_util::future::{join, join_all};
use http::{Request, StatusCode};
use http_body_util::Full;

use crate::client::{send, wait_for_status};
use crate::rig::{Gateway, RESOURCE, Relay, SOON, mandate_upstream};
use crate::sts::FakeSts;

/// Uses that the copy never hears of.
const LOST: usize = 40;
/// Clients that go on calling while the primary dies.
const CALLERS: usize = 4;

async fn call(gateway: &Gateway, mandate: &str, target: &str) -> u16 {
    let request = Request::get(target)
        .header("host", "x")
        .header("authorization", format!("Bearer {mandate}"))
        .header("x-caracal-resource", RESOURCE);
    let answer = send(gateway.addresses.main, request.body(Full::default()).unwrap()).await;
    answer.status
}

/// Presents one mandate after the other to both gateways at once, until it is told to stop.
async fn call_on(gateways: &[Gateway; 2], sts: &FakeSts, caller: usize, stop: &AtomicBool) -> Vec<String> {
    let mut mandates = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let mandate = sts.mandate();
        let target = format!("/{caller}/{}", mandates.len());
        let uses = join(
            call(&gateways[0], &mandate, &target),
            call(&gateways[1], &mandate, &target),
        );
        let (one, other) = uses.await;
        assert!((one, other) != (200, 200), "{target} passed twice");
        mandates.push(mandate);
    }
    mandates
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_mandate_passes_twice_when_redis_fails_over_and_forgets() {
    let mut primary = RedisServer::start().await;
    let copy = RedisServer::start().await;
    let copying = FaultProxy::start(primary.address().to_string()).await;
    let address = FaultProxy::start(primary.address().to_string()).await;
    let bus: Arc<dyn Bus> = Arc::new(RedisBus::connect(&format!("redis://{}/0", address.address())).unwrap());
    let upstream = Service::start(Behaviour::Echo).await;
    let sts = FakeSts::start(mandate_upstream(upstream.url())).await;
    let _relay = Relay::start(Arc::clone(&bus));
    let gateways = [
        Gateway::start(Arc::clone(&bus), &sts.url(), &[]).await,
        Gateway::start(Arc::clone(&bus), &sts.url(), &[]).await,
    ];
    for gateway in &gateways {
        wait_for_status(gateway.addresses.admin, "/ready", StatusCode::OK).await;
    }
    copy.follow(copying.address()).await;
    let stop = AtomicBool::new(false);
    let callers = join_all((0..CALLERS).map(|caller| call_on(&gateways, &sts, caller, &stop)));

    let fail_over = async {
        // From here on the copy hears of nothing.
        copying.pause();
        let mut lost = Vec::new();
        for index in 0..LOST {
            let mandate = sts.mandate();
            assert_eq!(call(&gateways[0], &mandate, &format!("/lost/{index}")).await, 200);
            lost.push(mandate);
        }
        primary.kill9();
        copy.promote().await;
        address.lead_to(copy.address().to_string());
        for (index, mandate) in lost.iter().enumerate() {
            let again = call(&gateways[1], mandate, &format!("/lost/{index}")).await;
            assert_ne!(again, 200, "use {index}, which the copy knows nothing of");
        }
        wait_until(SOON, async || {
            call(&gateways[1], &sts.mandate(), "/fresh").await == 200
        })
        .await;
        // Also once the copy decides, it does not about what it may have missed.
        for (index, mandate) in lost.iter().enumerate() {
            let again = call(&gateways[1], mandate, &format!("/lost/{index}")).await;
            assert_ne!(again, 200, "use {index}, which the copy knows nothing of");
        }
        stop.store(true, Ordering::SeqCst);
    };
    let (called, ()) = tokio::join!(callers, fail_over);
    for (caller, mandates) in called.iter().enumerate() {
        for (index, mandate) in mandates.iter().enumerate() {
            for gateway in &gateways {
                let target = format!("/{caller}/{index}");
                assert_ne!(
                    call(gateway, mandate, &target).await,
                    200,
                    "{target} passed once more"
                );
            }
        }
    }
    let mut heard: HashMap<String, usize> = HashMap::new();
    for request in upstream.take_requests() {
        *heard.entry(request.target).or_default() += 1;
    }
    heard.remove("/fresh");
    let twice: Vec<_> = heard.iter().filter(|(_target, count)| **count > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    assert!(heard.len() > LOST, "others passed as well");
}
