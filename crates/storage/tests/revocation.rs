//! Is every revocation that can still matter in the list, and nothing else?
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot be set up has failed"
)]

use caracal_migrations::Role;
use caracal_model::{Anchor, AnchorKind, ZoneId};
use caracal_storage::{Database, PoolLimits, StorageError, ZoneScope, revocation};
use caracal_testing::TestDatabase;

async fn connect(test: &TestDatabase, role: Role) -> Database {
    Database::connect(&test.url_as(role), "caracal-test", &PoolLimits::default())
        .await
        .unwrap()
}

fn zone() -> ZoneId {
    "one".parse().unwrap()
}

fn anchor(kind: AnchorKind, id: &str) -> Anchor {
    Anchor::from_parts(kind, id).unwrap()
}

#[tokio::test]
async fn every_role_that_revokes_can_record_and_the_first_reason_stands() {
    let test = TestDatabase::new().await;
    for (role, id) in [(Role::Api, "a"), (Role::Sts, "b"), (Role::Coordinator, "c")] {
        let database = connect(&test, role).await;
        let mut tx = database.write(ZoneScope::All).await.unwrap();
        let gone = anchor(AnchorKind::Session, id);
        assert!(
            revocation::record(&mut tx, &zone(), &gone, "first")
                .await
                .unwrap(),
            "{role:?}"
        );
        assert!(
            !revocation::record(&mut tx, &zone(), &gone, "second")
                .await
                .unwrap(),
            "{role:?}"
        );
        tx.commit().await.unwrap();
    }
    let database = connect(&test, Role::Sts).await;
    let live = revocation::live_after(&mut database.read().await.unwrap(), 0, 1_000)
        .await
        .unwrap()
        .revoked;
    assert_eq!(live.len(), 3);
    assert!(
        live.iter()
            .all(|revoked| revoked.reason == "first" && revoked.zone_id == zone())
    );
}

#[tokio::test]
async fn a_cascade_is_recorded_in_one_statement_whatever_it_repeats() {
    let test = TestDatabase::new().await;
    let database = connect(&test, Role::Coordinator).await;
    let anchors = [
        anchor(AnchorKind::Session, "s"),
        anchor(AnchorKind::Delegation, "s"),
        anchor(AnchorKind::AuthorityRecord, "s"),
        anchor(AnchorKind::Session, "s"),
    ];
    let mut tx = database.write(ZoneScope::All).await.unwrap();
    let before = database.statements();
    assert_eq!(
        revocation::record_all(&mut tx, &zone(), &anchors, "x")
            .await
            .unwrap(),
        3
    );
    assert_eq!(database.statements() - before, 1);
    assert_eq!(
        revocation::record_all(&mut tx, &zone(), &[], "x").await.unwrap(),
        0
    );
    let mut found: Vec<String> = revocation::live_after(&mut tx, 0, 1_000)
        .await
        .unwrap()
        .revoked
        .iter()
        .map(|revoked| revoked.anchor.to_string())
        .collect();
    found.sort();
    assert_eq!(found, ["authority_record s", "delegation s", "session s"]);
}

#[tokio::test]
async fn a_record_that_lives_long_is_remembered_as_revoked_for_as_long() {
    let test = TestDatabase::new().await;
    sqlx::raw_sql(
        "INSERT INTO zones (id, name, slug) VALUES ('one', 'One', 'one');
         INSERT INTO authority_records (id, zone_id, session_type, expires_at, authenticated_at)
             VALUES ('long', 'one', 'user', now() + interval '30 days', now()),
                    ('over', 'one', 'user', now() - interval '30 days', now())",
    )
    .execute(&test.pool().await)
    .await
    .unwrap();
    let database = connect(&test, Role::Sts).await;
    let anchors = ["long", "over", "unknown"].map(|id| anchor(AnchorKind::AuthorityRecord, id));
    let mut tx = database.write(ZoneScope::All).await.unwrap();
    revocation::record_all(&mut tx, &zone(), &anchors, "x")
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let hours = |id: &str, live: &[revocation::Revoked]| {
        let revoked = live.iter().find(|revoked| revoked.anchor.id() == id).unwrap();
        ((revoked.expires_at - revoked.revoked_at).as_seconds_f64() / 3600.0).round()
    };
    let live = revocation::live_after(&mut database.read().await.unwrap(), 0, 1_000)
        .await
        .unwrap()
        .revoked;
    assert!((hours("long", &live) - 31.0 * 24.0).abs() < 1.0);
    assert!((hours("over", &live) - 24.0).abs() < 1.0);
    assert!((hours("unknown", &live) - 24.0).abs() < 1.0);
}

#[tokio::test]
async fn what_no_token_can_meet_any_more_is_neither_listed_nor_kept() {
    let test = TestDatabase::new().await;
    sqlx::query(
        "INSERT INTO revocation_log (zone_id, kind, anchor_id, reason, expires_at)
         SELECT 'one', 'session', 's' || n, 'x', now() + (n - 5) * interval '1 hour' FROM generate_series(1, 9) AS n",
    )
    .execute(&test.pool().await)
    .await
    .unwrap();
    let database = connect(&test, Role::Api).await;
    assert_eq!(
        revocation::live_after(&mut database.read().await.unwrap(), 0, 1_000)
            .await
            .unwrap()
            .revoked
            .len(),
        4
    );
    let mut tx = database.write(ZoneScope::All).await.unwrap();
    assert_eq!(revocation::prune(&mut tx, 3).await.unwrap(), 3, "bounded");
    assert_eq!(revocation::prune(&mut tx, 100).await.unwrap(), 2);
    assert_eq!(
        revocation::live_after(&mut tx, 0, 1_000)
            .await
            .unwrap()
            .revoked
            .len(),
        4
    );
}

#[tokio::test]
async fn a_revocation_this_version_cannot_read_is_an_error_not_a_gap() {
    let test = TestDatabase::new().await;
    sqlx::query(
        "INSERT INTO revocation_log (zone_id, kind, anchor_id, reason, expires_at)
         VALUES ('one', 'session', 'not an id', 'x', now() + interval '1 hour')",
    )
    .execute(&test.pool().await)
    .await
    .unwrap();
    let database = connect(&test, Role::Sts).await;
    let refusal = revocation::live_after(&mut database.read().await.unwrap(), 0, 1_000)
        .await
        .unwrap_err();
    assert!(
        matches!(
            refusal,
            StorageError::Inconsistent {
                column: "anchor_id",
                ..
            }
        ),
        "{refusal:?}"
    );
}
