//! When Redis, PostgreSQL or the STS is away: refuse with 503 and say so, and recover without a restart.

use caracal_testing::{Answer, StackOptions, wait_for, wait_until};

use crate::world::{Agent, SOON, World};

async fn attempt(world: &World, agent: &Agent) -> Answer {
    let fields = [
        ("resource", crate::world::RESOURCE),
        ("scope", crate::world::READ),
        ("agent_session_id", agent.session.as_str()),
        ("delegation_edge_id", agent.delegation.as_str()),
    ];
    let minted = world.tokens.exchange(&fields).await;
    if minted.status != 200 {
        return minted;
    }
    world
        .call()
        .mandate(&minted.text_of("access_token"))
        .send("/")
        .await
}

async fn until_recovered(world: &World, agent: &Agent) {
    wait_until(SOON, async || attempt(world, agent).await.status == 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_store_and_the_sts_may_go_away_and_come_back() {
    let options = StackOptions {
        faults: true,
        ..StackOptions::default()
    };
    // Fresh for long enough that a slow machine makes its calls within it; and what the audit service could not store in
    // that time must come again before the wait at the end is over.
    let options = options
        .set("REVOCATION_FRESHNESS", "15s")
        .set("AUDIT_CLAIM_IDLE_SECS", "5");
    let world = World::start(options).await;
    let agent = world.agent().await;
    assert_eq!(attempt(&world, &agent).await.status, 200);
    let faults = world.stack.faults.as_ref().unwrap();

    // Redis: whether a mandate was used before cannot be decided.
    let mandate = world.one_shot(&agent).await;
    let redis = faults.redis.as_ref().unwrap();
    redis.refuse();
    redis.cut();
    let refused = world.call().mandate(&mandate).send("/").await;
    assert_eq!(
        (refused.status, refused.text_of("error").as_str()),
        (503, "sts_unavailable"),
        "without Redis: {}",
        refused.text()
    );
    assert!(
        refused.headers.contains_key("retry-after"),
        "503 says when to try again"
    );
    assert!(
        world.upstream.take_requests().len() == 1,
        "only the call from before reached the upstream"
    );
    redis.resume();
    until_recovered(&world, &agent).await;

    // PostgreSQL: traffic goes on from memory until freshness can no longer be proved, then 503.
    faults.postgres.refuse();
    faults.postgres.cut();
    for _ in 0..3 {
        let answer = attempt(&world, &agent).await;
        assert_eq!(answer.status, 200, "from memory: {}", answer.text());
    }
    let stale = wait_for(2 * SOON, async || {
        let answer = attempt(&world, &agent).await;
        (answer.status == 503).then_some(answer)
    })
    .await;
    assert_eq!(stale.text_of("error"), "sts_unavailable", "{}", stale.text());
    faults.postgres.resume();
    until_recovered(&world, &agent).await;

    // The STS: nothing is forwarded, and after three failures the breaker answers without trying.
    let mandate = world.one_shot(&agent).await;
    faults.sts.refuse();
    faults.sts.cut();
    let refused = world.call().mandate(&mandate).send("/").await;
    assert_eq!(
        (refused.status, refused.text_of("error").as_str()),
        (502, "sts_unavailable"),
        "without the STS: {}",
        refused.text()
    );
    let mandates = [
        world.one_shot(&agent).await,
        world.one_shot(&agent).await,
        world.one_shot(&agent).await,
    ];
    let mut statuses = Vec::new();
    let mut last = refused;
    for mandate in &mandates {
        last = world.call().mandate(mandate).send("/").await;
        statuses.push(last.status);
    }
    assert_eq!(statuses, [502, 502, 503], "three failures open the breaker");
    assert!(
        last.headers.contains_key("retry-after"),
        "503 says when to try again"
    );
    faults.sts.resume();
    until_recovered(&world, &agent).await;
    world.until_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn governed_calls_go_on_without_coordinator_control_and_audit() {
    let mut world = World::start(StackOptions::default()).await;
    let agent = world.agent().await;
    world.stack.coordinator.kill9();
    world.stack.control.kill9();
    world.stack.audit.kill9();
    // Longer than the freshness bound: the STS alone keeps the proof of freshness alive.
    for _ in 0..14 {
        let answer = attempt(&world, &agent).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    world.stack.audit.restart().await;
    world.until_settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn init_makes_the_nine_groups_once_and_can_be_repeated() {
    let world = World::start(StackOptions::default()).await;
    let redis = world.stack.redis.as_ref().unwrap();
    let mut again = caracal_testing::ProcessSpec::caracal("init-again", &["init"]);
    again
        .environment
        .insert("DATABASE_URL".to_owned(), world.stack.database.url());
    again
        .environment
        .insert("REDIS_URL".to_owned(), redis.url().to_owned());
    tokio::join!(
        caracal_testing::Process::run_to_end(again.clone()),
        caracal_testing::Process::run_to_end(again),
    );
    let mut connection = redis.connection().await;
    for (stream, group) in caracal_wire::stream::PROVISIONED_GROUPS {
        let groups: redis::Value = redis::cmd("XINFO")
            .arg("GROUPS")
            .arg(stream)
            .query_async(&mut connection)
            .await
            .unwrap();
        let shown = format!("{groups:?}");
        assert_eq!(
            shown.matches(&format!("'{group}'")).count() + shown.matches(&format!("\"{group}\"")).count(),
            1,
            "{stream} {group}: {shown}"
        );
    }
}
