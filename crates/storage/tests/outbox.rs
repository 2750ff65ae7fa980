//! Are promises kept in order, held by one relay at a time, freed by a crash, and is the watermark true?
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot be set up has failed"
)]

use std::time::Duration;

use caracal_migrations::Role;
use caracal_storage::outbox::{self, Claimed, Fields, Producer, Table};
use caracal_storage::{Database, PoolLimits, StorageError, ZoneScope};
use caracal_testing::TestDatabase;

const PATIENCE: Duration = Duration::from_secs(5);

async fn connect(test: &TestDatabase, role: Role) -> Database {
    Database::connect(&test.url_as(role), "caracal-test", &PoolLimits::default())
        .await
        .unwrap()
}

fn fields(pairs: &[(&str, &str)]) -> Fields {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

async fn promise(database: &Database, stream: &str, n: i32) -> String {
    let mut tx = database.write(ZoneScope::All).await.unwrap();
    let id = outbox::enqueue(&mut tx, stream, &fields(&[("n", &n.to_string())]))
        .await
        .unwrap();
    tx.commit().await.unwrap();
    id
}

fn numbers(rows: &[Claimed]) -> Vec<i32> {
    rows.iter()
        .map(|row| row.fields.get("n").unwrap().parse().unwrap())
        .collect()
}

async fn claim_all(database: &Database) -> Vec<Claimed> {
    let mut tx = database.write(ZoneScope::All).await.unwrap();
    let rows = outbox::claim(&mut tx, 1_000, PATIENCE).await.unwrap().unwrap();
    tx.rollback().await.unwrap();
    rows
}

#[tokio::test]
async fn promises_of_both_tables_are_claimed_in_the_order_they_were_made() {
    let test = TestDatabase::new().await;
    let database = connect(&test, Role::Coordinator).await;
    for n in 0..10 {
        if n % 3 == 0 {
            let mut tx = database.write(ZoneScope::All).await.unwrap();
            let key = format!("spawn:{n}");
            outbox::enqueue_once(
                &mut tx,
                Producer::Coordinator,
                "s",
                &key,
                &fields(&[("n", &n.to_string())]),
            )
            .await
            .unwrap();
            tx.commit().await.unwrap();
        } else {
            promise(&database, "s", n).await;
        }
    }
    let rows = claim_all(&database).await;
    assert_eq!(numbers(&rows), (0..10).collect::<Vec<_>>());
    assert_eq!(rows[0].table, Table::Keyed);
    assert_eq!(rows[0].dedupe_key.as_deref(), Some("spawn:0"));
    assert_eq!(rows[1].table, Table::Event);
    assert!(rows.windows(2).all(|pair| pair[0].position < pair[1].position));
}

#[tokio::test]
async fn a_second_promise_under_the_same_key_is_dropped() {
    let test = TestDatabase::new().await;
    let database = connect(&test, Role::Coordinator).await;
    let mut tx = database.write(ZoneScope::All).await.unwrap();
    let first = outbox::enqueue_once(&mut tx, Producer::Coordinator, "s", "k", &fields(&[("n", "1")]))
        .await
        .unwrap();
    let again = outbox::enqueue_once(&mut tx, Producer::Coordinator, "s", "k", &fields(&[("n", "2")]))
        .await
        .unwrap();
    let other = outbox::enqueue_once(&mut tx, Producer::Coordinator, "t", "k", &fields(&[("n", "3")]))
        .await
        .unwrap();
    tx.commit().await.unwrap();
    assert_eq!((first, again, other), (true, false, true));
    assert_eq!(numbers(&claim_all(&database).await), [1, 3]);
}

#[tokio::test]
async fn what_could_never_be_signed_is_not_promised() {
    let test = TestDatabase::new().await;
    let database = connect(&test, Role::Api).await;
    for bad in [
        &[("reason", "two\nlines")],
        &[("na\u{1f}me", "x")],
        &[("a=b", "x")],
        &[("reason", "nul\0")],
    ] {
        let mut tx = database.write(ZoneScope::All).await.unwrap();
        let refusal = outbox::enqueue(&mut tx, "s", &fields(bad)).await.unwrap_err();
        assert!(
            matches!(refusal, StorageError::Message { .. }),
            "{bad:?}: {refusal:?}"
        );
    }
    let mut tx = database.write(ZoneScope::All).await.unwrap();
    outbox::enqueue(
        &mut tx,
        "s",
        &fields(&[("reason", "ümlaut \u{85} {\"json\": [1]}")]),
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn members_that_are_not_text_become_json_and_null_is_left_out() {
    let test = TestDatabase::new().await;
    sqlx::query(
        "INSERT INTO event_outbox (id, stream_name, payload_json)
         VALUES ('a', 's', '{\"text\": \"t\", \"number\": 3, \"list\": [1, \"x\"], \"none\": null, \"flag\": true}')",
    )
    .execute(&test.pool().await)
    .await
    .unwrap();
    let rows = claim_all(&connect(&test, Role::Sts).await).await;
    assert_eq!(
        rows[0].fields,
        fields(&[
            ("text", "t"),
            ("number", "3"),
            ("list", "[1,\"x\"]"),
            ("flag", "true")
        ])
    );
}

#[tokio::test]
async fn one_relay_has_the_turn_and_a_crash_passes_it_on_at_once() {
    let test = TestDatabase::new().await;
    let (control, sts) = (connect(&test, Role::Api).await, connect(&test, Role::Sts).await);
    let id = promise(&control, "s", 1).await;
    let mut first = control.write(ZoneScope::All).await.unwrap();
    assert_eq!(
        outbox::claim(&mut first, 10, PATIENCE)
            .await
            .unwrap()
            .unwrap()
            .len(),
        1
    );
    let mut second = sts.write(ZoneScope::All).await.unwrap();
    assert!(
        outbox::claim(&mut second, 10, PATIENCE).await.unwrap().is_none(),
        "somebody else has the turn"
    );
    drop(second);

    // The connection of the first relay dies without a word.
    sqlx::query(
        "SELECT pg_terminate_backend(pid) FROM pg_locks
         WHERE locktype = 'advisory' AND granted
           AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
    )
    .execute(&test.pool().await)
    .await
    .unwrap();
    let mut freed = None;
    caracal_testing::wait_until(PATIENCE, async || {
        let mut tx = sts.write(ZoneScope::All).await.unwrap();
        freed = outbox::claim(&mut tx, 10, PATIENCE).await.unwrap();
        freed.is_some()
    })
    .await;
    assert_eq!(freed.unwrap()[0].id, id, "the same row, under the same id");
    assert!(first.commit().await.is_err());
}

#[tokio::test]
async fn a_relay_that_hangs_loses_its_turn() {
    let test = TestDatabase::new().await;
    let (control, sts) = (connect(&test, Role::Api).await, connect(&test, Role::Sts).await);
    promise(&control, "s", 1).await;
    let mut hung = control.write(ZoneScope::All).await.unwrap();
    outbox::claim(&mut hung, 10, Duration::from_millis(100))
        .await
        .unwrap()
        .unwrap();
    caracal_testing::wait_until(Duration::from_secs(20), async || {
        let mut tx = sts.write(ZoneScope::All).await.unwrap();
        outbox::claim(&mut tx, 10, PATIENCE)
            .await
            .unwrap()
            .is_some_and(|rows| rows.len() == 1)
    })
    .await;
    assert!(hung.commit().await.is_err(), "the server ended its transaction");
}

#[tokio::test]
async fn published_rows_are_not_claimed_again_and_are_pruned_when_old() {
    let test = TestDatabase::new().await;
    let database = connect(&test, Role::Coordinator).await;
    promise(&database, "s", 1).await;
    let mut tx = database.write(ZoneScope::All).await.unwrap();
    outbox::enqueue_once(&mut tx, Producer::Coordinator, "s", "k", &fields(&[("n", "2")]))
        .await
        .unwrap();
    let rows = outbox::claim(&mut tx, 10, PATIENCE).await.unwrap().unwrap();
    outbox::mark_published(&mut tx, &rows).await.unwrap();
    tx.commit().await.unwrap();
    assert!(claim_all(&database).await.is_empty());

    let mut tx = database.write(ZoneScope::All).await.unwrap();
    assert_eq!(
        outbox::prune(&mut tx, Duration::from_hours(1), 10).await.unwrap(),
        0,
        "too young"
    );
    tx.commit().await.unwrap();
    let mut tx = database.write(ZoneScope::All).await.unwrap();
    assert_eq!(outbox::prune(&mut tx, Duration::ZERO, 10).await.unwrap(), 2);
    tx.commit().await.unwrap();

    promise(&database, "s", 3).await;
    let mut tx = database.write(ZoneScope::All).await.unwrap();
    assert_eq!(
        outbox::prune(&mut tx, Duration::ZERO, 10).await.unwrap(),
        0,
        "what is not out is never pruned"
    );
}

#[tokio::test]
async fn a_refused_row_waits_longer_each_time_and_never_longer_than_the_bound() {
    let test = TestDatabase::new().await;
    let database = connect(&test, Role::Api).await;
    let owner = test.pool().await;
    promise(&database, "s", 1).await;
    let mut waits = Vec::new();
    for _ in 0..5 {
        let mut tx = database.write(ZoneScope::All).await.unwrap();
        let rows = outbox::claim(&mut tx, 10, PATIENCE).await.unwrap().unwrap();
        assert_eq!(rows.len(), 1);
        outbox::retry(&mut tx, &rows, Duration::from_secs(6), "because")
            .await
            .unwrap();
        tx.commit().await.unwrap();
        assert!(claim_all(&database).await.is_empty(), "not due yet");
        let wait: f64 = sqlx::query_scalar(
            "SELECT round(extract(epoch FROM available_at - now()))::float8 FROM event_outbox",
        )
        .fetch_one(&owner)
        .await
        .unwrap();
        waits.push(wait);
        sqlx::query("UPDATE event_outbox SET available_at = now()")
            .execute(&owner)
            .await
            .unwrap();
    }
    assert_eq!(waits, [1.0, 2.0, 4.0, 6.0, 6.0]);
    let (attempts, reason): (i32, String) = sqlx::query_as("SELECT attempts, last_error FROM event_outbox")
        .fetch_one(&owner)
        .await
        .unwrap();
    assert_eq!((attempts, reason.as_str()), (5, "because"));
}

#[tokio::test]
async fn a_dead_row_is_visible_holds_the_watermark_and_can_be_put_back() {
    let test = TestDatabase::new().await;
    let database = connect(&test, Role::Coordinator).await;
    promise(&database, "s", 1).await;
    let mut tx = database.write(ZoneScope::All).await.unwrap();
    outbox::enqueue_once(&mut tx, Producer::Coordinator, "s", "k", &fields(&[("n", "2")]))
        .await
        .unwrap();
    let rows = outbox::claim(&mut tx, 10, PATIENCE).await.unwrap().unwrap();
    outbox::bury(&mut tx, &rows, "hopeless").await.unwrap();
    tx.commit().await.unwrap();
    assert!(claim_all(&database).await.is_empty());
    let backlog = outbox::backlog(&mut database.read().await.unwrap())
        .await
        .unwrap();
    assert_eq!((backlog.pending, backlog.dead), (0, 2));
    let watermark = outbox::watermark(&mut database.read().await.unwrap())
        .await
        .unwrap();
    assert_eq!(watermark.as_of, rows[0].created_at);

    let mut tx = database.write(ZoneScope::All).await.unwrap();
    assert_eq!(outbox::requeue(&mut tx, Some(&rows[0].id)).await.unwrap(), 1);
    assert_eq!(outbox::requeue(&mut tx, None).await.unwrap(), 1);
    tx.commit().await.unwrap();
    assert_eq!(numbers(&claim_all(&database).await), [1, 2]);
}

#[tokio::test]
async fn the_watermark_stops_before_what_waits_and_passes_what_is_out() {
    let test = TestDatabase::new().await;
    let database = connect(&test, Role::Api).await;
    let before = database.now().await.unwrap();
    let empty = outbox::watermark(&mut database.read().await.unwrap())
        .await
        .unwrap();
    assert!(empty.as_of >= before, "with nothing waiting it is the present");
    promise(&database, "s", 1).await;
    let created = claim_all(&database).await[0].created_at;
    let held = outbox::watermark(&mut database.read().await.unwrap())
        .await
        .unwrap();
    assert_eq!(held.as_of, created);
    let mut tx = database.write(ZoneScope::All).await.unwrap();
    let rows = outbox::claim(&mut tx, 10, PATIENCE).await.unwrap().unwrap();
    outbox::mark_published(&mut tx, &rows).await.unwrap();
    let unmarked = outbox::watermark(&mut database.read().await.unwrap())
        .await
        .unwrap();
    assert_eq!(unmarked.as_of, created, "marked means committed");
    tx.commit().await.unwrap();
    let passed = outbox::watermark(&mut database.read().await.unwrap())
        .await
        .unwrap();
    assert!(passed.as_of > created);
}

/// The watermark may pass the start of a transaction that is still open: what it promises is about commits.
#[tokio::test]
async fn no_watermark_claims_a_commit_that_is_not_out() {
    let test = TestDatabase::new().await;
    let database = connect(&test, Role::Api).await;
    let mut open = database.write(ZoneScope::All).await.unwrap();
    outbox::enqueue(&mut open, "s", &fields(&[("n", "1")]))
        .await
        .unwrap();
    let during = outbox::watermark(&mut database.read().await.unwrap())
        .await
        .unwrap();
    let before_commit = database.now().await.unwrap();
    assert!(
        during.as_of <= before_commit,
        "not later than a moment at which it was still uncommitted"
    );
    open.commit().await.unwrap();
    let created = claim_all(&database).await[0].created_at;
    assert!(
        created < during.as_of,
        "the row is older than a watermark that was given out before"
    );
    for _ in 0..3 {
        let after = outbox::watermark(&mut database.read().await.unwrap())
            .await
            .unwrap();
        assert_eq!(
            after.as_of, created,
            "from its commit on the row holds every watermark back"
        );
    }
}

/// A clock read inside the statement would be later than the snapshot, and would claim what the snapshot cannot see.
#[tokio::test]
async fn the_watermark_is_never_later_than_the_snapshot_it_comes_from() {
    let test = TestDatabase::new().await;
    let database = connect(&test, Role::Api).await;
    let mut snapshot = database.read().await.unwrap();
    sqlx::query("SELECT count(*) FROM event_outbox")
        .fetch_one(&mut snapshot)
        .await
        .unwrap();
    let before = database.now().await.unwrap();
    promise(&database, "s", 1).await;
    let watermark = outbox::watermark(&mut snapshot).await.unwrap();
    assert!(
        watermark.as_of <= before,
        "the row is committed, not out, and not in this snapshot"
    );
}

#[tokio::test]
async fn an_insert_wakes_a_listener_at_commit() {
    let test = TestDatabase::new().await;
    let database = connect(&test, Role::Sts).await;
    let mut notifications = database.listen(&[outbox::CHANNEL]).await.unwrap();
    promise(&database, "s", 1).await;
    let woken = tokio::time::timeout(Duration::from_secs(10), notifications.next())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(woken.unwrap().channel, outbox::CHANNEL);
}
