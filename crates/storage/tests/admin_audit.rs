//! Can an administrative record be changed, removed or cut off without the verification noticing?
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot be set up has failed"
)]

use caracal_migrations::Role;
use caracal_model::ZoneId;
use caracal_storage::admin_audit::{self, Link, Record, Verdict};
use caracal_storage::{Database, PoolLimits, ZoneScope};
use caracal_testing::TestDatabase;
use sqlx::AssertSqlSafe;
use time::OffsetDateTime;

const KEY: &[u8] = b"an audit key of thirty-two bytes";

async fn connect(test: &TestDatabase) -> Database {
    Database::connect(&test.url_as(Role::Api), "caracal-test", &PoolLimits::default())
        .await
        .unwrap()
}

fn record<'a>(id: &'a str, zone: Option<&'a ZoneId>) -> Record<'a> {
    Record {
        id,
        request_id: "req-1",
        actor_id: Some("tok-1"),
        actor_name: Some("ops"),
        actor_scope: Some("global"),
        action: "POST /v1/zones/one/teams",
        method: "POST",
        path: "/v1/zones/one/teams",
        zone_id: zone,
        entity_type: Some("zones"),
        entity_id: Some("one"),
        status_code: 201,
        // The order of the members is part of what was recorded, and jsonb does not keep it.
        payload: Some(r#"{"rls_mode":"zone_scoped","change_kind":"create","b":1,"a":2}"#),
        occurred_at: OffsetDateTime::from_unix_timestamp_nanos(1_767_323_045_123_999_999).unwrap(),
    }
}

async fn append(database: &Database, key: Option<&[u8]>, record: &Record<'_>) -> Link {
    let mut tx = database.write(ZoneScope::All).await.unwrap();
    let link = admin_audit::append(&mut tx, key, record).await.unwrap();
    tx.commit().await.unwrap();
    link
}

async fn verify(database: &Database, key: Option<&[u8]>, zone: Option<&ZoneId>) -> Verdict {
    admin_audit::verify(&mut database.read().await.unwrap(), key, zone)
        .await
        .unwrap()
}

fn zone() -> ZoneId {
    "one".parse().unwrap()
}

/// Computed apart from this code, with the recipe of docs/contract/database.md section 5:
/// `printf '%s\x1f' adm-1 req-1 tok-1 ops global 'POST /v1/zones/one/teams' POST /v1/zones/one/teams one zones one 201
/// "$payload" 2026-01-02T03:04:05.123Z | sha256sum`, and the same for the second record.
const FIRST: &str = "f8b2bc8574c449d3ee8438db3e17ba829a6f4245236b9bad266a1ac1fc1a7932";
const SECOND: &str = "ee58ee5d22616332ce84ab8b2aefa35f0acec9a100aa787261ba31110d55617c";
/// `printf '%s|%s' $SECOND $FIRST | openssl dgst -sha256 -hmac 'an audit key of thirty-two bytes'`.
const SECOND_LINK: &str = "0327b02ffce31cb48f8a564f3501769ec1d60acf900ece8c944c9fc577859876";

#[tokio::test]
async fn the_chain_is_built_as_documented() {
    let test = TestDatabase::new().await;
    let database = connect(&test).await;
    let one = zone();
    let first = append(&database, Some(KEY), &record("adm-1", Some(&one))).await;
    let second = append(&database, Some(KEY), &record("adm-2", Some(&one))).await;
    assert_eq!(
        first,
        Link {
            seq: 1,
            content_sha256: FIRST.to_owned()
        }
    );
    assert_eq!(
        second,
        Link {
            seq: 2,
            content_sha256: SECOND.to_owned()
        }
    );
    let stored: (Option<String>, Option<String>, i64) = sqlx::query_as(
        "SELECT prev_content_sha256, chain_hmac, chain_seq FROM admin_audit_events WHERE id = 'adm-2'",
    )
    .fetch_one(&test.pool().await)
    .await
    .unwrap();
    assert_eq!(stored, (Some(FIRST.to_owned()), Some(SECOND_LINK.to_owned()), 2));
}

#[tokio::test]
async fn a_whole_chain_verifies_with_and_without_the_key() {
    let test = TestDatabase::new().await;
    let database = connect(&test).await;
    let one = zone();
    for n in 0..20 {
        append(&database, Some(KEY), &record(&format!("adm-{n}"), Some(&one))).await;
    }
    append(&database, None, &record("global", None)).await;
    assert_eq!(
        verify(&database, Some(KEY), Some(&one)).await,
        Verdict::Intact { records: 20 }
    );
    assert_eq!(
        verify(&database, None, Some(&one)).await,
        Verdict::Intact { records: 20 }
    );
    assert_eq!(
        verify(&database, None, None).await,
        Verdict::Intact { records: 1 }
    );
    let wrong = verify(&database, Some(b"another key"), Some(&one)).await;
    assert!(matches!(wrong, Verdict::Broken { seq: 1, .. }), "{wrong:?}");
    let unsigned = verify(&database, Some(KEY), None).await;
    assert!(
        matches!(unsigned, Verdict::Broken { seq: 1, .. }),
        "an unsigned record does not pass for a signed one"
    );
}

#[tokio::test]
async fn whatever_is_tampered_with_is_found() {
    let test = TestDatabase::new().await;
    let database = connect(&test).await;
    let owner = test.pool().await;
    let one = zone();
    for n in 1..=4 {
        append(&database, Some(KEY), &record(&format!("adm-{n}"), Some(&one))).await;
    }
    for (change, seq) in [
        (
            "UPDATE admin_audit_events SET actor_id = 'nobody' WHERE chain_seq = 2",
            2,
        ),
        (
            "UPDATE admin_audit_events SET actor_id = NULL WHERE chain_seq = 2",
            2,
        ),
        (
            "UPDATE admin_audit_events SET status_code = 200 WHERE chain_seq = 3",
            3,
        ),
        (
            "UPDATE admin_audit_events SET path = path || 'x' WHERE chain_seq = 1",
            1,
        ),
        (
            "UPDATE admin_audit_events SET occurred_at = occurred_at + interval '1 ms' WHERE chain_seq = 1",
            1,
        ),
        (
            "UPDATE admin_audit_events SET payload_text = payload_text || ' ' WHERE chain_seq = 1",
            1,
        ),
        (
            "UPDATE admin_audit_events SET payload_json = '{}' WHERE chain_seq = 1",
            1,
        ),
        (
            "UPDATE admin_audit_events SET payload_json = NULL WHERE chain_seq = 1",
            1,
        ),
        (
            "UPDATE admin_audit_events SET payload_text = NULL WHERE chain_seq = 1",
            1,
        ),
        (
            "UPDATE admin_audit_events SET content_sha256 = repeat('0', 64) WHERE chain_seq = 2",
            2,
        ),
        (
            "UPDATE admin_audit_events SET prev_content_sha256 = NULL WHERE chain_seq = 2",
            2,
        ),
        (
            "UPDATE admin_audit_events SET chain_hmac = NULL WHERE chain_seq = 2",
            2,
        ),
        ("DELETE FROM admin_audit_events WHERE chain_seq = 1", 1),
        ("DELETE FROM admin_audit_events WHERE chain_seq = 3", 3),
        ("DELETE FROM admin_audit_events WHERE chain_seq = 4", 4),
        ("DELETE FROM admin_audit_events", 1),
        ("DELETE FROM admin_audit_chain_heads", 5),
    ] {
        let mut tampering = owner.begin().await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(change))
            .execute(&mut *tampering)
            .await
            .unwrap();
        tampering.commit().await.unwrap();
        match verify(&database, Some(KEY), Some(&one)).await {
            Verdict::Broken { seq: found, .. } => assert_eq!(found, seq, "{change}"),
            Verdict::Intact { .. } => panic!("not noticed: {change}"),
        }
        restore(&test, &one).await;
    }
}

/// Writes the four records of the test anew.
async fn restore(test: &TestDatabase, one: &ZoneId) {
    let owner = test.pool().await;
    sqlx::raw_sql("TRUNCATE admin_audit_events, admin_audit_chain_heads")
        .execute(&owner)
        .await
        .unwrap();
    let database = connect(test).await;
    for n in 1..=4 {
        append(&database, Some(KEY), &record(&format!("adm-{n}"), Some(one))).await;
    }
}

#[tokio::test]
async fn racing_writers_leave_no_gap_and_no_fork() {
    let test = TestDatabase::new().await;
    let database = connect(&test).await;
    let one = zone();
    let writers = (0..40).map(|n| {
        let (database, one) = (database.clone(), one.clone());
        async move {
            let id = format!("adm-{n}");
            let mut tx = database.write(ZoneScope::Zone(&one)).await.unwrap();
            admin_audit::append(&mut tx, Some(KEY), &record(&id, Some(&one)))
                .await
                .unwrap();
            // Every fourth change fails after its record was written: both go.
            if n % 4 == 0 {
                tx.rollback().await.unwrap();
            } else {
                tx.commit().await.unwrap();
            }
        }
    });
    futures_util::future::join_all(writers).await;
    assert_eq!(
        verify(&database, Some(KEY), Some(&one)).await,
        Verdict::Intact { records: 30 }
    );
}

#[tokio::test]
async fn a_payload_that_is_not_json_refuses_the_whole_change() {
    let test = TestDatabase::new().await;
    let database = connect(&test).await;
    let mut tx = database.write(ZoneScope::All).await.unwrap();
    let refusal = admin_audit::append(
        &mut tx,
        None,
        &Record {
            payload: Some("{"),
            ..record("x", None)
        },
    )
    .await;
    assert!(
        matches!(refusal, Err(caracal_storage::StorageError::Invalid { .. })),
        "{refusal:?}"
    );
}
