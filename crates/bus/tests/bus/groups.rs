//! Consumer groups.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use caracal_bus::{Bus, BusError, EntryId, GroupStart};
use caracal_testing::wait_for;
use caracal_wire::stream::AUDIT_EVENTS;

use crate::both::{NOW, SOON, number, numbers, on_both};

const HOUR: Duration = Duration::from_hours(1);

on_both!(
    a_group_begins_where_it_was_told_and_exists_once,
    each_entry_goes_to_one_consumer_of_a_group_and_to_every_group,
    an_unacknowledged_entry_is_taken_over_only_when_idle_and_counts_its_deliveries,
    an_acknowledged_entry_does_not_come_again,
    more_than_a_screenful_of_idle_entries_is_taken_over_in_steps,
    a_missing_group_is_named,
    evidence_is_removed_when_every_group_with_a_consumer_has_acknowledged_it,
    evidence_nobody_reads_stays;
    short: a_pending_entry_that_was_trimmed_is_forgotten,
);

async fn a_group_begins_where_it_was_told_and_exists_once(bus: Arc<dyn Bus>) {
    assert!(bus.ensure_group("s", "early", GroupStart::End).await.unwrap());
    bus.publish("s", &numbers(0..2)).await.unwrap();
    assert!(bus.ensure_group("s", "all", GroupStart::Beginning).await.unwrap());
    assert!(bus.ensure_group("s", "late", GroupStart::End).await.unwrap());
    assert!(
        !bus.ensure_group("s", "late", GroupStart::Beginning)
            .await
            .unwrap(),
        "it exists and stays as it is"
    );
    bus.publish("s", &numbers(2..3)).await.unwrap();
    for (group, expected) in [("early", 3), ("all", 3), ("late", 1)] {
        let entries = bus.read_group("s", group, "c", 10, NOW).await.unwrap();
        assert_eq!(entries.len(), expected, "{group}");
    }
}

async fn each_entry_goes_to_one_consumer_of_a_group_and_to_every_group(bus: Arc<dyn Bus>) {
    bus.ensure_group("s", "g", GroupStart::Beginning).await.unwrap();
    bus.ensure_group("s", "h", GroupStart::Beginning).await.unwrap();
    bus.publish("s", &numbers(0..10)).await.unwrap();
    let mut seen = Vec::new();
    for consumer in ["a", "b", "a", "b"] {
        let entries = bus.read_group("s", "g", consumer, 3, NOW).await.unwrap();
        seen.extend(entries.iter().map(|entry| number(&entry.fields)));
    }
    assert_eq!(seen, (0..10).collect::<Vec<_>>());
    assert_eq!(bus.read_group("s", "g", "a", 3, NOW).await.unwrap(), []);
    assert_eq!(bus.read_group("s", "h", "a", 100, NOW).await.unwrap().len(), 10);
}

async fn an_unacknowledged_entry_is_taken_over_only_when_idle_and_counts_its_deliveries(bus: Arc<dyn Bus>) {
    bus.ensure_group("s", "g", GroupStart::Beginning).await.unwrap();
    bus.publish("s", &numbers(0..2)).await.unwrap();
    bus.read_group("s", "g", "a", 10, NOW).await.unwrap();
    assert_eq!(bus.reclaim("s", "g", "b", HOUR, 10).await.unwrap(), []);
    let idle = Duration::from_millis(30);
    let taken = wait_for(SOON, async || {
        let taken = bus.reclaim("s", "g", "b", idle, 10).await.unwrap();
        (!taken.is_empty()).then_some(taken)
    })
    .await;
    let seen: Vec<_> = taken
        .iter()
        .map(|(entry, deliveries)| (number(&entry.fields), *deliveries))
        .collect();
    assert_eq!(seen, [(0, 2), (1, 2)]);
    assert_eq!(
        bus.reclaim("s", "g", "a", HOUR, 10).await.unwrap(),
        [],
        "taking over makes it busy again"
    );
    let again = bus.reclaim("s", "g", "a", NOW, 1).await.unwrap();
    assert_eq!((again.len(), again[0].1), (1, 3));
}

async fn an_acknowledged_entry_does_not_come_again(bus: Arc<dyn Bus>) {
    bus.ensure_group("s", "g", GroupStart::Beginning).await.unwrap();
    let ids = bus.publish("s", &numbers(0..3)).await.unwrap();
    assert_eq!(bus.pending("s", "g").await.unwrap().count, 0);
    assert_eq!(bus.pending("s", "g").await.unwrap().oldest_idle, None);
    bus.read_group("s", "g", "a", 10, NOW).await.unwrap();
    let pending = bus.pending("s", "g").await.unwrap();
    assert_eq!(pending.count, 3);
    assert!(pending.oldest_idle.is_some());
    bus.ack("s", "g", &[]).await.unwrap();
    bus.ack("s", "g", &[ids[0], ids[2], EntryId::new(1, 1)])
        .await
        .unwrap();
    assert_eq!(bus.pending("s", "g").await.unwrap().count, 1);
    let left = bus.reclaim("s", "g", "b", NOW, 10).await.unwrap();
    assert_eq!(
        left.iter().map(|(entry, _)| entry.id).collect::<Vec<_>>(),
        [ids[1]]
    );
}

async fn more_than_a_screenful_of_idle_entries_is_taken_over_in_steps(bus: Arc<dyn Bus>) {
    bus.ensure_group("s", "g", GroupStart::Beginning).await.unwrap();
    bus.publish("s", &numbers(0..250)).await.unwrap();
    bus.read_group("s", "g", "a", 1000, NOW).await.unwrap();
    let mut seen = BTreeSet::new();
    for step in [100, 100, 50] {
        let taken = bus.reclaim("s", "g", "b", NOW, 100).await.unwrap();
        let taken = taken
            .into_iter()
            .filter(|(entry, _)| seen.insert(entry.id))
            .count();
        assert!(taken <= step || step == 50);
        let ids: Vec<_> = seen.iter().copied().collect();
        bus.ack("s", "g", &ids).await.unwrap();
    }
    assert_eq!(seen.len(), 250);
}

async fn a_missing_group_is_named(bus: Arc<dyn Bus>) {
    bus.publish("s", &numbers(0..1)).await.unwrap();
    let read = bus.read_group("s", "nobody", "c", 1, NOW).await.map(drop);
    let reclaimed = bus.reclaim("s", "nobody", "c", NOW, 1).await.map(drop);
    let pending = bus.pending("s", "nobody").await.map(drop);
    let no_stream = bus.read_group("t", "nobody", "c", 1, NOW).await.map(drop);
    for answer in [read, reclaimed, pending, no_stream] {
        assert!(
            matches!(&answer, Err(BusError::NoGroup { group, .. }) if group == "nobody"),
            "{answer:?}"
        );
    }
}

async fn a_pending_entry_that_was_trimmed_is_forgotten(bus: Arc<dyn Bus>) {
    bus.ensure_group("s", "g", GroupStart::Beginning).await.unwrap();
    bus.publish("s", &numbers(0..1)).await.unwrap();
    bus.read_group("s", "g", "a", 1, NOW).await.unwrap();
    for _ in 0..10 {
        bus.publish("s", &numbers(0..100)).await.unwrap();
    }
    assert_eq!(bus.reclaim("s", "g", "b", NOW, 10).await.unwrap(), []);
    assert_eq!(bus.pending("s", "g").await.unwrap().count, 0);
}

async fn evidence_is_removed_when_every_group_with_a_consumer_has_acknowledged_it(bus: Arc<dyn Bus>) {
    for group in ["ingest", "siem", "unused"] {
        bus.ensure_group(AUDIT_EVENTS, group, GroupStart::Beginning)
            .await
            .unwrap();
    }
    let ids = bus.publish(AUDIT_EVENTS, &numbers(0..10)).await.unwrap();
    bus.read_group(AUDIT_EVENTS, "ingest", "a", 10, NOW)
        .await
        .unwrap();
    bus.read_group(AUDIT_EVENTS, "siem", "a", 6, NOW).await.unwrap();
    assert_eq!(
        bus.trim_consumed(AUDIT_EVENTS).await.unwrap(),
        0,
        "nothing is acknowledged"
    );
    bus.ack(AUDIT_EVENTS, "ingest", &ids).await.unwrap();
    bus.ack(AUDIT_EVENTS, "siem", &[ids[0], ids[1], ids[2], ids[4]])
        .await
        .unwrap();
    assert_eq!(
        bus.trim_consumed(AUDIT_EVENTS).await.unwrap(),
        3,
        "entry 3 is pending at the other group"
    );
    assert_eq!(bus.first_id(AUDIT_EVENTS).await.unwrap(), Some(ids[3]));
    bus.ack(AUDIT_EVENTS, "siem", &[ids[3], ids[5]]).await.unwrap();
    assert_eq!(
        bus.trim_consumed(AUDIT_EVENTS).await.unwrap(),
        3,
        "entries 6 to 9 were not given to it"
    );
    assert_eq!(bus.first_id(AUDIT_EVENTS).await.unwrap(), Some(ids[6]));
    let rest = bus.read_group(AUDIT_EVENTS, "siem", "a", 10, NOW).await.unwrap();
    assert_eq!(rest.len(), 4);
}

async fn evidence_nobody_reads_stays(bus: Arc<dyn Bus>) {
    assert_eq!(
        bus.trim_consumed(AUDIT_EVENTS).await.unwrap(),
        0,
        "the stream does not even exist"
    );
    bus.publish(AUDIT_EVENTS, &numbers(0..10)).await.unwrap();
    assert_eq!(bus.trim_consumed(AUDIT_EVENTS).await.unwrap(), 0);
    bus.ensure_group(AUDIT_EVENTS, "ingest", GroupStart::Beginning)
        .await
        .unwrap();
    assert_eq!(bus.trim_consumed(AUDIT_EVENTS).await.unwrap(), 0);
    assert_eq!(bus.extents(&[AUDIT_EVENTS]).await.unwrap()[0].length, 10);
}
