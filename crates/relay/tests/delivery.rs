//! Does every committed promise get onto its stream, in order, whatever fails in between?
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    dead_code,
    reason = "a test that cannot be set up has failed; each test file uses its part of the rig"
)]

mod rig;

use std::sync::Arc;
use std::time::Duration;

use caracal_bus::RedisBus;
use caracal_migrations::Role;
use caracal_relay::RelaySettings;
use caracal_storage::ZoneScope;
use caracal_storage::outbox::{self, Producer};
use caracal_testing::FaultProxy;
use caracal_wire::stream;
use rig::{DEADLINE, Rig, keys, numbered, quick};

#[tokio::test]
async fn messages_arrive_signed_and_in_the_order_they_were_promised_with_several_relays() {
    let rig = Rig::new().await;
    let settings = |name| RelaySettings {
        batch: 7,
        ..quick(name)
    };
    let relays = [
        rig.start(settings("a")),
        rig.start(settings("b")),
        rig.start(settings("c")),
    ];
    for n in 0..200 {
        rig.promise(n).await;
    }
    rig.until_numbers(&(0..200).collect::<Vec<_>>()).await;
    let entries = rig.entries(stream::SESSIONS_REVOKE).await;
    assert_eq!(entries.len(), 200, "without a failure nothing is sent twice");
    for entry in entries {
        assert!(keys().verify(stream::SESSIONS_REVOKE, &entry.fields), "{entry:?}");
        assert!(entry.fields.contains_key(stream::OUTBOX_ID));
    }
    for relay in relays {
        relay.stop().await;
    }
}

#[tokio::test]
async fn a_keyed_message_carries_its_key_and_evidence_goes_out_as_it_was_written() {
    let rig = Rig::new().await;
    let mut tx = rig.database.write(ZoneScope::All).await.unwrap();
    outbox::enqueue_once(
        &mut tx,
        Producer::Coordinator,
        stream::AGENTS_LIFECYCLE,
        "spawn:s",
        &numbered(1),
    )
    .await
    .unwrap();
    let evidence = [("id", "evt"), ("data", "{\"a\": [1, \"ü\"]}"), ("sig", "00ff")];
    let evidence = evidence
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    outbox::enqueue(&mut tx, stream::AUDIT_EVENTS, &evidence)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let relay = rig.start(quick("a"));
    caracal_testing::wait_until(DEADLINE, async || {
        rig.entries(stream::AUDIT_EVENTS).await.len() == 1
    })
    .await;
    let keyed = rig.entries(stream::AGENTS_LIFECYCLE).await;
    assert_eq!(keyed[0].fields.get(stream::DEDUPE_KEY).unwrap(), "spawn:s");
    let written = &rig.entries(stream::AUDIT_EVENTS).await[0].fields;
    for (name, value) in &evidence {
        assert_eq!(written.get(name), Some(value));
    }
    relay.stop().await;
}

#[tokio::test]
async fn a_commit_wakes_the_relay_without_waiting_for_the_poll() {
    let rig = Rig::new().await;
    let relay = rig.start(RelaySettings {
        poll: Duration::from_hours(1),
        ..quick("a")
    });
    caracal_testing::wait_until(DEADLINE, async || relay.stats.watermark_us() > 0).await;
    for n in 0..5 {
        rig.promise(n).await;
        rig.until_numbers(&(0..=n).collect::<Vec<_>>()).await;
    }
    relay.stop().await;
}

#[tokio::test]
async fn a_crash_between_publishing_and_marking_repeats_the_message_under_the_same_id() {
    let rig = Rig::new().await;
    let owner = rig.test.pool().await;
    // Marking fails as if the relay had died just before it: the transaction that holds the rows is undone.
    sqlx::raw_sql(
        "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'died'; END $$;
         CREATE TRIGGER die BEFORE UPDATE ON event_outbox FOR EACH STATEMENT EXECUTE FUNCTION die()",
    )
    .execute(&owner)
    .await
    .unwrap();
    let id = rig.promise(1).await;
    let relay = rig.start(quick("a"));
    caracal_testing::wait_until(DEADLINE, async || !rig.numbers().await.is_empty()).await;
    sqlx::raw_sql("DROP TRIGGER die ON event_outbox")
        .execute(&owner)
        .await
        .unwrap();
    caracal_testing::wait_until(DEADLINE, async || {
        outbox::backlog(&mut rig.database.read().await.unwrap())
            .await
            .unwrap()
            .pending
            == 0
    })
    .await;
    relay.stop().await;
    let entries = rig.entries(stream::SESSIONS_REVOKE).await;
    assert!(
        entries.len() >= 2,
        "published before the crash, and again after it"
    );
    assert!(
        entries
            .iter()
            .all(|entry| entry.fields.get(stream::OUTBOX_ID) == Some(&id))
    );
}

#[tokio::test]
async fn an_outage_of_the_bus_loses_nothing_and_counts_no_attempt() {
    let rig = Rig::new().await;
    let proxy = FaultProxy::before(rig.redis.url()).await;
    let through = Arc::new(RedisBus::connect(&proxy.url_through(rig.redis.url())).unwrap());
    let relay = rig::start(rig.database.clone(), through, quick("a"));
    rig.promise(0).await;
    rig.until_numbers(&[0]).await;

    proxy.refuse();
    for n in 1..50 {
        rig.promise(n).await;
    }
    let outages = relay.stats.outages();
    caracal_testing::wait_until(DEADLINE, async || relay.stats.outages() > outages + 5).await;
    let (attempts, dead): (i64, i64) =
        sqlx::query_as("SELECT sum(attempts), count(*) FILTER (WHERE dead) FROM event_outbox")
            .fetch_one(&rig.test.pool().await)
            .await
            .unwrap();
    assert_eq!((attempts, dead), (0, 0), "an unreachable bus refuses nothing");

    proxy.resume();
    rig.until_numbers(&(0..50).collect::<Vec<_>>()).await;
    relay.stop().await;
}

#[tokio::test]
async fn an_outage_of_the_database_loses_nothing() {
    let rig = Rig::new().await;
    let proxy = FaultProxy::before(&rig.test.url()).await;
    let through = rig::connect(&proxy.url_through(&rig.test.url_as(Role::Sts))).await;
    let settings = RelaySettings {
        prune_after: None,
        ..quick("a")
    };
    let relay = rig::start(through, Arc::clone(&rig.bus), settings);
    rig.promise(0).await;
    rig.until_numbers(&[0]).await;
    proxy.refuse();
    rig.promise(1).await;
    caracal_testing::wait_until(DEADLINE, async || relay.stats.outages() > 2).await;
    assert_eq!(rig.numbers().await, [0]);
    proxy.resume();
    rig.until_numbers(&[0, 1]).await;
    // And it is woken again, not only polling.
    rig.promise(2).await;
    rig.until_numbers(&[0, 1, 2]).await;
    relay.stop().await;
}

#[tokio::test]
async fn a_stream_that_refuses_holds_up_no_other_and_its_messages_follow_later() {
    let rig = Rig::new().await;
    let mut redis = rig.redis.connection().await;
    let _: () = redis::cmd("SET")
        .arg(stream::SESSIONS_REVOKE)
        .arg("not a stream")
        .query_async(&mut redis)
        .await
        .unwrap();
    let relay = rig.start(quick("a"));
    rig.promise(1).await;
    rig.promise_on(stream::KEYS_INVALIDATE, 2).await;
    caracal_testing::wait_until(DEADLINE, async || {
        rig.entries(stream::KEYS_INVALIDATE).await.len() == 1
    })
    .await;
    caracal_testing::wait_until(DEADLINE, async || relay.stats.refused() >= 3).await;
    let _: () = redis::cmd("DEL")
        .arg(stream::SESSIONS_REVOKE)
        .query_async(&mut redis)
        .await
        .unwrap();
    rig.until_numbers(&[1]).await;
    relay.stop().await;
}

#[tokio::test]
async fn a_message_refused_too_often_is_set_aside_until_it_is_put_back() {
    let rig = Rig::new().await;
    let mut redis = rig.redis.connection().await;
    let _: () = redis::cmd("SET")
        .arg(stream::SESSIONS_REVOKE)
        .arg("not a stream")
        .query_async(&mut redis)
        .await
        .unwrap();
    let relay = rig.start(RelaySettings {
        attempts_max: 3,
        ..quick("a")
    });
    rig.promise(1).await;
    rig.until_dead(1).await;
    assert_eq!(relay.stats.buried(), 1);
    let _: () = redis::cmd("DEL")
        .arg(stream::SESSIONS_REVOKE)
        .query_async(&mut redis)
        .await
        .unwrap();
    let backlog = outbox::backlog(&mut rig.database.read().await.unwrap())
        .await
        .unwrap();
    assert_eq!((backlog.pending, backlog.dead), (0, 1));
    let reason: String = sqlx::query_scalar("SELECT last_error FROM event_outbox")
        .fetch_one(&rig.test.pool().await)
        .await
        .unwrap();
    assert!(reason.contains("refused"), "{reason}");

    let mut tx = rig.database.write(ZoneScope::All).await.unwrap();
    assert_eq!(outbox::requeue(&mut tx, None).await.unwrap(), 1);
    tx.commit().await.unwrap();
    rig.until_numbers(&[1]).await;
    relay.stop().await;
}

#[tokio::test]
async fn one_message_that_cannot_be_signed_holds_up_no_other() {
    let rig = Rig::new().await;
    let owner = rig.test.pool().await;
    rig.promise(0).await;
    // Not through the front door, which would refuse it.
    sqlx::query("INSERT INTO event_outbox (id, stream_name, payload_json) VALUES ('bad', $1, '{\"n\": \"two\\nlines\"}')")
        .bind(stream::SESSIONS_REVOKE)
        .execute(&owner)
        .await
        .unwrap();
    rig.promise(1).await;
    let relay = rig.start(quick("a"));
    rig.until_numbers(&[0, 1]).await;
    rig.until_dead(1).await;
    assert_eq!(relay.stats.buried(), 1);
    let dead: Vec<String> = sqlx::query_scalar("SELECT id FROM event_outbox WHERE dead")
        .fetch_all(&owner)
        .await
        .unwrap();
    assert_eq!(dead, ["bad"]);
    relay.stop().await;
}

#[tokio::test]
async fn stopping_finishes_the_batch_in_hand() {
    let rig = Rig::new().await;
    for n in 0..100 {
        rig.promise(n).await;
    }
    let relay = rig.start(RelaySettings {
        batch: 10,
        ..quick("a")
    });
    caracal_testing::wait_until(DEADLINE, async || relay.stats.published() > 0).await;
    relay.stop().await;
    let marked: i64 = sqlx::query_scalar("SELECT count(*) FROM event_outbox WHERE dispatched_at IS NOT NULL")
        .fetch_one(&rig.test.pool().await)
        .await
        .unwrap();
    let out = rig.numbers().await;
    assert_eq!(
        usize::try_from(marked).unwrap(),
        out.len(),
        "what is out is marked"
    );
    let next = rig.start(quick("b"));
    rig.until_numbers(&(0..100).collect::<Vec<_>>()).await;
    next.stop().await;
}

#[tokio::test]
async fn old_rows_and_old_revocations_are_pruned() {
    let rig = Rig::new().await;
    let owner = rig.test.pool().await;
    sqlx::raw_sql(
        "INSERT INTO revocation_log (zone_id, kind, anchor_id, reason, expires_at)
         VALUES ('z', 'session', 'old', 'x', now() - interval '1 h'), ('z', 'session', 'live', 'x', now() + interval '1 h')",
    )
    .execute(&owner)
    .await
    .unwrap();
    rig.promise(1).await;
    let first = rig.start(quick("a"));
    rig.until_numbers(&[1]).await;
    first.stop().await;
    let pruning = rig.start(RelaySettings {
        prune_after: Some(Duration::ZERO),
        ..quick("b")
    });
    caracal_testing::wait_until(DEADLINE, async || {
        let left: i64 = sqlx::query_scalar("SELECT count(*) FROM event_outbox")
            .fetch_one(&owner)
            .await
            .unwrap();
        left == 0
    })
    .await;
    pruning.stop().await;
    let left: Vec<String> = sqlx::query_scalar("SELECT anchor_id FROM revocation_log")
        .fetch_all(&owner)
        .await
        .unwrap();
    assert_eq!(left, ["live"]);
}
