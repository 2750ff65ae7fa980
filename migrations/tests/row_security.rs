//! Does a transaction see only the zone it was bound to, and nothing at all when it was bound to none?
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

/// Tables that belong to no zone, and why nothing in them needs guarding by zone.
const OF_NO_ZONE: [&str; 10] = [
    "event_outbox",             // messages of every zone, published by every relay
    "caracal_outbox",           // likewise
    "audit_export_watermark",   // one row per exporter
    "audit_retention",          // platform setting
    "audit_chain_rehash",       // platform state
    "sts_rate_limit",           // platform setting
    "gateway_binding_revision", // one counter
    "operator_ai_providers",    // platform setting
    "gateway_documents",        // certificates of the gateways, which serve every zone
    "_sqlx_migrations",
];

async fn guarded_tables(pool: &PgPool) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
           AND NOT relispartition AND relrowsecurity AND relforcerowsecurity ORDER BY 1",
    )
    .fetch_all(pool)
    .await
    .unwrap()
}

/// Counts the rows of `table` that `role` sees with the setting at `scope` (`None`: not set).
async fn visible(pool: &PgPool, table: &str, scope: Option<&str>) -> i64 {
    let mut tx = pool.begin().await.unwrap();
    if let Some(scope) = scope {
        sqlx::query("SELECT set_config('caracal.zone_id', $1, true)")
            .bind(scope)
            .execute(&mut *tx)
            .await
            .unwrap();
    }
    sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) FROM {table}")))
        .fetch_one(&mut *tx)
        .await
        .unwrap()
}

/// A login that may do anything to the tables except bypass row-level security.
async fn plain_owner(database: &TestDatabase) -> PgPool {
    let owner = database.pool().await;
    sqlx::raw_sql(
        "DO $$ BEGIN CREATE ROLE caracal_test_reader LOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;
         GRANT ALL ON ALL TABLES IN SCHEMA public TO caracal_test_reader",
    )
    .execute(&owner)
    .await
    .unwrap();
    let options: sqlx::postgres::PgConnectOptions = database.url().parse().unwrap();
    sqlx::postgres::PgPoolOptions::new()
        .after_connect(|connection, _| {
            Box::pin(async move {
                sqlx::raw_sql("SET ROLE caracal_test_reader")
                    .execute(connection)
                    .await
                    .map(|_| ())
            })
        })
        .connect_with(options)
        .await
        .unwrap()
}

#[tokio::test]
async fn every_table_that_belongs_to_zones_is_guarded_even_from_its_owner() {
    let database = TestDatabase::new().await;
    let pool = database.pool().await;
    let unguarded: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
           AND NOT relispartition AND NOT (relrowsecurity AND relforcerowsecurity)",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    for table in &unguarded {
        assert!(
            OF_NO_ZONE.contains(&table.as_str()),
            "{table} has no row-level security"
        );
    }
    assert_eq!(unguarded.len(), OF_NO_ZONE.len());
}

#[tokio::test]
async fn a_bound_transaction_sees_its_own_zone_and_an_unbound_one_sees_nothing() {
    let database = TestDatabase::new().await;
    let owner = database.pool().await;
    fixture::fill_zone(&owner, "one").await;
    fixture::fill_zone(&owner, "two").await;
    let reader = plain_owner(&database).await;
    for table in guarded_tables(&owner).await {
        let all: i64 = sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) FROM {table}")))
            .fetch_one(&owner)
            .await
            .unwrap();
        assert!(all >= 2, "the fixture has rows of both zones in {table}");
        assert_eq!(
            visible(&reader, &table, Some("*")).await,
            all,
            "{table}: * sees every zone"
        );
        assert_eq!(
            visible(&reader, &table, Some("one")).await,
            all / 2,
            "{table}: a zone sees its half"
        );
        assert_eq!(
            visible(&reader, &table, Some("three")).await,
            0,
            "{table}: a foreign zone sees nothing"
        );
        assert_eq!(
            visible(&reader, &table, Some("")).await,
            0,
            "{table}: an empty setting sees nothing"
        );
        assert_eq!(
            visible(&reader, &table, None).await,
            0,
            "{table}: without the setting nothing is visible"
        );
    }
}

#[tokio::test]
async fn a_bound_transaction_cannot_write_into_another_zone() {
    let database = TestDatabase::new().await;
    let owner = database.pool().await;
    fixture::fill_zone(&owner, "one").await;
    fixture::fill_zone(&owner, "two").await;
    let control = database.pool_as(Role::Api).await;
    for (statement, expected) in [
        ("INSERT INTO teams (id, zone_id, name) VALUES ('t', 'one', 'mine')", Some(1)),
        ("INSERT INTO teams (id, zone_id, name) VALUES ('t', 'two', 'theirs')", None),
        ("UPDATE teams SET zone_id = 'two' WHERE id = 'one-team'", None),
        ("UPDATE teams SET name = 'x' WHERE id = 'two-team'", Some(0)),
        ("DELETE FROM teams WHERE id = 'two-team'", Some(0)),
        ("UPDATE zones SET name = 'x' WHERE id = 'two'", Some(0)),
        ("INSERT INTO policy_versions (id, policy_id, version, content, content_sha256, schema_version, created_by)
          VALUES ('v', 'two-pol', 2, 'c', 'h', '1', 'me')", None),
    ] {
        let mut tx = control.begin().await.unwrap();
        sqlx::query("SET LOCAL caracal.zone_id = 'one'").execute(&mut *tx).await.unwrap();
        let outcome = sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *tx).await;
        match (outcome, expected) {
            (Ok(done), Some(rows)) => assert_eq!(done.rows_affected(), rows, "{statement}"),
            (Err(error), None) => {
                assert_eq!(error.as_database_error().unwrap().code().unwrap(), "42501", "{statement}");
            }
            (outcome, _) => panic!("{statement}: {outcome:?}"),
        }
    }
}
