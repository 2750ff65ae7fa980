//! Following the streams, and noticing what was missed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use caracal_bus::cursor::{Positions, Reload};
use caracal_bus::{Bus, Cursor, CursorEvent, Freshness, Publisher, StreamKeys};
use caracal_testing::wait_until;
use caracal_wire::stream::Fields;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::both::{SOON, key, keys, number, numbers, on_both};
use crate::flaky::FlakyBus;
use crate::freshness::publish_watermark;

on_both!(
    every_entry_after_the_capture_is_handed_over_in_order,
    every_replica_reads_everything,
    an_entry_signed_wrongly_or_not_at_all_is_dropped,
    an_entry_signed_wrongly_counts_as_missed_until_a_snapshot_is_taken,
    a_flood_of_forged_entries_is_no_flood_of_reloads,
    an_entry_its_owner_cannot_read_counts_as_missed,
    the_previous_key_is_still_accepted,
    an_overlap_begins_before_the_end;
    short: trimming_what_was_read_is_no_loss,
    trimming_past_the_cursor_is_a_loss,
);

/// A cursor running in the background, and what it told its owner.
pub(crate) struct Running {
    pub(crate) seen: Arc<Mutex<Vec<usize>>>,
    pub(crate) reloads: Arc<Mutex<Vec<Reload>>>,
    pub(crate) losses: Arc<Mutex<usize>>,
    pub(crate) freshness: Freshness,
    pub(crate) positions: Positions,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<()>>,
}

impl Running {
    pub(crate) fn new(cursor: Cursor) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let reloads = Arc::new(Mutex::new(Vec::new()));
        let losses = Arc::new(Mutex::new(0));
        let (freshness, positions) = (cursor.freshness(), cursor.positions());
        let (seen_by, reloads_by, losses_by) = (Arc::clone(&seen), Arc::clone(&reloads), Arc::clone(&losses));
        let handler = move |event: CursorEvent<'_>| match event {
            CursorEvent::Entry { entry, .. } if entry.fields.contains_key("n") => {
                seen_by.lock().unwrap().push(number(&entry.fields));
            }
            CursorEvent::Entry { unreadable, .. } => unreadable.report(),
            CursorEvent::Lost(reload) => {
                *losses_by.lock().unwrap() += 1;
                reloads_by.lock().unwrap().push(reload);
            }
        };
        let task = tokio::spawn(cursor.run(handler, async move { drop(stopped.await) }));
        Self {
            seen,
            reloads,
            losses,
            freshness,
            positions,
            stop: Some(stop),
            task: Some(task),
        }
    }

    pub(crate) fn seen(&self) -> Vec<usize> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn losses(&self) -> usize {
        *self.losses.lock().unwrap()
    }

    pub(crate) async fn saw(&self, expected: &[usize]) {
        wait_until(SOON, async || self.seen().len() >= expected.len()).await;
        assert_eq!(self.seen(), expected);
    }

    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        self.task.take().unwrap().await.unwrap();
    }
}

pub(crate) async fn follow(bus: &Arc<dyn Bus>, streams: &[&str]) -> Running {
    Running::new(Cursor::start(Arc::clone(bus), keys(), streams).await.unwrap())
}

pub(crate) async fn publish(bus: &Arc<dyn Bus>, stream: &str, batch: Vec<Fields>) {
    Publisher::new(Arc::clone(bus), keys())
        .publish_signed(stream, batch)
        .await
        .unwrap();
}

async fn every_entry_after_the_capture_is_handed_over_in_order(bus: Arc<dyn Bus>) {
    publish(&bus, "s", numbers(0..5)).await;
    let cursor = Cursor::start(Arc::clone(&bus), keys(), &["s", "t"])
        .await
        .unwrap();
    publish(&bus, "s", numbers(5..1500)).await;
    let running = Running::new(cursor);
    running.saw(&(5..1500).collect::<Vec<_>>()).await;
    publish(&bus, "t", numbers(1500..1501)).await;
    running.saw(&(5..1501).collect::<Vec<_>>()).await;
    let last = bus.last_id("s").await.unwrap();
    wait_until(SOON, async || running.positions.of("s") == Some(last)).await;
    assert_eq!(running.losses(), 0);
    running.stop().await;
}

async fn every_replica_reads_everything(bus: Arc<dyn Bus>) {
    let replicas = [
        follow(&bus, &["s"]).await,
        follow(&bus, &["s"]).await,
        follow(&bus, &["s"]).await,
    ];
    publish(&bus, "s", numbers(0..10)).await;
    for replica in replicas {
        replica.saw(&(0..10).collect::<Vec<_>>()).await;
        replica.stop().await;
    }
}

async fn an_entry_signed_wrongly_or_not_at_all_is_dropped(bus: Arc<dyn Bus>) {
    let running = follow(&bus, &["s"]).await;
    let wrong_key = Publisher::new(Arc::clone(&bus), StreamKeys::single(key(9)));
    wrong_key.publish_signed("s", numbers(0..1)).await.unwrap();
    bus.publish("s", &numbers(1..2)).await.unwrap();
    let for_another_stream = keys().sign("t", numbers(2..3).remove(0)).unwrap();
    bus.publish("s", &[for_another_stream]).await.unwrap();
    let mut altered = keys().sign("s", numbers(3..4).remove(0)).unwrap();
    altered.insert("n".to_owned(), "4".to_owned());
    bus.publish("s", &[altered]).await.unwrap();
    publish(&bus, "s", numbers(5..6)).await;
    running.saw(&[5]).await;
    running.stop().await;
}

async fn forge(bus: &Arc<dyn Bus>, stream: &str, n: usize) {
    let forger = Publisher::new(Arc::clone(bus), StreamKeys::single(key(9)));
    forger.publish_signed(stream, numbers(n..n + 1)).await.unwrap();
}

/// Nothing counts as fresh until the one reload asked for is done; then it does, and no other is asked for.
async fn is_missed_until_reloaded(bus: &Arc<dyn Bus>, running: Running) {
    wait_until(SOON, async || running.losses() == 1).await;
    assert_eq!(running.freshness.as_of(), None);
    publish(bus, "s", numbers(5..6)).await;
    publish_watermark(bus, &keys(), &["s"], 2_000_000).await;
    publish(bus, "s", numbers(6..7)).await;
    running.saw(&[5, 6]).await;
    assert_eq!(
        running.freshness.as_of(),
        None,
        "what the entry said is not known yet"
    );
    running.reloads.lock().unwrap().pop().unwrap().done();
    wait_until(SOON, async || running.freshness.as_of_unix_us().is_some()).await;
    publish_watermark(bus, &keys(), &["s"], 3_000_000).await;
    wait_until(SOON, async || {
        running.freshness.as_of_unix_us() == Some(3_000_000)
    })
    .await;
    assert_eq!(running.losses(), 1, "the cursor went on after the entry");
    running.stop().await;
}

async fn an_entry_signed_wrongly_counts_as_missed_until_a_snapshot_is_taken(bus: Arc<dyn Bus>) {
    let running = follow(&bus, &["s"]).await;
    publish_watermark(&bus, &keys(), &["s"], 1_000_000).await;
    wait_until(SOON, async || running.freshness.as_of().is_some()).await;
    forge(&bus, "s", 0).await;
    is_missed_until_reloaded(&bus, running).await;
}

async fn an_entry_its_owner_cannot_read_counts_as_missed(bus: Arc<dyn Bus>) {
    let running = follow(&bus, &["s"]).await;
    let unreadable = Fields::from([("unknown".to_owned(), "1".to_owned())]);
    publish(&bus, "s", vec![unreadable]).await;
    is_missed_until_reloaded(&bus, running).await;
}

async fn a_flood_of_forged_entries_is_no_flood_of_reloads(bus: Arc<dyn Bus>) {
    let running = follow(&bus, &["s"]).await;
    let begun = tokio::time::Instant::now();
    for n in 0..200 {
        forge(&bus, "s", n).await;
        let reload = running.reloads.lock().unwrap().pop();
        if let Some(reload) = reload {
            reload.done();
        }
    }
    let last = bus.last_id("s").await.unwrap();
    wait_until(SOON, async || running.positions.of("s") == Some(last)).await;
    // What was forged after the last reload was asked for is covered by one more.
    wait_until(SOON, async || {
        let reload = running.reloads.lock().unwrap().pop();
        if let Some(reload) = reload {
            reload.done();
        }
        publish_watermark(&bus, &keys(), &["s"], 1_000_000).await;
        running.freshness.as_of().is_some()
    })
    .await;
    let most = 1 + usize::try_from(begun.elapsed().as_secs()).unwrap();
    assert!(running.losses() <= most, "{} in {most} s", running.losses());
    assert!(running.seen().is_empty());
    running.stop().await;
}

async fn the_previous_key_is_still_accepted(bus: Arc<dyn Bus>) {
    let rotated = StreamKeys::new(Some(key(2)), Some(key(1)));
    let running = Running::new(
        Cursor::start(Arc::clone(&bus), rotated.clone(), &["s"])
            .await
            .unwrap(),
    );
    publish(&bus, "s", numbers(0..1)).await;
    Publisher::new(Arc::clone(&bus), rotated)
        .publish_signed("s", numbers(1..2))
        .await
        .unwrap();
    running.saw(&[0, 1]).await;
    running.stop().await;
}

async fn an_overlap_begins_before_the_end(bus: Arc<dyn Bus>) {
    publish(&bus, "s", numbers(0..5)).await;
    let cursor = Cursor::start_with_overlap(Arc::clone(&bus), keys(), &["s"], Duration::from_mins(1))
        .await
        .unwrap();
    let running = Running::new(cursor);
    publish(&bus, "s", numbers(5..7)).await;
    running.saw(&(0..7).collect::<Vec<_>>()).await;
    assert_eq!(running.losses(), 0);
    running.stop().await;
}

async fn trimming_what_was_read_is_no_loss(bus: Arc<dyn Bus>) {
    let running = follow(&bus, &["s"]).await;
    for chunk in 0..20 {
        publish(&bus, "s", numbers(chunk * 50..chunk * 50 + 50)).await;
        running.saw(&(0..chunk * 50 + 50).collect::<Vec<_>>()).await;
    }
    assert_eq!(running.losses(), 0);
    running.stop().await;
}

async fn trimming_past_the_cursor_is_a_loss(bus: Arc<dyn Bus>) {
    let cursor = Cursor::start(Arc::clone(&bus), keys(), &["s"]).await.unwrap();
    publish_watermark(&bus, &keys(), &["s"], 5_000_000).await;
    for chunk in 0..20 {
        publish(&bus, "s", numbers(chunk * 50..chunk * 50 + 50)).await;
    }
    let running = Running::new(cursor);
    publish_watermark(&bus, &keys(), &["s"], 6_000_000).await;
    wait_until(SOON, async || running.losses() == 1).await;
    publish_watermark(&bus, &keys(), &["s"], 7_000_000).await;
    publish(&bus, "s", numbers(2000..2001)).await;
    wait_until(SOON, async || running.seen().last() == Some(&2000)).await;
    assert_eq!(
        running.freshness.as_of(),
        None,
        "nothing is fresh until the new snapshot is in place"
    );
    running.reloads.lock().unwrap().pop().unwrap().done();
    wait_until(SOON, async || {
        running.freshness.as_of_unix_us() == Some(7_000_000)
    })
    .await;
    assert_eq!(running.losses(), 1);
    running.stop().await;
}

#[tokio::test]
async fn a_store_that_lost_its_entries_is_a_loss_even_when_nothing_new_came() {
    let flaky = FlakyBus::new();
    let bus = flaky.as_bus();
    publish(&bus, "s", numbers(0..3)).await;
    let running = follow(&bus, &["s"]).await;
    flaky.take_down();
    flaky.lose_everything();
    flaky.bring_up();
    wait_until(SOON, async || running.losses() == 1).await;
    running.reloads.lock().unwrap().pop().unwrap().done();
    publish(&bus, "s", numbers(3..4)).await;
    running.saw(&[3]).await;
    running.stop().await;
}

#[tokio::test]
async fn a_restarted_store_may_have_lost_what_nobody_read_yet() {
    let flaky = FlakyBus::new();
    let bus = flaky.as_bus();
    let running = follow(&bus, &["s"]).await;
    publish(&bus, "s", numbers(0..1)).await;
    running.saw(&[0]).await;
    flaky.take_down();
    wait_until(SOON, async || running.freshness.as_of().is_none()).await;
    flaky.restart();
    flaky.bring_up();
    wait_until(SOON, async || running.losses() == 1).await;
    running.stop().await;
}

#[tokio::test]
async fn an_outage_without_loss_loses_nothing_and_asks_for_nothing() {
    let flaky = FlakyBus::new();
    let bus = flaky.as_bus();
    let running = follow(&bus, &["s"]).await;
    publish(&bus, "s", numbers(0..1)).await;
    running.saw(&[0]).await;
    flaky.take_down();
    assert!(bus.ping().await.is_err());
    flaky.bring_up();
    publish(&bus, "s", numbers(1..3)).await;
    running.saw(&[0, 1, 2]).await;
    assert_eq!(running.losses(), 0);
    running.stop().await;
}

#[tokio::test]
async fn an_owner_whose_snapshot_failed_is_asked_again() {
    let flaky = FlakyBus::new();
    let bus = flaky.as_bus();
    let running = follow(&bus, &["s"]).await;
    flaky.take_down();
    flaky.lose_everything();
    flaky.bring_up();
    wait_until(SOON, async || running.losses() == 1).await;
    drop(running.reloads.lock().unwrap().pop());
    wait_until(SOON, async || running.losses() == 2).await;
    running.reloads.lock().unwrap().pop().unwrap().done();
    publish_watermark(&bus, &keys(), &["s"], 1_000_000).await;
    wait_until(SOON, async || {
        running.freshness.as_of_unix_us() == Some(1_000_000)
    })
    .await;
    assert_eq!(running.losses(), 2);
    running.stop().await;
}

#[tokio::test]
async fn a_redis_that_was_emptied_is_a_loss() {
    let (redis, bus) = crate::both::redis(caracal_bus::StreamLengths::default()).await;
    publish(&bus, "s", numbers(0..3)).await;
    let running = follow(&bus, &["s"]).await;
    redis.empty().await;
    publish(&bus, "s", numbers(3..4)).await;
    wait_until(SOON, async || running.losses() == 1).await;
    assert_eq!(running.seen(), [3], "what did come is handed over all the same");
    running.stop().await;
}
