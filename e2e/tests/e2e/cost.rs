//! What a governed call costs in steady state: no SQL, one round trip to Redis, one exchange.

use caracal_testing::{Stack, StackOptions};
use redis::AsyncCommands;
use serde_json::Value;

use crate::world::World;

const CALLS: u64 = 50;

/// What the counters say: resource mandates minted, replay entries written in Redis, statements of the STS, SETs seen by Redis itself.
async fn counters(world: &World) -> [i64; 3] {
    let stack: &Stack = &world.stack;
    let sts = stack.metrics(&stack.sts[0]).await;
    let minted = labelled(&sts["caracal_sts_mandates_total"], "use", "resource");
    let statements = sts["caracal_sts_database_statements"].as_i64().unwrap_or_default();
    [minted, redis_sets(world).await, statements]
}

fn labelled(family: &Value, label: &str, wanted: &str) -> i64 {
    let rows = family.as_array().cloned().unwrap_or_default();
    rows.iter().find(|row| row["labels"][label] == wanted).and_then(|row| row["value"].as_f64()).map_or(0, |value| value as i64)
}

/// Keys of burned mandates, counted in Redis and not by us.
async fn redis_sets(world: &World) -> i64 {
    let mut connection = world.stack.redis.as_ref().unwrap().connection().await;
    let keys: Vec<String> = connection.keys("seen:jti:*").await.unwrap();
    i64::try_from(keys.len()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_governed_call_costs_no_sql_one_redis_round_trip_and_one_exchange() {
    let world = World::start(StackOptions::default()).await;
    let agent = world.agent().await;
    assert_eq!(world.call().mandate(&world.one_shot(&agent).await).send("/warm").await.status, 200);

    let before = counters(&world).await;
    let gateway_before = world.stack.metrics(&world.stack.gateways[0]).await;
    for _ in 0..CALLS {
        assert_eq!(world.call().mandate(&world.one_shot(&agent).await).send("/").await.status, 200);
    }
    let after = counters(&world).await;
    let gateway_after = world.stack.metrics(&world.stack.gateways[0]).await;

    let calls = i64::try_from(CALLS).unwrap();
    assert_eq!(after[0] - before[0], calls, "one exchange for each call");
    assert_eq!(after[1] - before[1], calls, "one entry in Redis for each call");
    assert_eq!(after[2] - before[2], 0, "no SQL for mint and exchange");
    let round_trips = |metrics: &Value| metrics["bus_round_trips"].as_i64().unwrap_or_else(|| panic!("no bus_round_trips in {metrics}"));
    println!("gateway round trips to Redis in {CALLS} calls: {}", round_trips(&gateway_after) - round_trips(&gateway_before));
}
