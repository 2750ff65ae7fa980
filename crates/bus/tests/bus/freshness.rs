//! Watermarks.

use std::collections::BTreeMap;
use std::sync::Arc;

use caracal_bus::{Bus, Cursor, Freshness, Publisher, StreamKeys};
use caracal_testing::wait_until;
use caracal_wire::event::Watermark;
use caracal_wire::stream::WATERMARKS;

use crate::both::{SOON, key, keys, numbers, on_both};
use crate::cursor::{Running, follow, publish};

on_both!(
    a_watermark_proves_its_moment_once_its_entries_were_handed_over,
    a_watermark_signed_wrongly_proves_nothing,
    a_watermark_that_does_not_speak_of_a_stream_does_not_prove_it,
    the_last_watermark_before_the_capture_proves_at_once,
    an_earlier_moment_does_not_take_freshness_back,
    freshness_can_be_reported_elsewhere,
);

/// A watermark naming the ends of `streams` as they are now.
pub(crate) async fn publish_watermark(
    bus: &Arc<dyn Bus>,
    keys: &StreamKeys,
    streams: &[&str],
    as_of_unix_us: i64,
) {
    let extents = bus.extents(streams).await.unwrap();
    let ids = streams
        .iter()
        .zip(extents)
        .map(|(stream, extent)| ((*stream).to_owned(), extent.last.to_string()));
    publish_watermark_of(bus, keys, ids.collect(), as_of_unix_us).await;
}

async fn publish_watermark_of(
    bus: &Arc<dyn Bus>,
    keys: &StreamKeys,
    last_ids: BTreeMap<String, String>,
    as_of_unix_us: i64,
) {
    let watermark = Watermark {
        relay: "relay-1".to_owned(),
        as_of_unix_us,
        last_ids,
    };
    let publisher = Publisher::new(Arc::clone(bus), keys.clone());
    publisher
        .publish_signed(WATERMARKS, vec![watermark.to_fields()])
        .await
        .unwrap();
}

async fn is_proved(freshness: &Freshness, as_of_unix_us: i64) {
    wait_until(SOON, async || freshness.as_of_unix_us() == Some(as_of_unix_us)).await;
}

async fn a_watermark_proves_its_moment_once_its_entries_were_handed_over(bus: Arc<dyn Bus>) {
    let running = follow(&bus, &["s", "t"]).await;
    publish(&bus, "s", numbers(0..10)).await;
    publish_watermark(&bus, &keys(), &["s", "t"], 1_000_000).await;
    is_proved(&running.freshness, 1_000_000).await;
    assert_eq!(running.seen().len(), 10);

    // A watermark that names an entry this reader has not seen proves nothing until it comes.
    let to_come = bus.last_id("s").await.unwrap().ms() + 60_000;
    let ahead = BTreeMap::from([
        ("s".to_owned(), format!("{to_come}-0")),
        ("t".to_owned(), "0-0".to_owned()),
    ]);
    publish_watermark_of(&bus, &keys(), ahead, 2_000_000).await;
    publish(&bus, "t", numbers(10..11)).await;
    running.saw(&(0..11).collect::<Vec<_>>()).await;
    assert_eq!(running.freshness.as_of_unix_us(), Some(1_000_000));
    publish_watermark(&bus, &keys(), &["s", "t"], 3_000_000).await;
    is_proved(&running.freshness, 3_000_000).await;
    running.stop().await;
}

async fn a_watermark_signed_wrongly_proves_nothing(bus: Arc<dyn Bus>) {
    let running = follow(&bus, &["s"]).await;
    publish_watermark(&bus, &StreamKeys::single(key(9)), &["s"], 9_000_000).await;
    publish_watermark(&bus, &StreamKeys::unsigned(), &["s"], 9_000_000).await;
    publish_watermark(&bus, &keys(), &["s"], 1_000_000).await;
    is_proved(&running.freshness, 1_000_000).await;
    running.stop().await;
}

async fn a_watermark_that_does_not_speak_of_a_stream_does_not_prove_it(bus: Arc<dyn Bus>) {
    let running = follow(&bus, &["s", "t"]).await;
    publish_watermark(&bus, &keys(), &["s"], 9_000_000).await;
    publish_watermark(&bus, &keys(), &["s", "t", "u"], 1_000_000).await;
    is_proved(&running.freshness, 1_000_000).await;
    running.stop().await;
}

async fn the_last_watermark_before_the_capture_proves_at_once(bus: Arc<dyn Bus>) {
    publish(&bus, "s", numbers(0..10)).await;
    publish_watermark(&bus, &keys(), &["s"], 1_000_000).await;
    publish_watermark(&bus, &keys(), &["s"], 2_000_000).await;
    let running = follow(&bus, &["s"]).await;
    is_proved(&running.freshness, 2_000_000).await;
    assert!(running.seen().is_empty());
    running.stop().await;
}

async fn an_earlier_moment_does_not_take_freshness_back(bus: Arc<dyn Bus>) {
    let running = follow(&bus, &["s"]).await;
    publish_watermark(&bus, &keys(), &["s"], 5_000_000).await;
    publish_watermark(&bus, &keys(), &["s"], 4_000_000).await;
    publish(&bus, "s", numbers(0..1)).await;
    running.saw(&[0]).await;
    is_proved(&running.freshness, 5_000_000).await;
    running.stop().await;
}

async fn freshness_can_be_reported_elsewhere(bus: Arc<dyn Bus>) {
    let freshness = Freshness::new();
    let cursor = Cursor::start(Arc::clone(&bus), keys(), &["s"])
        .await
        .unwrap()
        .reporting_to(freshness.clone());
    let running = Running::new(cursor);
    publish_watermark(&bus, &keys(), &["s"], 5_000_000).await;
    is_proved(&freshness, 5_000_000).await;
    running.stop().await;
}
