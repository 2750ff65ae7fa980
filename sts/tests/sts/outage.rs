//! When a store is down the service goes on from memory until its knowledge is too old, then refuses, then recovers.

use std::time::Duration;

use caracal_testing::{FaultProxy, Role, TestDatabase, TestRedis, wait_until};
use http::StatusCode;

use crate::stack::{SOON, Stack};

const FIELDS: [(&str, &str); 4] = [
    ("resource", "resource://crm"),
    ("scope", "crm:read"),
    ("agent_session_id", "s-target"),
    ("delegation_edge_id", "e-1"),
];

#[tokio::test]
async fn a_database_outage_is_survived_until_knowledge_is_too_old() {
    let database = TestDatabase::new().await;
    let direct = database.url_as(Role::Sts);
    let proxy = FaultProxy::before(&direct).await;
    let settings = [("REVOCATION_FRESHNESS", "4s"), ("DB_CONNECT_TIMEOUT", "500ms")];
    let stack = Stack::start_on(database, &proxy.url_through(&direct), &settings).await;
    let one_shot = stack.one_shot("resource://crm", "crm:read").await;
    proxy.refuse();
    assert_eq!(stack.mint(&FIELDS).await.status, StatusCode::OK, "from memory");
    assert_eq!(
        stack.at_gateway(&one_shot, "resource://crm", &[]).await.status,
        StatusCode::OK
    );
    let answer = stack
        .mint(&[("resource", "resource://crm"), ("scope", "agent:lifecycle")])
        .await;
    assert_eq!(
        answer.refusal().0,
        503,
        "a reusable mandate is recorded first: {}",
        answer.body
    );
    wait_until(SOON, async || {
        stack.mint(&FIELDS).await.status == StatusCode::SERVICE_UNAVAILABLE
    })
    .await;
    let answer = stack.mint(&FIELDS).await;
    assert_eq!(
        answer.refusal(),
        (503, "sts_unavailable", "revocation state unavailable")
    );
    assert_eq!(answer.headers["retry-after"], "1");
    let one_shot = stack.at_gateway(&one_shot, "resource://crm", &[]).await;
    assert_eq!(
        one_shot.refusal(),
        (503, "sts_unavailable", "revocation state unavailable")
    );
    assert_eq!(stack.get("/ready").await.body["reason"], "postgres_unreachable");
    proxy.resume();
    wait_until(SOON, async || stack.mint(&FIELDS).await.status == StatusCode::OK).await;
    stack.until_ready().await;
}

#[tokio::test]
async fn evidence_of_a_refusal_outlives_an_unreachable_database() {
    let database = TestDatabase::new().await;
    let direct = database.url_as(Role::Sts);
    let proxy = FaultProxy::before(&direct).await;
    let settings = [("DB_CONNECT_TIMEOUT", "500ms"), ("REVOCATION_FRESHNESS", "60s")];
    let stack = Stack::start_on(database, &proxy.url_through(&direct), &settings).await;
    stack.one_shot("resource://crm", "crm:read").await;
    proxy.refuse();
    let answer = stack
        .mint(&[("resource", "resource://foreign"), ("scope", "crm:read")])
        .await;
    assert_eq!(
        answer.refusal(),
        (403, "access_denied", "policy denied (no_rule_matched)")
    );
    assert_eq!(stack.events_of(&answer).await[0]["decision"], "deny");
}

#[tokio::test]
async fn an_unknown_session_is_refused_as_unavailable_while_the_database_is_down() {
    let database = TestDatabase::new().await;
    let direct = database.url_as(Role::Sts);
    let proxy = FaultProxy::before(&direct).await;
    let settings = [("DB_CONNECT_TIMEOUT", "500ms"), ("REVOCATION_FRESHNESS", "60s")];
    let stack = Stack::start_on(database, &proxy.url_through(&direct), &settings).await;
    stack.mint(&[("resource", "resource://unknown")]).await;
    proxy.refuse();
    let answer = stack.mint(&FIELDS).await;
    assert_eq!(
        answer.refusal(),
        (503, "sts_unavailable", "session state unavailable")
    );
    assert_eq!(
        stack.get("/.well-known/jwks.json?zone_id=z3").await.refusal().0,
        503
    );
}

#[tokio::test]
async fn the_service_stops_when_asked() {
    let mut stack = Stack::start().await;
    let stopped = tokio::time::timeout(Duration::from_secs(30), stack.stop()).await;
    stopped.unwrap().unwrap();
}

/// A service that reaches Redis through a proxy.
async fn behind_redis_proxy(settings: &[(&str, &str)]) -> (Stack, FaultProxy) {
    let (database, redis) = (TestDatabase::new().await, TestRedis::new().await);
    let proxy = FaultProxy::before(redis.url()).await;
    let url = database.url_as(Role::Sts);
    let through = proxy.url_through(redis.url());
    (
        Stack::start_between(database, &url, redis, &through, settings).await,
        proxy,
    )
}

#[tokio::test]
async fn without_the_event_bus_knowledge_grows_old_and_recovers() {
    let (stack, proxy) = behind_redis_proxy(&[("REVOCATION_FRESHNESS", "3s")]).await;
    stack.one_shot("resource://crm", "crm:read").await;
    proxy.refuse();
    wait_until(SOON, async || {
        stack.mint(&FIELDS).await.status == StatusCode::SERVICE_UNAVAILABLE
    })
    .await;
    assert_eq!(stack.get("/ready").await.body["reason"], "redis_unreachable");
    let recorded = stack.mint(&FIELDS).await;
    assert_eq!(
        recorded.refusal(),
        (503, "sts_unavailable", "revocation state unavailable")
    );
    proxy.resume();
    wait_until(SOON, async || stack.mint(&FIELDS).await.status == StatusCode::OK).await;
    assert_eq!(
        stack.events_of(&recorded).await[0]["decision"],
        "deny",
        "evidence waited in the spool"
    );
}

#[tokio::test]
async fn a_full_spool_refuses_rather_than_serves_unrecorded() {
    let settings = [
        ("AUDIT_SPOOL_BYTES", "1MiB"),
        ("REVOCATION_FRESHNESS", "600s"),
        ("STS_MINT_RATE_LIMIT_PER_MIN", "100000"),
    ];
    let (stack, proxy) = behind_redis_proxy(&settings).await;
    stack.one_shot("resource://crm", "crm:read").await;
    proxy.refuse();
    let mut refused = None;
    for _ in 0..5_000 {
        let answer = stack.mint(&FIELDS).await;
        if answer.status != StatusCode::OK {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.unwrap();
    assert_eq!(
        refused.refusal(),
        (503, "sts_unavailable", "audit evidence unavailable")
    );
    proxy.resume();
    wait_until(SOON, async || stack.mint(&FIELDS).await.status == StatusCode::OK).await;
}

#[tokio::test]
async fn a_bus_that_lost_its_memory_makes_the_service_read_everything_again() {
    let stack = Stack::start().await;
    stack.one_shot("resource://crm", "crm:read").await;
    // Revoked while the announcement is lost together with everything else on the bus.
    stack
        .sql(
            "INSERT INTO revocation_log (zone_id, kind, anchor_id, reason, expires_at)
             VALUES ('z1', 'session', 's-target', 'test', now() + interval '1 hour')",
        )
        .await;
    stack.redis.empty().await;
    wait_until(SOON, async || {
        stack.mint(&FIELDS).await.status == StatusCode::FORBIDDEN
    })
    .await;
}

#[tokio::test]
async fn a_zone_that_cannot_be_read_keeps_no_other_from_being_loaded_again() {
    let stack = Stack::start().await;
    for zone in ["z2", "z3"] {
        stack.get(&format!("/.well-known/jwks.json?zone_id={zone}")).await;
    }
    let mint = async || {
        stack
            .mint(&[("resource", "resource://crm"), ("scope", "crm:read")])
            .await
            .status
    };
    for n in 0..10 {
        assert_eq!(mint().await, StatusCode::OK);
        // A grant that is taken away: only a reload that was announced makes the refusal.
        stack
            .sql(format!(
                "INSERT INTO applications (id, zone_id, name, registration_method)
                VALUES ('no id {n}', 'z2', 'Unreadable {n}', 'managed'), ('burst-{n}', 'z3', 'Readable {n}', 'managed');
                UPDATE resources SET scopes = '{{crm:write}}' WHERE id = 'r-crm'"
            ))
            .await;
        wait_until(SOON, async || mint().await != StatusCode::OK).await;
        stack
            .sql("UPDATE resources SET scopes = '{crm:read,crm:write}' WHERE id = 'r-crm'")
            .await;
        wait_until(SOON, async || mint().await == StatusCode::OK).await;
    }
}
