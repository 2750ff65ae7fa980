//! Are transactions bound to their zone, isolated as promised, and counted?
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot be set up has failed"
)]

use std::time::Duration;

use caracal_migrations::Role;
use caracal_model::ZoneId;
use caracal_storage::schema_version::{self, SchemaMismatch};
use caracal_storage::{Database, PoolLimits, StorageError, ZoneScope};
use caracal_testing::TestDatabase;

async fn two_zones(test: &TestDatabase) -> Database {
    sqlx::query("INSERT INTO zones (id, name, slug) VALUES ('one', 'One', 'one'), ('two', 'Two', 'two')")
        .execute(&test.pool().await)
        .await
        .unwrap();
    Database::connect(&test.url_as(Role::Api), "caracal-test", &PoolLimits::default())
        .await
        .unwrap()
}

async fn visible(tx: impl caracal_storage::AnyTx<'_>) -> Vec<String> {
    sqlx::query_scalar("SELECT id FROM zones ORDER BY id")
        .fetch_all(tx)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_transaction_sees_the_zones_of_its_scope() {
    let test = TestDatabase::new().await;
    let database = two_zones(&test).await;
    let one: ZoneId = "one".parse().unwrap();
    assert_eq!(visible(&mut database.read().await.unwrap()).await, ["one", "two"]);
    assert_eq!(
        visible(&mut database.read_in(ZoneScope::Zone(&one)).await.unwrap()).await,
        ["one"]
    );
    assert_eq!(
        visible(&mut database.write(ZoneScope::All).await.unwrap()).await,
        ["one", "two"]
    );
    assert_eq!(
        visible(&mut database.write(ZoneScope::Zone(&one)).await.unwrap()).await,
        ["one"]
    );
}

#[tokio::test]
async fn the_scope_of_one_transaction_does_not_leak_into_the_next() {
    let test = TestDatabase::new().await;
    two_zones(&test).await;
    let limits = PoolLimits {
        connections_max: 1,
        ..PoolLimits::default()
    };
    let database = Database::connect(&test.url_as(Role::Api), "caracal-test", &limits)
        .await
        .unwrap();
    database
        .write(ZoneScope::All)
        .await
        .unwrap()
        .commit()
        .await
        .unwrap();
    let pool = sqlx::postgres::PgPoolOptions::new()
        .max_connections(1)
        .connect(&test.url_as(Role::Api))
        .await
        .unwrap();
    let raw = Database::from_pool(pool.clone());
    raw.write(ZoneScope::All).await.unwrap().commit().await.unwrap();
    let left: Vec<String> = sqlx::query_scalar("SELECT id FROM zones")
        .fetch_all(&pool)
        .await
        .unwrap();
    assert!(
        left.is_empty(),
        "outside of a transaction the connection sees no zone"
    );
}

#[tokio::test]
async fn a_snapshot_does_not_move_and_cannot_write() {
    let test = TestDatabase::new().await;
    let database = two_zones(&test).await;
    let mut snapshot = database.read().await.unwrap();
    assert_eq!(visible(&mut snapshot).await.len(), 2);
    let mut tx = database.write(ZoneScope::All).await.unwrap();
    sqlx::query("INSERT INTO zones (id, name, slug) VALUES ('three', 'x', 'three')")
        .execute(&mut tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(
        visible(&mut snapshot).await.len(),
        2,
        "the snapshot is as of its first statement"
    );
    assert_eq!(visible(&mut database.read().await.unwrap()).await.len(), 3);
    let refusal = sqlx::query("DELETE FROM zones")
        .execute(&mut snapshot)
        .await
        .unwrap_err();
    assert_eq!(refusal.as_database_error().unwrap().code().unwrap(), "25006");
}

#[tokio::test]
async fn a_dropped_transaction_changes_nothing() {
    let test = TestDatabase::new().await;
    let database = two_zones(&test).await;
    let mut tx = database.write(ZoneScope::All).await.unwrap();
    sqlx::query("DELETE FROM zones").execute(&mut tx).await.unwrap();
    drop(tx);
    assert_eq!(visible(&mut database.read().await.unwrap()).await.len(), 2);
}

#[tokio::test]
async fn every_statement_is_counted() {
    let test = TestDatabase::new().await;
    let database = two_zones(&test).await;
    let before = database.statements();
    let mut tx = database.write(ZoneScope::All).await.unwrap();
    sqlx::query("UPDATE zones SET name = name")
        .execute(&mut tx)
        .await
        .unwrap();
    let _all = sqlx::query("SELECT 1").fetch_all(&mut tx).await.unwrap();
    let _one = sqlx::query("SELECT 1").fetch_one(&mut tx).await.unwrap();
    let _some = sqlx::query("SELECT 1").fetch_optional(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(
        database.statements() - before,
        6,
        "begin, four statements, commit"
    );
}

#[tokio::test]
async fn errors_say_what_the_caller_can_do() {
    let test = TestDatabase::new().await;
    let database = two_zones(&test).await;
    let attempt = async |statement: &'static str| -> StorageError {
        let mut tx = database.write(ZoneScope::All).await.unwrap();
        sqlx::query(statement).execute(&mut tx).await.unwrap_err().into()
    };
    let same_slug = attempt("INSERT INTO zones (id, name, slug) VALUES ('x', 'x', 'one')").await;
    assert_eq!(same_slug.conflict(), Some("zones_slug_key"));
    let no_zone = attempt("INSERT INTO teams (id, zone_id, name) VALUES ('t', 'nowhere', 'n')").await;
    assert!(
        matches!(&no_zone, StorageError::Reference { constraint, .. } if constraint == "teams_zone_id_fkey"),
        "{no_zone:?}"
    );
    let bad_id = attempt("INSERT INTO zones (id, name, slug) VALUES ('a b', 'x', 'x')").await;
    assert!(
        matches!(&bad_id, StorageError::Invalid { constraint, .. } if constraint == "zones_id_check"),
        "{bad_id:?}"
    );
    let refused = attempt("DELETE FROM audit_events").await;
    assert!(matches!(refused, StorageError::Refused(_)), "{refused:?}");
}

#[tokio::test]
async fn a_lock_that_is_not_freed_in_time_is_contention() {
    let test = TestDatabase::new().await;
    let database = two_zones(&test).await;
    let mut holder = database.write(ZoneScope::All).await.unwrap();
    sqlx::query("UPDATE zones SET name = 'mine'")
        .execute(&mut holder)
        .await
        .unwrap();
    let limits = PoolLimits {
        lock_timeout: Duration::from_millis(50),
        ..PoolLimits::default()
    };
    let impatient = Database::connect(&test.url_as(Role::Api), "caracal-test", &limits)
        .await
        .unwrap();
    let mut tx = impatient.write(ZoneScope::All).await.unwrap();
    let error = StorageError::from(
        sqlx::query("UPDATE zones SET name = 'yours'")
            .execute(&mut tx)
            .await
            .unwrap_err(),
    );
    assert!(error.is_contention(), "{error:?}");
}

#[tokio::test]
async fn a_database_out_of_reach_is_unavailable() {
    let limits = PoolLimits {
        acquire_timeout: Duration::from_millis(200),
        ..PoolLimits::default()
    };
    let port = caracal_testing::free_port();
    let url = format!("postgres://nobody@127.0.0.1:{port}/none");
    let error = Database::connect(&url, "caracal-test", &limits)
        .await
        .unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");

    let test = TestDatabase::new().await;
    let database = two_zones(&test).await;
    database.close().await;
    assert!(database.ping().await.unwrap_err().is_unavailable());
}

#[tokio::test]
async fn the_right_schema_is_accepted_by_every_role_and_a_newer_one_by_none() {
    let test = TestDatabase::new().await;
    for role in [Role::Api, Role::Sts, Role::Coordinator, Role::Audit] {
        let database = Database::connect(&test.url_as(role), "caracal-test", &PoolLimits::default())
            .await
            .unwrap();
        schema_version::check(&database).await.unwrap();
    }
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (99990101000000, 'from the future', true, '', 0)",
    )
    .execute(&test.pool().await)
    .await
    .unwrap();
    let database = Database::connect(&test.url_as(Role::Sts), "caracal-test", &PoolLimits::default())
        .await
        .unwrap();
    let refusal = schema_version::check(&database).await.unwrap_err();
    assert!(matches!(refusal, SchemaMismatch::Ahead { .. }), "{refusal:?}");
    sqlx::query("DROP TABLE _sqlx_migrations")
        .execute(&test.pool().await)
        .await
        .unwrap();
    let refusal = schema_version::check(&database).await.unwrap_err();
    assert!(
        matches!(refusal, SchemaMismatch::Behind { found: 0, .. }),
        "{refusal:?}"
    );
}

#[tokio::test]
async fn a_notification_arrives_when_its_transaction_commits() {
    let test = TestDatabase::new().await;
    let database = two_zones(&test).await;
    let mut notifications = database.listen(&["caracal_approval_decided"]).await.unwrap();
    let mut tx = database.write(ZoneScope::All).await.unwrap();
    sqlx::query("SELECT pg_notify('caracal_approval_decided', 'hold-1')")
        .execute(&mut tx)
        .await
        .unwrap();
    let early = tokio::time::timeout(Duration::from_millis(50), notifications.next()).await;
    assert!(early.is_err(), "not before the commit");
    tx.commit().await.unwrap();
    let arrived = tokio::time::timeout(Duration::from_secs(10), notifications.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(
        (arrived.channel.as_str(), arrived.payload.as_str()),
        ("caracal_approval_decided", "hold-1")
    );
}
