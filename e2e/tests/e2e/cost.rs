//! What a governed call costs in steady state: no SQL, one entry in Redis, one exchange. The round trips of one call are counted where nothing
//! else sends any: in the tests of the gateway and of the STS.

use caracal_testing::{Stack, StackOptions};
use redis::AsyncCommands;
use serde_json::Value;

use crate::world::World;

const CALLS: i64 = 100;

/// One reading of everything that is counted.
#[derive(Debug, Clone, Copy)]
struct Reading {
    /// Resource mandates the STS has minted: one for each exchange of the gateway.
    exchanges: i64,
    /// Statements the STS has sent, those of its outbox relay included.
    statements: i64,
    /// Burned mandates, counted in Redis and not by us.
    burned: i64,
}

impl Reading {
    async fn take(world: &World) -> Self {
        let stack: &Stack = &world.stack;
        let sts = &stack.metrics(&stack.sts[0]).await["sts"];
        let mut connection = stack.redis.as_ref().unwrap().connection().await;
        let burned: Vec<String> = connection.keys("seen:jti:*").await.unwrap();
        Self {
            exchanges: labelled(&sts["mandates"], "use", "resource"),
            statements: sts["database_statements"]
                .as_i64()
                .unwrap_or_else(|| panic!("no statements in {sts}")),
            burned: i64::try_from(burned.len()).unwrap(),
        }
    }

    fn since(self, before: Self) -> Self {
        Self {
            exchanges: self.exchanges - before.exchanges,
            statements: self.statements - before.statements,
            burned: self.burned - before.burned,
        }
    }
}

/// The value of a metric's series that has this label.
pub(crate) fn labelled(family: &Value, label: &str, wanted: &str) -> i64 {
    let rows = family.as_array().cloned().unwrap_or_default();
    rows.iter()
        .find(|row| row["labels"][label] == wanted)
        .and_then(|row| row["value"].as_i64())
        .unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_governed_call_costs_no_sql_one_entry_in_redis_and_one_exchange() {
    let world = World::start(StackOptions::default()).await;
    let agent = world.agent().await;
    assert_eq!(
        world
            .call()
            .mandate(&world.one_shot(&agent).await)
            .send("/warm")
            .await
            .status,
        200
    );

    let before = Reading::take(&world).await;
    let began = tokio::time::Instant::now();
    for _ in 0..CALLS {
        assert_eq!(
            world
                .call()
                .mandate(&world.one_shot(&agent).await)
                .send("/")
                .await
                .status,
            200
        );
    }
    let busy = Reading::take(&world).await.since(before);
    let took = began.elapsed();
    // What the background sends in the same time, which has nothing to do with calls.
    let before = Reading::take(&world).await;
    tokio::time::sleep(took).await;
    let idle = Reading::take(&world).await.since(before);

    assert_eq!(busy.exchanges, CALLS, "one exchange for each call");
    assert_eq!(busy.burned, CALLS, "one mandate burned for each call");
    // One statement for each call, on either leg, would show as CALLS more than the background's.
    let background = CALLS / 2;
    assert!(
        (busy.statements - idle.statements).abs() < background,
        "no SQL for mint and exchange: {busy:?}, idle {idle:?}"
    );
}
