//! A gateway process replaced by another one: whoever calls notices nothing, and what is open stays open.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use caracal_testing::{Behaviour, OpenStream, Service, StackOptions, wait_until};
use futures_util::future::join_all;

use crate::world::{RESOURCE, SOON, World};

/// Clients that call all the time.
const CALLERS: usize = 4;
/// Calls that must pass at each step.
const CALLS: usize = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_is_replaced_under_load_without_a_failed_call_or_a_cut_stream() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("upgrade.sock");
    let options = StackOptions::default()
        .set_for(Service::Gateway, "UPGRADE_SOCKET", socket.to_str().unwrap())
        .set_for(Service::Gateway, "STREAM_IDLE_TIMEOUT", "10m");
    let mut world = World::start(options).await;
    world.bind().await;
    let mandate = world.reusable().await;

    world.upstream.set(Behaviour::SseOnRelease);
    let bearer = format!("Bearer {mandate}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("x-caracal-resource", RESOURCE),
    ];
    let mut stream = OpenStream::events(world.stack.gateway_url(), "/events", &headers).await;
    world.upstream.set(Behaviour::Echo);

    let (stop, passed) = (AtomicBool::new(false), AtomicUsize::new(0));
    let call = async || {
        while !stop.load(Ordering::SeqCst) {
            let answer = world.call().mandate(&mandate).send("/").await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            passed.fetch_add(1, Ordering::SeqCst);
        }
    };
    let more = async || {
        let goal = passed.load(Ordering::SeqCst) + CALLS;
        wait_until(3 * SOON, async || passed.load(Ordering::SeqCst) >= goal).await;
    };
    let replace = async || {
        more().await;
        let old = &world.stack.gateways[0];
        let mut new = old.another();
        old.logged("a new process serves").await;
        new.ready().await;
        more().await;
        stop.store(true, Ordering::SeqCst);
        new
    };
    let (new, _calls) = tokio::join!(replace(), join_all((0..CALLERS).map(|_caller| call())));

    // The old process serves its stream to the end, and ends with it.
    world.upstream.release();
    stream.until("id: 2\n").await;
    drop(stream);
    let mut old = std::mem::replace(&mut world.stack.gateways[0], new);
    assert!(old.ended(SOON).await.success());
    let answer = world
        .call()
        .mandate(&mandate)
        .request_id("req-after")
        .send("/")
        .await;
    assert_eq!(answer.status, 200);
    world.evidence("req-after", 2).await;
    world.assert_chain_verifies().await;
}
