//! Is a watermark ever ahead of what is out?
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    dead_code,
    reason = "a test that cannot be set up has failed; each test file uses its part of the rig"
)]

mod rig;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use caracal_bus::{Cursor, CursorEvent, EntryId, RedisBus};
use caracal_storage::ZoneScope;
use caracal_storage::outbox;
use caracal_testing::FaultProxy;
use caracal_wire::event::Watermark;
use caracal_wire::stream;
use rig::{DEADLINE, Rig, keys, numbered, quick};

/// A commit, with moments of the database's clock between which it happened, in Unix microseconds.
#[derive(Debug)]
struct Commit {
    outbox_id: String,
    after: i64,
}

async fn now_us(rig: &Rig) -> i64 {
    i64::try_from(rig.database.now().await.unwrap().unix_timestamp_nanos() / 1_000).unwrap()
}

/// Promises one message in a transaction that stays open for `open_seconds`.
async fn commit(rig: &Rig, n: usize, open_seconds: f64) -> Commit {
    let mut tx = rig.database.write(ZoneScope::All).await.unwrap();
    let outbox_id = outbox::enqueue(&mut tx, stream::SESSIONS_REVOKE, &numbered(n))
        .await
        .unwrap();
    sqlx::query("SELECT pg_sleep($1)")
        .bind(open_seconds)
        .execute(&mut tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    Commit {
        outbox_id,
        after: now_us(rig).await,
    }
}

async fn watermarks(rig: &Rig) -> Vec<Watermark> {
    rig.entries(stream::WATERMARKS)
        .await
        .iter()
        .map(|entry| {
            assert!(keys().verify(stream::WATERMARKS, &entry.fields));
            Watermark::from_fields(&entry.fields).unwrap()
        })
        .collect()
}

/// The position of each message on the stream of revocations, the first one if it went out twice.
async fn positions(rig: &Rig) -> BTreeMap<String, EntryId> {
    let mut positions = BTreeMap::new();
    for entry in rig.entries(stream::SESSIONS_REVOKE).await {
        positions
            .entry(entry.fields.get(stream::OUTBOX_ID).unwrap().clone())
            .or_insert(entry.id);
    }
    positions
}

fn end_of(watermark: &Watermark) -> EntryId {
    watermark
        .last_ids
        .get(stream::SESSIONS_REVOKE)
        .unwrap()
        .parse()
        .unwrap()
}

/// Checks the promise of every watermark against every commit; answers how many pairs it spoke about.
async fn check(rig: &Rig, commits: &[Commit]) -> usize {
    let positions = positions(rig).await;
    let mut spoken = 0;
    for watermark in watermarks(rig).await {
        for commit in commits
            .iter()
            .filter(|commit| commit.after <= watermark.as_of_unix_us)
        {
            let position = positions
                .get(&commit.outbox_id)
                .expect("committed before a watermark, so out");
            assert!(
                *position <= end_of(&watermark),
                "{commit:?} is at {position}, beyond {watermark:?}"
            );
            spoken += 1;
        }
    }
    spoken
}

#[tokio::test]
async fn everything_committed_before_a_watermark_is_at_or_before_its_positions() {
    let rig = Arc::new(Rig::new().await);
    let relays = [rig.start(quick("a")), rig.start(quick("b"))];
    // Short and long transactions overlap, so that rows become visible in another order than they were made.
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let rig = Arc::clone(&rig);
            tokio::spawn(async move {
                let mut commits = Vec::new();
                for n in 0..25 {
                    let open_seconds = if (n + writer) % 5 == 0 { 0.15 } else { 0.005 };
                    commits.push(commit(&rig, writer * 1_000 + n, open_seconds).await);
                }
                commits
            })
        })
        .collect();
    let mut commits = Vec::new();
    for writer in writers {
        commits.extend(writer.await.unwrap());
    }
    let last = commits.iter().map(|commit| commit.after).max().unwrap();
    caracal_testing::wait_until(DEADLINE, async || relays[0].stats.watermark_us() > last).await;
    let spoken = check(&rig, &commits).await;
    assert!(
        spoken > commits.len(),
        "the watermarks spoke about the commits, {spoken} times"
    );
    for relay in relays {
        relay.stop().await;
    }
}

#[tokio::test]
async fn an_open_transaction_does_not_hold_the_watermark_and_its_commit_is_not_claimed() {
    let rig = Rig::new().await;
    let relay = rig.start(quick("a"));
    let mut open = rig.database.write(ZoneScope::All).await.unwrap();
    let outbox_id = outbox::enqueue(&mut open, stream::SESSIONS_REVOKE, &numbered(1))
        .await
        .unwrap();
    let inserted = now_us(&rig).await;
    caracal_testing::wait_until(DEADLINE, async || relay.stats.watermark_us() > inserted).await;
    assert!(
        positions(&rig).await.is_empty(),
        "what is not committed is not out"
    );
    let before = now_us(&rig).await;
    open.commit().await.unwrap();
    let after = now_us(&rig).await;
    caracal_testing::wait_until(DEADLINE, async || relay.stats.watermark_us() > after).await;
    relay.stop().await;
    let position = positions(&rig).await.remove(&outbox_id).unwrap();
    let mut passed = 0;
    for watermark in watermarks(&rig).await {
        if end_of(&watermark) < position {
            assert!(
                watermark.as_of_unix_us <= after,
                "a watermark without the message claims no time after its commit"
            );
            passed += usize::from(watermark.as_of_unix_us > inserted && watermark.as_of_unix_us <= before);
        }
    }
    assert!(passed > 0, "watermarks went on while the transaction was open");
}

#[tokio::test]
async fn a_message_that_cannot_go_out_holds_every_watermark_back() {
    let rig = Rig::new().await;
    let mut redis = rig.redis.connection().await;
    let _: () = redis::cmd("SET")
        .arg(stream::AUDIT_EVENTS)
        .arg("not a stream")
        .query_async(&mut redis)
        .await
        .unwrap();
    let relay = rig.start(quick("a"));
    rig.promise_on(stream::AUDIT_EVENTS, 1).await;
    let committed = now_us(&rig).await;
    let seen = watermarks(&rig).await.len();
    caracal_testing::wait_until(DEADLINE, async || watermarks(&rig).await.len() > seen + 10).await;
    assert!(relay.stats.watermark_us() < committed);
    let _: () = redis::cmd("DEL")
        .arg(stream::AUDIT_EVENTS)
        .query_async(&mut redis)
        .await
        .unwrap();
    caracal_testing::wait_until(DEADLINE, async || relay.stats.watermark_us() > committed).await;
    relay.stop().await;
}

/// The whole way: a reader that follows the streams is stale while the relay cannot reach the bus, and fresh afterwards
/// only with everything that was committed meanwhile.
#[tokio::test]
async fn a_reader_is_stale_during_an_outage_and_fresh_again_with_everything_after_it() {
    let rig = Rig::new().await;
    let cursor = Cursor::start(Arc::clone(&rig.bus), keys(), &[stream::SESSIONS_REVOKE])
        .await
        .unwrap();
    let freshness = cursor.freshness();
    let seen = Arc::new(AtomicBool::new(false));
    let sees = Arc::clone(&seen);
    let reader = tokio::spawn(cursor.run(
        move |event| {
            if matches!(event, CursorEvent::Entry { .. }) {
                sees.store(true, Ordering::SeqCst);
            }
        },
        std::future::pending(),
    ));
    let proxy = FaultProxy::before(rig.redis.url()).await;
    let through = Arc::new(RedisBus::connect(&proxy.url_through(rig.redis.url())).unwrap());
    let relay = rig::start(rig.database.clone(), through, quick("a"));
    caracal_testing::wait_until(DEADLINE, async || freshness.as_of().is_some()).await;

    proxy.refuse();
    let committed = commit(&rig, 1, 0.0).await;
    let outages = relay.stats.outages();
    caracal_testing::wait_until(DEADLINE, async || relay.stats.outages() > outages + 3).await;
    assert!(
        freshness.as_of_unix_us().unwrap() < committed.after,
        "nothing proves the time after the outage began"
    );
    proxy.resume();
    caracal_testing::wait_until(DEADLINE, async || {
        freshness.as_of_unix_us().unwrap() > committed.after
    })
    .await;
    assert!(
        seen.load(Ordering::SeqCst),
        "fresh means that the revocation was read"
    );
    reader.abort();
    relay.stop().await;
}

#[tokio::test]
async fn watermarks_come_as_often_as_they_are_set_to() {
    let rig = Rig::new().await;
    let settings = caracal_relay::RelaySettings {
        watermark_every: Duration::from_millis(10),
        ..quick("a")
    };
    let relay = rig.start(settings);
    caracal_testing::wait_until(Duration::from_secs(10), async || {
        watermarks(&rig).await.len() > 50
    })
    .await;
    relay.stop().await;
    let all = watermarks(&rig).await;
    assert!(
        all.windows(2)
            .all(|pair| pair[0].as_of_unix_us < pair[1].as_of_unix_us)
    );
    assert!(all.iter().all(|watermark| watermark.relay == "a"));
    assert!(
        caracal_relay::STREAMS
            .iter()
            .all(|name| all[0].last_ids.contains_key(*name))
    );
}
