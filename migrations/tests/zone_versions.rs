//! Does every change to a zone's configuration move its version and announce it, once per transaction?
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot be set up has failed"
)]

mod fixture;

use caracal_migrations::Role;
use caracal_testing::TestDatabase;
use sqlx::{AssertSqlSafe, PgPool};

async fn version(pool: &PgPool, zone: &str) -> i64 {
    sqlx::query_scalar("SELECT coalesce((SELECT version FROM zone_versions WHERE zone_id = $1), 0)")
        .bind(zone)
        .fetch_one(pool)
        .await
        .unwrap()
}

/// Versions announced for `zone`, oldest first.
async fn announced(pool: &PgPool, zone: &str) -> Vec<i64> {
    sqlx::query_scalar(
        "SELECT (payload_json ->> 'version')::bigint FROM event_outbox
         WHERE stream_name = 'caracal.zones.invalidate' AND payload_json ->> 'zone_id' = $1 ORDER BY position",
    )
    .bind(zone)
    .fetch_all(pool)
    .await
    .unwrap()
}

/// Runs statements in one transaction as `pool`'s login, with the setting at `scope`.
async fn run(pool: &PgPool, scope: &str, statements: &str) {
    let mut tx = pool.begin().await.unwrap();
    sqlx::query("SELECT set_config('caracal.zone_id', $1, true)")
        .bind(scope)
        .execute(&mut *tx)
        .await
        .unwrap();
    sqlx::raw_sql(AssertSqlSafe(statements))
        .execute(&mut *tx)
        .await
        .unwrap_or_else(|e| panic!("{statements}: {e}"));
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn each_kind_of_configuration_moves_the_version_of_its_zone_only() {
    let database = TestDatabase::new().await;
    let owner = database.pool().await;
    fixture::fill_zone(&owner, "one").await;
    fixture::fill_zone(&owner, "two").await;
    let control = database.pool_as(Role::Api).await;
    for statement in [
        "UPDATE zones SET name = 'x' WHERE id = 'one'",
        "UPDATE applications SET traits = '{a}' WHERE id = 'one-app'",
        "INSERT INTO applications (id, zone_id, name, registration_method) VALUES ('a2', 'one', 'b', 'managed')",
        "DELETE FROM applications WHERE id = 'a2'",
        "UPDATE workloads SET name = 'x' WHERE id = 'one-wl'",
        "UPDATE providers SET name = 'x' WHERE id = 'one-prov'",
        "UPDATE resources SET name = 'x' WHERE id = 'one-res'",
        "UPDATE subject_issuers SET audience = 'x' WHERE id = 'one-iss'",
        "UPDATE secret_store SET version = 2 WHERE ref = 'one-ref'",
        "INSERT INTO secrets (id, zone_id, entity_id, name, type, envelope) VALUES ('k2', 'one', 'one', 'n', 'token', 'x')",
        "UPDATE policies SET archived_at = now() WHERE id = 'one-pol'",
        "UPDATE policy_sets SET description = 'x' WHERE id = 'one-set'",
        "UPDATE policy_set_bindings SET updated_at = now() WHERE zone_id = 'one'",
        "UPDATE gateway_resource_bindings SET application_id = NULL WHERE zone_id = 'one'",
        "UPDATE resource_rate_limits SET max_requests = 2 WHERE zone_id = 'one'",
        "UPDATE provider_connections SET status = 'revoked' WHERE id = 'one-conn'",
    ] {
        let (one, two) = (version(&owner, "one").await, version(&owner, "two").await);
        run(&control, "one", statement).await;
        assert_eq!(version(&owner, "one").await, one + 1, "{statement}");
        assert_eq!(version(&owner, "two").await, two, "{statement}");
        assert_eq!(
            announced(&owner, "one").await.last(),
            Some(&(one + 1)),
            "{statement}"
        );
    }
}

#[tokio::test]
async fn what_is_not_configuration_leaves_the_version_alone() {
    let database = TestDatabase::new().await;
    let owner = database.pool().await;
    fixture::fill_zone(&owner, "one").await;
    let before = version(&owner, "one").await;
    run(
        &database.pool_as(Role::Sts).await,
        "*",
        "UPDATE provider_connections SET access_token_ct = 'new', refreshed_at = now()",
    )
    .await;
    run(
        &database.pool_as(Role::Coordinator).await,
        "*",
        "UPDATE sessions SET last_active_at = now()",
    )
    .await;
    run(
        &database.pool_as(Role::Api).await,
        "*",
        "UPDATE admin_tokens SET last_used_at = now()",
    )
    .await;
    assert_eq!(version(&owner, "one").await, before);
}

#[tokio::test]
async fn a_transaction_announces_a_zone_once_however_many_statements_it_takes() {
    let database = TestDatabase::new().await;
    let owner = database.pool().await;
    fixture::fill_zone(&owner, "one").await;
    let (before, announcements) = (version(&owner, "one").await, announced(&owner, "one").await.len());
    run(
        &database.pool_as(Role::Api).await,
        "*",
        "UPDATE applications SET traits = '{a}'; UPDATE resources SET name = 'y'; UPDATE providers SET name = 'z'",
    )
    .await;
    assert_eq!(version(&owner, "one").await, before + 1);
    assert_eq!(announced(&owner, "one").await.len(), announcements + 1);
}

#[tokio::test]
async fn a_rolled_back_change_announces_nothing() {
    let database = TestDatabase::new().await;
    let owner = database.pool().await;
    fixture::fill_zone(&owner, "one").await;
    let (before, announcements) = (version(&owner, "one").await, announced(&owner, "one").await.len());
    let mut tx = owner.begin().await.unwrap();
    sqlx::query("UPDATE applications SET traits = '{a}'")
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(version(&owner, "one").await, before);
    assert_eq!(announced(&owner, "one").await.len(), announcements);
}

#[tokio::test]
async fn a_platform_setting_moves_every_zone() {
    let database = TestDatabase::new().await;
    let owner = database.pool().await;
    fixture::fill_zone(&owner, "one").await;
    fixture::fill_zone(&owner, "two").await;
    let (one, two) = (version(&owner, "one").await, version(&owner, "two").await);
    run(
        &database.pool_as(Role::Api).await,
        "*",
        "INSERT INTO sts_rate_limit (limit_per_minute) VALUES (10)",
    )
    .await;
    assert_eq!(
        (version(&owner, "one").await, version(&owner, "two").await),
        (one + 1, two + 1)
    );
}

#[tokio::test]
async fn a_deleted_zone_is_announced_too() {
    let database = TestDatabase::new().await;
    let owner = database.pool().await;
    sqlx::query("INSERT INTO zones (id, name, slug) VALUES ('gone', 'g', 'g')")
        .execute(&owner)
        .await
        .unwrap();
    let before = version(&owner, "gone").await;
    sqlx::query("DELETE FROM zones WHERE id = 'gone'")
        .execute(&owner)
        .await
        .unwrap();
    assert_eq!(version(&owner, "gone").await, before + 1);
}

#[tokio::test]
async fn versions_become_visible_in_order_when_changes_race() {
    let database = TestDatabase::new().await;
    let owner = database.pool().await;
    fixture::fill_zone(&owner, "one").await;
    fixture::fill_zone(&owner, "two").await;
    let start = version(&owner, "one").await;
    let control = sqlx::postgres::PgPoolOptions::new()
        .max_connections(8)
        .connect(&database.url_as(Role::Api))
        .await
        .unwrap();
    let changes = (0..40).map(|i| {
        let control = control.clone();
        async move {
            // Half of them touch the zones in the other order, which must not deadlock.
            let (a, b) = if i % 2 == 0 { ("one", "two") } else { ("two", "one") };
            run(&control, "*", &format!("UPDATE teams SET name = name; UPDATE applications SET traits = '{{t{i}}}' WHERE zone_id IN ('{a}', '{b}')")).await;
        }
    });
    futures_util::future::join_all(changes).await;
    let announced = announced(&owner, "one").await;
    let recent: Vec<i64> = announced.into_iter().filter(|v| *v > start).collect();
    assert_eq!(recent, (start + 1..=start + 40).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_change_of_a_binding_moves_the_revision() {
    let database = TestDatabase::new().await;
    let owner = database.pool().await;
    fixture::fill_zone(&owner, "one").await;
    let revision = "SELECT version FROM gateway_binding_revision";
    let before: i64 = sqlx::query_scalar(revision).fetch_one(&owner).await.unwrap();
    run(
        &database.pool_as(Role::Api).await,
        "one",
        "DELETE FROM gateway_resource_bindings",
    )
    .await;
    let after: i64 = sqlx::query_scalar(revision).fetch_one(&owner).await.unwrap();
    assert_eq!(after, before + 1);
}
