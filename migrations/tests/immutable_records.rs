//! Can what must never change be changed: audit events, policy versions, times that other proofs rest on?
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

async fn code(pool: &PgPool, statement: &str) -> String {
    let mut tx = pool.begin().await.unwrap();
    sqlx::query("SET LOCAL caracal.zone_id = '*'")
        .execute(&mut *tx)
        .await
        .unwrap();
    match sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *tx).await {
        Ok(_) => "done".to_owned(),
        Err(error) => error.as_database_error().unwrap().code().unwrap().into_owned(),
    }
}

#[tokio::test]
async fn the_audit_role_can_add_events_and_never_change_or_delete_one() {
    let database = TestDatabase::new().await;
    fixture::fill_zone(&database.pool().await, "one").await;
    let audit = database.pool_as(Role::Audit).await;
    let insert =
        "INSERT INTO audit_events (id, zone_id, event_type, occurred_at) VALUES ('n', 'one', 'x', now())";
    assert_eq!(code(&audit, insert).await, "done");
    for statement in [
        "UPDATE audit_events SET decision = 'allow'",
        "DELETE FROM audit_events",
        "TRUNCATE audit_events",
        "UPDATE audit_signed_heads SET signature = ''",
        "DELETE FROM audit_ingest_alerts",
    ] {
        assert_eq!(code(&audit, statement).await, "42501", "{statement}");
    }
}

#[tokio::test]
async fn a_policy_version_cannot_be_changed_by_anyone() {
    let database = TestDatabase::new().await;
    let owner = database.pool().await;
    fixture::fill_zone(&owner, "one").await;
    for statement in [
        "UPDATE policy_versions SET content = 'other'",
        "DELETE FROM policy_versions",
        "TRUNCATE policy_versions CASCADE",
        "UPDATE policy_set_versions SET manifest_json = '{}'",
        "DELETE FROM policy_set_versions",
        "TRUNCATE policy_set_versions CASCADE",
    ] {
        assert_eq!(code(&owner, statement).await, "23000", "{statement}");
    }
}

#[tokio::test]
async fn a_policy_version_can_still_be_locked_by_control() {
    let database = TestDatabase::new().await;
    fixture::fill_zone(&database.pool().await, "one").await;
    let control = database.pool_as(Role::Api).await;
    assert_eq!(
        code(&control, "SELECT id FROM policy_versions FOR SHARE").await,
        "done"
    );
    let coordinator = database.pool_as(Role::Coordinator).await;
    assert_eq!(
        code(&coordinator, "SELECT id FROM applications FOR SHARE").await,
        "done"
    );
    assert_eq!(
        code(&coordinator, "UPDATE applications SET traits = '{}'").await,
        "42501"
    );
}

#[tokio::test]
async fn nobody_can_say_when_an_outbox_row_was_made() {
    let database = TestDatabase::new().await;
    for role in [Role::Api, Role::Sts, Role::Coordinator] {
        let pool = database.pool_as(role).await;
        for statement in [
            "INSERT INTO event_outbox (id, stream_name, payload_json, created_at) VALUES ('a', 's', '{}', now())",
            "INSERT INTO event_outbox (id, stream_name, payload_json, dispatched_at) VALUES ('a', 's', '{}', now())",
            "UPDATE event_outbox SET created_at = now()",
            "UPDATE event_outbox SET payload_json = '{}'",
            "UPDATE caracal_outbox SET created_at = now()",
            "UPDATE caracal_outbox SET topic = 'x'",
        ] {
            assert_eq!(code(&pool, statement).await, "42501", "{role:?}: {statement}");
        }
        let plain = "INSERT INTO event_outbox (id, stream_name, payload_json) VALUES ('a', 's', '{}')";
        assert_eq!(code(&pool, plain).await, "done", "{role:?}");
    }
}

#[tokio::test]
async fn the_expiry_of_a_session_follows_from_its_start_whatever_the_writer_says() {
    let database = TestDatabase::new().await;
    let owner = database.pool().await;
    fixture::fill_zone(&owner, "one").await;
    sqlx::query("UPDATE sessions SET expires_at = 'infinity', ttl_seconds = 60 WHERE id = 'one-s1'")
        .execute(&owner)
        .await
        .unwrap();
    let life: f64 = sqlx::query_scalar(
        "SELECT extract(epoch FROM expires_at - started_at)::float8 FROM sessions WHERE id = 'one-s1'",
    )
    .fetch_one(&owner)
    .await
    .unwrap();
    assert!((life - 60.0).abs() < 0.001, "{life}");
}

#[tokio::test]
async fn names_of_live_applications_and_workloads_are_unique_whatever_their_case() {
    let database = TestDatabase::new().await;
    let owner = database.pool().await;
    fixture::fill_zone(&owner, "one").await;
    fixture::fill_zone(&owner, "two").await;
    let application = |zone: &str, method: &str| {
        format!(
            "INSERT INTO applications (id, zone_id, name, registration_method, expires_at)
             VALUES (gen_random_uuid(), '{zone}', 'APP', '{method}', now())"
        )
    };
    assert_eq!(code(&owner, &application("one", "managed")).await, "23505");
    assert_eq!(
        code(&owner, &application("one", "dcr")).await,
        "done",
        "registered applications may share a name"
    );
    let workload = "INSERT INTO workloads (id, zone_id, name, secret_hash) VALUES ('w2', 'one', 'W', 'x')";
    assert_eq!(code(&owner, workload).await, "23505");
    let after_archiving = format!(
        "UPDATE applications SET archived_at = now(); {}",
        application("one", "managed")
    );
    assert_eq!(
        code(&owner, &after_archiving).await,
        "done",
        "an archived name is free again"
    );
}
