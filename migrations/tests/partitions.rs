//! Are there partitions for the months to come, and can months be added and dropped safely?
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot be set up has failed"
)]

use caracal_migrations::Role;
use caracal_testing::TestDatabase;
use sqlx::PgPool;

async fn partitions(pool: &PgPool) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
         WHERE i.inhparent = 'audit_events'::regclass ORDER BY 1",
    )
    .fetch_all(pool)
    .await
    .unwrap()
}

/// Where the event `id` is stored.
async fn partition_of(pool: &PgPool, id: &str) -> String {
    sqlx::query_scalar("SELECT tableoid::regclass::text FROM audit_events WHERE id = $1")
        .bind(id)
        .fetch_one(pool)
        .await
        .unwrap()
}

async fn ensure(pool: &PgPool, month: &str) -> bool {
    sqlx::query_scalar("SELECT audit_partition_ensure($1::text::date)")
        .bind(month)
        .fetch_one(pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn this_month_and_three_more_exist_and_today_lands_in_its_month() {
    let database = TestDatabase::new().await;
    let owner = database.pool().await;
    let expected: Vec<String> = sqlx::query_scalar(
        "SELECT 'audit_events_y' || to_char(m, 'YYYY') || 'm' || to_char(m, 'MM')
         FROM generate_series(0, 3) AS i, LATERAL (SELECT (now() AT TIME ZONE 'UTC') + make_interval(months => i) AS m) AS x
         UNION ALL SELECT 'audit_events_default' ORDER BY 1",
    )
    .fetch_all(&owner)
    .await
    .unwrap();
    assert_eq!(partitions(&owner).await, expected);
    sqlx::query(
        "INSERT INTO audit_events (id, zone_id, event_type, occurred_at) VALUES ('e', 'z', 't', now())",
    )
    .execute(&owner)
    .await
    .unwrap();
    assert_ne!(partition_of(&owner, "e").await, "audit_events_default");
}

#[tokio::test]
async fn a_month_can_be_made_after_events_of_it_arrived() {
    let database = TestDatabase::new().await;
    let owner = database.pool().await;
    sqlx::query(
        "INSERT INTO audit_events (id, zone_id, event_type, occurred_at, metadata_json)
         VALUES ('late', 'z', 't', '2031-01-31T23:30:00Z', '{\"agent_session_id\": \"s\"}'),
                ('next', 'z', 't', '2031-02-01T00:00:00Z', NULL)",
    )
    .execute(&owner)
    .await
    .unwrap();
    assert_eq!(partition_of(&owner, "late").await, "audit_events_default");
    let audit = database.pool_as(Role::Audit).await;
    assert!(ensure(&audit, "2031-01-15").await, "made now");
    assert!(!ensure(&audit, "2031-01-20").await, "there already");
    assert_eq!(partition_of(&owner, "late").await, "audit_events_y2031m01");
    assert_eq!(
        partition_of(&owner, "next").await,
        "audit_events_default",
        "months are months in UTC"
    );
    let kept: Option<String> =
        sqlx::query_scalar("SELECT agent_session_id FROM audit_events WHERE id = 'late'")
            .fetch_one(&owner)
            .await
            .unwrap();
    assert_eq!(kept.as_deref(), Some("s"));
}

#[tokio::test]
async fn a_month_can_be_dropped_and_nothing_else_can() {
    let database = TestDatabase::new().await;
    let owner = database.pool().await;
    let audit = database.pool_as(Role::Audit).await;
    ensure(&audit, "2031-01-01").await;
    for name in [
        "audit_events_default",
        "audit_events",
        "zones",
        "audit_events_y2031m13",
        "audit_events_y2099m01",
        "x; DROP TABLE zones",
    ] {
        let refusal = sqlx::query("SELECT audit_partition_drop($1)")
            .bind(name)
            .execute(&audit)
            .await
            .unwrap_err();
        assert_eq!(
            refusal.as_database_error().unwrap().code().unwrap(),
            "22023",
            "{name}"
        );
    }
    // A table that is named like a month and is not one.
    sqlx::query("CREATE TABLE audit_events_y2032m01 (id int)")
        .execute(&owner)
        .await
        .unwrap();
    let refusal = sqlx::query("SELECT audit_partition_drop('audit_events_y2032m01')")
        .execute(&audit)
        .await
        .unwrap_err();
    assert_eq!(refusal.as_database_error().unwrap().code().unwrap(), "22023");
    sqlx::query("SELECT audit_partition_drop('audit_events_y2031m01')")
        .execute(&audit)
        .await
        .unwrap();
    assert!(
        !partitions(&owner)
            .await
            .contains(&"audit_events_y2031m01".to_owned())
    );
}

#[tokio::test]
async fn making_the_same_month_twice_at_once_is_harmless() {
    let database = TestDatabase::new().await;
    let audit = database.pool_as(Role::Audit).await;
    let made = futures_util::future::join_all((0..4).map(|_| ensure(&audit, "2031-05-01"))).await;
    assert_eq!(made.into_iter().filter(|made| *made).count(), 1);
}
