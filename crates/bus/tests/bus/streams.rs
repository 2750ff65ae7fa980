//! Publishing and reading.

use std::sync::Arc;
use std::time::Duration;

use caracal_bus::{Bus, BusError, EntryId, Extent};
use caracal_testing::{wait_for, wait_until};
use caracal_wire::stream::{AUDIT_EVENTS, Fields};

use crate::both::{NOW, SOON, number, numbered, numbers, on_both};

on_both!(
    entries_come_back_in_the_order_they_were_published,
    reading_is_strictly_after_the_position_and_bounded,
    several_streams_are_read_at_once_and_silent_ones_are_absent,
    a_read_waits_for_news_but_not_for_ever,
    an_extent_says_how_far_a_stream_reaches,
    any_text_survives_the_journey,
    a_message_without_fields_is_refused_and_takes_its_batch_along,
    each_command_is_one_round_trip_and_reads_are_none,
    the_incarnation_stays_while_the_store_lives;
    short: a_long_stream_is_shortened_and_evidence_is_not,
);

async fn entries_come_back_in_the_order_they_were_published(bus: Arc<dyn Bus>) {
    let ids = bus.publish("s", &numbers(0..300)).await.unwrap();
    assert_eq!(ids.len(), 300);
    assert!(ids.is_sorted_by(|earlier, later| earlier < later), "ids rise");
    assert_eq!(bus.last_id("s").await.unwrap(), ids[299]);
    assert_eq!(bus.first_id("s").await.unwrap(), Some(ids[0]));
    let read = bus.read(&[("s", EntryId::ZERO)], 1000, NOW).await.unwrap();
    let entries = &read[0].1;
    assert_eq!(entries.iter().map(|entry| entry.id).collect::<Vec<_>>(), ids);
    assert_eq!(
        entries
            .iter()
            .map(|entry| number(&entry.fields))
            .collect::<Vec<_>>(),
        (0..300).collect::<Vec<_>>()
    );
}

async fn reading_is_strictly_after_the_position_and_bounded(bus: Arc<dyn Bus>) {
    let ids = bus.publish("s", &numbers(0..5)).await.unwrap();
    let read = bus.read(&[("s", ids[1])], 2, NOW).await.unwrap();
    let seen: Vec<_> = read[0].1.iter().map(|entry| number(&entry.fields)).collect();
    assert_eq!(seen, [2, 3]);
    assert_eq!(bus.read(&[("s", ids[4])], 2, NOW).await.unwrap(), []);
}

async fn several_streams_are_read_at_once_and_silent_ones_are_absent(bus: Arc<dyn Bus>) {
    bus.publish("a", &numbers(0..2)).await.unwrap();
    bus.publish("b", &numbers(2..3)).await.unwrap();
    let from = [
        ("a", EntryId::ZERO),
        ("silent", EntryId::ZERO),
        ("b", EntryId::ZERO),
    ];
    let mut read = bus.read(&from, 10, NOW).await.unwrap();
    read.sort_by(|one, other| one.0.cmp(&other.0));
    let seen: Vec<_> = read
        .iter()
        .map(|(stream, entries)| (stream.as_str(), entries.len()))
        .collect();
    assert_eq!(seen, [("a", 2), ("b", 1)]);
}

async fn a_read_waits_for_news_but_not_for_ever(bus: Arc<dyn Bus>) {
    let started = tokio::time::Instant::now();
    let silence = bus
        .read(&[("s", EntryId::ZERO)], 10, Duration::from_millis(50))
        .await
        .unwrap();
    assert_eq!(silence, []);
    assert!(started.elapsed() >= Duration::from_millis(50), "it waited");
    let reader = Arc::clone(&bus);
    let waiting = tokio::spawn(async move { reader.read(&[("s", EntryId::ZERO)], 10, SOON).await });
    bus.publish("s", &[numbered(7)]).await.unwrap();
    let news = tokio::time::timeout(SOON / 2, waiting)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(number(&news[0].1[0].fields), 7);
}

async fn an_extent_says_how_far_a_stream_reaches(bus: Arc<dyn Bus>) {
    let ids = bus.publish("s", &numbers(0..3)).await.unwrap();
    let extents = bus.extents(&["s", "never"]).await.unwrap();
    assert_eq!(
        extents,
        [
            Extent {
                added: 3,
                length: 3,
                first: Some(ids[0]),
                last: ids[2]
            },
            Extent::default()
        ]
    );
    assert_eq!(bus.last_id("never").await.unwrap(), EntryId::ZERO);
    assert_eq!(bus.first_id("never").await.unwrap(), None);
}

async fn any_text_survives_the_journey(bus: Arc<dyn Bus>) {
    let fields = Fields::from([
        ("empty".to_owned(), String::new()),
        ("ünï".to_owned(), "☃ \"quoted\" \\ \n\u{0}\u{1F600}".to_owned()),
    ]);
    bus.publish("s", std::slice::from_ref(&fields)).await.unwrap();
    let read = bus.read(&[("s", EntryId::ZERO)], 1, NOW).await.unwrap();
    assert_eq!(read[0].1[0].fields, fields);
}

async fn a_message_without_fields_is_refused_and_takes_its_batch_along(bus: Arc<dyn Bus>) {
    let refused = bus.publish("s", &[numbered(0), Fields::new()]).await;
    assert!(matches!(refused, Err(BusError::Refused(_))), "{refused:?}");
    assert_eq!(
        bus.last_id("s").await.unwrap(),
        EntryId::ZERO,
        "a batch is taken as a whole or not at all"
    );
}

async fn each_command_is_one_round_trip_and_reads_are_none(bus: Arc<dyn Bus>) {
    let before = bus.round_trips();
    bus.publish("s", &numbers(0..100)).await.unwrap();
    bus.publish("s", &[]).await.unwrap();
    bus.read(&[("s", EntryId::ZERO)], 10, NOW).await.unwrap();
    assert_eq!(bus.round_trips() - before, 1);
    bus.claim_once("key", "value", crate::both::now_ms() + 60_000)
        .await
        .unwrap();
    assert_eq!(bus.round_trips() - before, 2);
    bus.extents(&["s", "t"]).await.unwrap();
    bus.ping().await.unwrap();
    assert_eq!(bus.round_trips() - before, 4);
}

async fn the_incarnation_stays_while_the_store_lives(bus: Arc<dyn Bus>) {
    let incarnation = bus.incarnation().await.unwrap();
    assert!(!incarnation.is_empty());
    assert_eq!(bus.incarnation().await.unwrap(), incarnation);
}

async fn a_long_stream_is_shortened_and_evidence_is_not(bus: Arc<dyn Bus>) {
    for chunk in 0..10 {
        bus.publish("s", &numbers(chunk * 100..chunk * 100 + 100))
            .await
            .unwrap();
        bus.publish(AUDIT_EVENTS, &numbers(chunk * 100..chunk * 100 + 100))
            .await
            .unwrap();
    }
    let extents = bus.extents(&["s", AUDIT_EVENTS]).await.unwrap();
    assert_eq!(extents[0].added, 1000);
    assert!(
        (100..=300).contains(&extents[0].length),
        "kept {}",
        extents[0].length
    );
    assert_eq!(extents[0].removed(), 1000 - extents[0].length);
    assert_eq!(extents[1].length, 1000);
}

#[tokio::test]
async fn text_that_is_not_utf8_does_not_stop_the_stream() {
    let (redis, bus) = crate::both::redis(caracal_bus::StreamLengths::default()).await;
    let mut connection = redis.connection().await;
    let mut append = redis::cmd("XADD");
    append.arg("s").arg("*").arg(b"n\xff").arg(b"\xfe\xff");
    let _id: String = append.query_async(&mut connection).await.unwrap();
    bus.publish("s", &[numbered(1)]).await.unwrap();
    let read = bus.read(&[("s", EntryId::ZERO)], 10, NOW).await.unwrap();
    assert_eq!(read[0].1.len(), 2);
    assert_eq!(number(&read[0].1[1].fields), 1);
}

#[tokio::test]
async fn a_reader_that_is_given_up_leaves_nothing_behind() {
    let (_redis, bus) = crate::both::redis(caracal_bus::StreamLengths::default()).await;
    for _ in 0..3 {
        let given_up = tokio::time::timeout(
            Duration::from_millis(20),
            bus.read(&[("s", EntryId::ZERO)], 10, SOON),
        )
        .await;
        assert!(given_up.is_err());
    }
    bus.publish("s", &[numbered(1)]).await.unwrap();
    bus.publish("t", &[numbered(2)]).await.unwrap();
    let read = bus.read(&[("t", EntryId::ZERO)], 10, NOW).await.unwrap();
    assert_eq!(
        read[0].0, "t",
        "a late answer to an earlier read must not reach this one"
    );
    let entries = wait_for(SOON, async || {
        bus.read(&[("s", EntryId::ZERO)], 10, NOW).await.unwrap().pop()
    })
    .await;
    assert_eq!(entries.1.len(), 1);
    wait_until(SOON, async || bus.ping().await.is_ok()).await;
}
