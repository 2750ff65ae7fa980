//! Exchanges go by channels while there are any, and go on without a failed call when there are none.

use caracal_testing::{StackOptions, wait_for, wait_until};

use crate::world::{SOON, World};

/// How many answers of the token service came on channels.
async fn by_channel(world: &World) -> i64 {
    let metrics = world.stack.metrics(&world.stack.gateways[0]).await;
    metrics["sts_answers_by_channel"].as_i64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_is_used_when_it_is_open_and_not_missed_when_it_is_not() {
    let options = StackOptions {
        faults: true,
        ..StackOptions::default()
    };
    let world = World::start(options).await;
    let agent = world.agent().await;
    let call = async || {
        let mandate = world.one_shot(&agent).await;
        let answer = world.call().mandate(&mandate).send("/").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    };
    wait_until(SOON, async || {
        call().await;
        by_channel(&world).await > 0
    })
    .await;

    // Connections are cut, as a load balancer does that ends: what is underway is asked once more by HTTP.
    for _ in 0..3 {
        let before = by_channel(&world).await;
        world.stack.faults.as_ref().unwrap().sts.cut();
        wait_until(2 * SOON, async || {
            call().await;
            by_channel(&world).await > before
        })
        .await;
    }

    // A refusal comes the same way, with the token service's words.
    let before = by_channel(&world).await;
    let refused = wait_for(SOON, async || {
        let mandate = world.one_shot(&agent).await;
        let answer = world
            .call()
            .mandate(&mandate)
            .header("X-Caracal-Resource", "resource://unknown")
            .send("/")
            .await;
        (by_channel(&world).await > before).then_some(answer)
    })
    .await;
    assert_ne!(refused.status, 200);
    world.assert_chain_verifies().await;
}
