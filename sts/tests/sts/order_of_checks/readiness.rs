//! When the service says that it is not ready, and why. Each reason is reached by the failure it is for.

use caracal_chassis::Clock;
use caracal_testing::{FaultProxy, Role, TestDatabase, TestRedis, wait_until};
use http::StatusCode;
use serde_json::json;

use super::{DELEGATED, Stack};
use crate::stack::SOON;

/// Waits until the service gives `reason`, in the words of the contract.
async fn expect_reason(stack: &Stack, reason: &str) {
    wait_until(SOON, async || stack.get("/ready").await.body["reason"] == reason).await;
    let answer = stack.get("/ready").await;
    assert_eq!(
        (answer.status, answer.body),
        (
            StatusCode::SERVICE_UNAVAILABLE,
            json!({"ok": false, "ready": false, "reason": reason})
        )
    );
    let alive = stack.get("/health").await;
    assert_eq!((alive.status, alive.body), (StatusCode::OK, json!({"ok": true})));
}

#[tokio::test]
async fn without_its_database_or_its_bus_it_names_the_one_that_is_away() {
    let (database, redis) = (TestDatabase::new().await, TestRedis::new().await);
    let direct = database.url_as(Role::Sts);
    let before_database = FaultProxy::before(&direct).await;
    let before_redis = FaultProxy::before(redis.url()).await;
    let (url, redis_url) = (
        before_database.url_through(&direct),
        before_redis.url_through(redis.url()),
    );
    let settings = [("DB_CONNECT_TIMEOUT", "500ms")];
    let stack = Stack::start_between(database, &url, redis, &redis_url, &settings).await;
    let ready = stack.get("/ready").await;
    assert_eq!(
        (ready.status, ready.body),
        (StatusCode::OK, json!({"ok": true, "ready": true}))
    );
    before_redis.refuse();
    expect_reason(&stack, "redis_unreachable").await;
    before_database.refuse();
    expect_reason(&stack, "postgres_unreachable").await;
    before_redis.resume();
    before_database.resume();
    stack.until_ready().await;
}

#[tokio::test]
async fn a_spool_without_room_is_no_place_for_evidence() {
    let settings = [
        ("AUDIT_SPOOL_BYTES", "1MiB"),
        ("REVOCATION_FRESHNESS", "600s"),
        ("STS_MINT_RATE_LIMIT_PER_MIN", "10000000"),
    ];
    let stack = Stack::start_with(&settings).await;
    stack.delegated(&[]).await.token();
    stack.redis.spoil("caracal.audit.events").await;
    for _ in 0..10_000 {
        if stack.get("/ready").await.status != StatusCode::OK {
            break;
        }
        stack.delegated(&[]).await;
    }
    expect_reason(&stack, "audit_replay_unavailable").await;
    let full = (503, "sts_unavailable", "audit evidence unavailable");
    wait_until(SOON, async || stack.delegated(&[]).await.refusal() == full).await;
    stack.redis.mend("caracal.audit.events").await;
    stack.until_ready().await;
    stack.delegated(&[]).await.token();
}

#[tokio::test]
async fn what_nobody_proves_to_be_complete_is_not_fresh() {
    let stack = Stack::start_with(&[("REVOCATION_FRESHNESS", "1s")]).await;
    stack.redis.spoil("caracal.watermarks").await;
    expect_reason(&stack, "stream_consumers_not_ready").await;
    let stale = (503, "sts_unavailable", "revocation state unavailable");
    let answer = stack.mint(&DELEGATED).await;
    assert_eq!(answer.refusal(), stale);
    stack.redis.mend("caracal.watermarks").await;
    stack.until_ready().await;
}

#[tokio::test]
async fn a_clock_that_is_behind_the_databases_is_named() {
    let now = Clock::system().unix_seconds();
    let clock = Clock::manual(now - 3_600);
    let stack = Stack::start_at(clock.clone()).await;
    expect_reason(&stack, "clock_skew").await;
    let stale = (503, "sts_unavailable", "revocation state unavailable");
    assert_eq!(stack.mint(&DELEGATED).await.refusal(), stale);
}
