//! Work that is shared, retried, and put aside.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use caracal_bus::consumer::{Counts, DeadLetter, Delivery, Handler, Outcome, Settings, each};
use caracal_bus::{Bus, Entry, EntryId, GroupConsumer, GroupStart, MemoryBus, StreamKeys};
use caracal_testing::{wait_for, wait_until};
use caracal_wire::stream::{AUDIT_EVENTS, Fields};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::both::{NOW, SOON, keys, number, numbered, numbers, on_both};
use crate::cursor::publish;
use crate::flaky::FlakyBus;

on_both!(
    what_is_done_is_acknowledged,
    what_is_retried_comes_again_and_becomes_a_signed_dead_letter_in_the_end,
    what_can_never_be_done_is_put_aside_at_once_and_the_rest_goes_on,
    a_message_signed_wrongly_is_dropped_and_acknowledged,
    what_a_dead_consumer_left_is_taken_over,
    a_handler_may_write_dead_letters_its_own_way,
    a_missing_outcome_is_a_retry,
    evidence_is_removed_as_it_is_consumed,
    the_batch_under_way_is_finished_before_the_end,
);

struct Running {
    counts: Arc<Counts>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Running {
    async fn stop(self) {
        drop(self.stop);
        self.task.await.unwrap();
    }
}

fn settings(stream: &str) -> Settings {
    Settings {
        min_idle: Duration::from_millis(30),
        deliveries_max: 3,
        start: GroupStart::Beginning,
        ..Settings::new(stream, "g", "consumer-1")
    }
}

fn consume(bus: &Arc<dyn Bus>, settings: Settings, handler: impl Handler + 'static) -> Running {
    let consumer = GroupConsumer::new(Arc::clone(bus), keys(), settings);
    let counts = consumer.counts();
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(consumer.run(handler, async move { drop(stopped.await) }));
    Running { counts, stop, task }
}

/// Entries with the number of their deliveries.
type Seen = Arc<Mutex<Vec<(usize, u64)>>>;

/// Answers every entry as `outcome` says and keeps what it saw.
fn recorder(outcome: impl Fn(usize) -> Outcome + Send + 'static) -> (Seen, impl Handler) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record = Arc::clone(&seen);
    let handler = each(move |delivery: Delivery| {
        let n = number(&delivery.entry.fields);
        record.lock().unwrap().push((n, delivery.deliveries));
        std::future::ready(outcome(n))
    });
    (seen, handler)
}

async fn dead_letters(bus: &Arc<dyn Bus>, stream: &str, count: usize) -> Vec<Entry> {
    wait_for(SOON, async || {
        let read = bus.read(&[(stream, EntryId::ZERO)], 100, NOW).await.unwrap();
        read.into_iter()
            .next()
            .map(|(_, entries)| entries)
            .filter(|entries| entries.len() >= count)
    })
    .await
}

async fn none_pending(bus: &Arc<dyn Bus>, stream: &str) {
    wait_until(SOON, async || {
        bus.pending(stream, "g")
            .await
            .is_ok_and(|pending| pending.count == 0)
    })
    .await;
}

async fn what_is_done_is_acknowledged(bus: Arc<dyn Bus>) {
    publish(&bus, "s", numbers(0..250)).await;
    let (seen, handler) = recorder(|_| Outcome::Done);
    let running = consume(&bus, settings("s"), handler);
    wait_until(SOON, async || seen.lock().unwrap().len() == 250).await;
    none_pending(&bus, "s").await;
    assert_eq!(
        *seen.lock().unwrap(),
        (0..250).map(|n| (n, 1)).collect::<Vec<_>>()
    );
    wait_until(SOON, async || running.counts.done() == 250).await;
    running.stop().await;
}

async fn what_is_retried_comes_again_and_becomes_a_signed_dead_letter_in_the_end(bus: Arc<dyn Bus>) {
    publish(&bus, "s", numbers(7..8)).await;
    let original = bus.last_id("s").await.unwrap();
    let (seen, handler) = recorder(|_| Outcome::Retry);
    let running = consume(&bus, settings("s"), handler);
    let letters = dead_letters(&bus, "s.dead", 1).await;
    assert_eq!(*seen.lock().unwrap(), [(7, 1), (7, 2), (7, 3)]);
    let letter = &letters[0].fields;
    assert_eq!(letter["original_id"], original.to_string());
    assert_eq!(letter["error"], "not done after 3 deliveries");
    let values: BTreeMap<String, String> = serde_json::from_str(&letter["values"]).unwrap();
    assert_eq!(values["n"], "7");
    assert!(
        keys().verify("s", &values),
        "the original can be checked and published again"
    );
    assert!(keys().verify("s.dead", letter));
    none_pending(&bus, "s").await;
    assert_eq!((running.counts.retried(), running.counts.dead()), (2, 1));
    running.stop().await;
}

async fn what_can_never_be_done_is_put_aside_at_once_and_the_rest_goes_on(bus: Arc<dyn Bus>) {
    publish(&bus, "s", numbers(0..3)).await;
    let (seen, handler) = recorder(|n| {
        if n == 1 {
            Outcome::Dead("no\nsuch zone".to_owned())
        } else {
            Outcome::Done
        }
    });
    let running = consume(&bus, settings("s"), handler);
    let letters = dead_letters(&bus, "s.dead", 1).await;
    assert_eq!(
        letters[0].fields["error"], "no such zone",
        "signed text holds no control character"
    );
    none_pending(&bus, "s").await;
    assert_eq!(*seen.lock().unwrap(), [(0, 1), (1, 1), (2, 1)]);
    running.stop().await;
}

async fn a_message_signed_wrongly_is_dropped_and_acknowledged(bus: Arc<dyn Bus>) {
    bus.publish("s", &[numbered(0)]).await.unwrap();
    publish(&bus, "s", numbers(1..2)).await;
    let (seen, handler) = recorder(|_| Outcome::Done);
    let running = consume(&bus, settings("s"), handler);
    wait_until(SOON, async || seen.lock().unwrap().len() == 1).await;
    none_pending(&bus, "s").await;
    assert_eq!(*seen.lock().unwrap(), [(1, 1)]);
    assert_eq!(running.counts.unsigned(), 1);
    assert_eq!(
        bus.last_id("s.dead").await.unwrap(),
        EntryId::ZERO,
        "a forgery is not worth a dead letter"
    );
    running.stop().await;
}

async fn what_a_dead_consumer_left_is_taken_over(bus: Arc<dyn Bus>) {
    publish(&bus, "s", numbers(0..5)).await;
    bus.ensure_group("s", "g", GroupStart::Beginning).await.unwrap();
    bus.read_group("s", "g", "gone", 3, NOW).await.unwrap();
    let (seen, handler) = recorder(|_| Outcome::Done);
    let running = consume(&bus, settings("s"), handler);
    wait_until(SOON, async || seen.lock().unwrap().len() == 5).await;
    let mut seen = seen.lock().unwrap().clone();
    seen.sort_unstable();
    assert_eq!(seen, [(0, 2), (1, 2), (2, 2), (3, 1), (4, 1)]);
    none_pending(&bus, "s").await;
    running.stop().await;
}

struct OwnLetters;

#[async_trait]
impl Handler for OwnLetters {
    async fn handle(&mut self, batch: &[Delivery]) -> Vec<Outcome> {
        batch
            .iter()
            .map(|_| Outcome::Dead("hmac_verify_failed".to_owned()))
            .collect()
    }

    fn dead_letter(&self, stream: &str, entry: &Entry, reason: &str) -> DeadLetter {
        let mut fields = Fields::from([("reason".to_owned(), reason.to_owned())]);
        fields.extend(
            entry
                .fields
                .iter()
                .map(|(name, value)| (format!("src_{name}"), value.clone())),
        );
        DeadLetter {
            stream: format!("{stream}.dlq"),
            fields,
        }
    }
}

async fn a_handler_may_write_dead_letters_its_own_way(bus: Arc<dyn Bus>) {
    bus.publish(AUDIT_EVENTS, &numbers(4..5)).await.unwrap();
    let running = consume(
        &bus,
        Settings {
            signed: false,
            ..settings(AUDIT_EVENTS)
        },
        OwnLetters,
    );
    let letters = dead_letters(&bus, "caracal.audit.events.dlq", 1).await;
    assert_eq!(letters[0].fields["reason"], "hmac_verify_failed");
    assert_eq!(letters[0].fields["src_n"], "4");
    none_pending(&bus, AUDIT_EVENTS).await;
    running.stop().await;
}

struct Forgetful(bool);

#[async_trait]
impl Handler for Forgetful {
    async fn handle(&mut self, batch: &[Delivery]) -> Vec<Outcome> {
        let answers = if std::mem::replace(&mut self.0, true) {
            batch.len()
        } else {
            batch.len() - 1
        };
        vec![Outcome::Done; answers]
    }
}

async fn a_missing_outcome_is_a_retry(bus: Arc<dyn Bus>) {
    publish(&bus, "s", numbers(0..3)).await;
    let running = consume(&bus, settings("s"), Forgetful(false));
    wait_until(SOON, async || running.counts.done() == 3).await;
    assert_eq!(running.counts.retried(), 1);
    none_pending(&bus, "s").await;
    running.stop().await;
}

async fn evidence_is_removed_as_it_is_consumed(bus: Arc<dyn Bus>) {
    bus.publish(AUDIT_EVENTS, &numbers(0..100)).await.unwrap();
    let (seen, handler) = recorder(|_| Outcome::Done);
    let running = consume(
        &bus,
        Settings {
            signed: false,
            ..settings(AUDIT_EVENTS)
        },
        handler,
    );
    wait_until(SOON, async || seen.lock().unwrap().len() == 100).await;
    wait_until(SOON, async || {
        bus.extents(&[AUDIT_EVENTS]).await.unwrap()[0].length == 0
    })
    .await;
    running.stop().await;
}

struct Slow {
    begun: watch::Sender<bool>,
    go_on: watch::Receiver<bool>,
}

#[async_trait]
impl Handler for Slow {
    async fn handle(&mut self, batch: &[Delivery]) -> Vec<Outcome> {
        self.begun.send_replace(true);
        self.go_on.wait_for(|go_on| *go_on).await.unwrap();
        vec![Outcome::Done; batch.len()]
    }
}

async fn the_batch_under_way_is_finished_before_the_end(bus: Arc<dyn Bus>) {
    publish(&bus, "s", numbers(0..3)).await;
    let (begun, mut has_begun) = watch::channel(false);
    let (go_on, may_go_on) = watch::channel(false);
    let running = consume(
        &bus,
        settings("s"),
        Slow {
            begun,
            go_on: may_go_on,
        },
    );
    has_begun.wait_for(|begun| *begun).await.unwrap();
    let stopping = tokio::spawn(running.stop());
    go_on.send_replace(true);
    tokio::time::timeout(SOON, stopping).await.unwrap().unwrap();
    assert_eq!(bus.pending("s", "g").await.unwrap().count, 0);
}

#[tokio::test]
async fn two_consumers_share_a_group_without_doing_anything_twice() {
    let bus = crate::both::memory(caracal_bus::StreamLengths::default());
    let patient = Settings {
        min_idle: Duration::from_hours(1),
        batch: 7,
        ..settings("s")
    };
    let (seen, handler) = recorder(|_| Outcome::Done);
    let (other_seen, other_handler) = recorder(|_| Outcome::Done);
    let one = consume(&bus, patient.clone(), handler);
    let other = consume(
        &bus,
        Settings {
            consumer: "consumer-2".to_owned(),
            ..patient
        },
        other_handler,
    );
    for chunk in 0..10 {
        publish(&bus, "s", numbers(chunk * 100..chunk * 100 + 100)).await;
    }
    wait_until(SOON, async || {
        seen.lock().unwrap().len() + other_seen.lock().unwrap().len() >= 1000
    })
    .await;
    let mut all: Vec<_> = seen
        .lock()
        .unwrap()
        .iter()
        .chain(other_seen.lock().unwrap().iter())
        .copied()
        .collect();
    all.sort_unstable();
    assert_eq!(all, (0..1000).map(|n| (n, 1)).collect::<Vec<_>>());
    one.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_group_that_vanished_with_the_data_is_made_again_from_the_beginning() {
    let flaky = FlakyBus::new();
    let bus = flaky.as_bus();
    let (seen, handler) = recorder(|_| Outcome::Done);
    let running = consume(
        &bus,
        Settings {
            start: GroupStart::End,
            ..settings("s")
        },
        handler,
    );
    wait_until(SOON, async || bus.pending("s", "g").await.is_ok()).await;
    flaky.take_down();
    flaky.lose_everything();
    flaky.bring_up();
    publish(&bus, "s", numbers(0..2)).await;
    wait_until(SOON, async || seen.lock().unwrap().len() == 2).await;
    running.stop().await;
}

#[tokio::test]
async fn without_a_key_everything_is_accepted() {
    let bus = crate::both::memory(caracal_bus::StreamLengths::default());
    bus.publish("s", &numbers(0..1)).await.unwrap();
    let (seen, handler) = recorder(|_| Outcome::Done);
    let consumer = GroupConsumer::new(Arc::clone(&bus), StreamKeys::unsigned(), settings("s"));
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(consumer.run(handler, async move { drop(stopped.await) }));
    wait_until(SOON, async || seen.lock().unwrap().len() == 1).await;
    drop(stop);
    task.await.unwrap();
}

/// Says how many entries each batch had.
struct Sizes(Arc<Mutex<Vec<usize>>>);

#[async_trait]
impl Handler for Sizes {
    async fn handle(&mut self, batch: &[Delivery]) -> Vec<Outcome> {
        self.0.lock().unwrap().push(batch.len());
        vec![Outcome::Done; batch.len()]
    }
}

#[tokio::test]
async fn what_comes_soon_after_a_batch_is_handled_together() {
    let bus: Arc<dyn Bus> = Arc::new(MemoryBus::new());
    let sizes = Arc::new(Mutex::new(Vec::new()));
    let gathering = Settings {
        gather: Duration::from_millis(100),
        ..settings("s")
    };
    let running = consume(&bus, gathering, Sizes(Arc::clone(&sizes)));
    // A machine that stands still for longer than entries gather is given another chance; without gathering there is none.
    for attempt in 1.. {
        publish(&bus, "s", numbers(0..1)).await;
        wait_until(SOON, async || sizes.lock().unwrap().iter().sum::<usize>() == 1).await;
        for n in 1..4 {
            publish(&bus, "s", numbers(n..n + 1)).await;
            // The consumer has its turn, and as many as it wants.
            for _turn in 0..50 {
                tokio::task::yield_now().await;
            }
        }
        wait_until(SOON, async || sizes.lock().unwrap().iter().sum::<usize>() == 4).await;
        let handled = std::mem::take(&mut *sizes.lock().unwrap());
        if handled == [1, 3] {
            break;
        }
        assert!(attempt < 20, "{handled:?}");
    }
    running.stop().await;
}
