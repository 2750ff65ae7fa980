//! What the in-process bus remembers over a restart.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use caracal_bus::{
    Bus, DirectoryError, EntryId, Extent, GroupStart, MemoryBus, MemorySettings, StreamLengths,
};
use caracal_wire::stream::AUDIT_EVENTS;

use crate::both::{NOW, number, numbers};

#[tokio::test]
async fn unconsumed_evidence_and_group_positions_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let ids = {
        let bus = MemoryBus::open(directory.path()).unwrap();
        bus.ensure_group(AUDIT_EVENTS, "audit-ingestor", GroupStart::End)
            .await
            .unwrap();
        let ids = bus.publish(AUDIT_EVENTS, &numbers(0..10)).await.unwrap();
        bus.read_group(AUDIT_EVENTS, "audit-ingestor", "a", 6, NOW)
            .await
            .unwrap();
        bus.ack(AUDIT_EVENTS, "audit-ingestor", &ids[..4]).await.unwrap();
        bus.reclaim(AUDIT_EVENTS, "audit-ingestor", "b", NOW, 1)
            .await
            .unwrap();
        ids
    };
    // Twice: what was compacted at the first opening is read at the second.
    for _ in 0..2 {
        let bus = MemoryBus::open(directory.path()).unwrap();
        assert_eq!(
            bus.pending(AUDIT_EVENTS, "audit-ingestor").await.unwrap().count,
            2
        );
        assert!(
            !bus.ensure_group(AUDIT_EVENTS, "audit-ingestor", GroupStart::End)
                .await
                .unwrap()
        );
    }
    let bus = MemoryBus::open(directory.path()).unwrap();
    let rest = bus
        .read_group(AUDIT_EVENTS, "audit-ingestor", "c", 100, NOW)
        .await
        .unwrap();
    assert_eq!(
        rest.iter().map(|entry| number(&entry.fields)).collect::<Vec<_>>(),
        [6, 7, 8, 9]
    );
    let left = bus
        .reclaim(AUDIT_EVENTS, "audit-ingestor", "c", NOW, 2)
        .await
        .unwrap();
    let left: Vec<_> = left
        .iter()
        .map(|(entry, deliveries)| (entry.id, *deliveries))
        .collect();
    assert_eq!(
        left,
        [(ids[4], 3), (ids[5], 2)],
        "deliveries are counted over the restart"
    );
    let new = bus.publish(AUDIT_EVENTS, &numbers(10..11)).await.unwrap();
    assert!(new[0] > ids[9], "ids go on");
}

#[tokio::test]
async fn what_was_trimmed_stays_trimmed_and_counted() {
    let directory = tempfile::tempdir().unwrap();
    let settings = || MemorySettings {
        lengths: StreamLengths::new(100),
        ..MemorySettings::default()
    };
    let (before, consumed) = {
        let bus = MemoryBus::open_with(directory.path(), settings()).unwrap();
        bus.publish("s", &numbers(0..250)).await.unwrap();
        bus.ensure_group(AUDIT_EVENTS, "g", GroupStart::Beginning)
            .await
            .unwrap();
        let ids = bus.publish(AUDIT_EVENTS, &numbers(0..5)).await.unwrap();
        bus.read_group(AUDIT_EVENTS, "g", "a", 5, NOW).await.unwrap();
        bus.ack(AUDIT_EVENTS, "g", &ids).await.unwrap();
        assert_eq!(bus.trim_consumed(AUDIT_EVENTS).await.unwrap(), 5);
        (bus.extents(&["s"]).await.unwrap()[0], ids[4])
    };
    for _ in 0..2 {
        let bus = MemoryBus::open_with(directory.path(), settings()).unwrap();
        let extents = bus.extents(&["s", AUDIT_EVENTS]).await.unwrap();
        assert_eq!(extents[0], before);
        assert_eq!(
            extents[1],
            Extent {
                added: 5,
                length: 0,
                first: None,
                last: consumed
            }
        );
    }
}

#[tokio::test]
async fn a_half_written_end_is_dropped_and_everything_before_it_stays() {
    let directory = tempfile::tempdir().unwrap();
    let journal = directory.path().join("journal");
    let bus = MemoryBus::open(directory.path()).unwrap();
    bus.publish("s", &numbers(0..1)).await.unwrap();
    let one = fs::read(&journal).unwrap();
    bus.publish("s", &numbers(1..2)).await.unwrap();
    let both = fs::read(&journal).unwrap();
    drop(bus);
    for cut in one.len()..=both.len() {
        let copy = tempfile::tempdir().unwrap();
        fs::write(copy.path().join("journal"), &both[..cut]).unwrap();
        let bus = MemoryBus::open(copy.path()).unwrap();
        let expected = if cut == both.len() { 2 } else { 1 };
        assert_eq!(
            bus.extents(&["s"]).await.unwrap()[0].length,
            expected,
            "cut at {cut}"
        );
        bus.publish("s", &numbers(2..3)).await.unwrap();
        drop(bus);
        let bus = MemoryBus::open(copy.path()).unwrap();
        assert_eq!(
            bus.extents(&["s"]).await.unwrap()[0].length,
            expected + 1,
            "writing goes on after the cut"
        );
    }
}

#[tokio::test]
async fn opening_compacts_the_journal() {
    let directory = tempfile::tempdir().unwrap();
    let settings = || MemorySettings {
        lengths: StreamLengths::new(10),
        ..MemorySettings::default()
    };
    let bus = MemoryBus::open_with(directory.path(), settings()).unwrap();
    for _ in 0..100 {
        bus.publish("s", &numbers(0..10)).await.unwrap();
    }
    drop(bus);
    let size = |directory: &Path| fs::metadata(directory.join("journal")).unwrap().len();
    let before = size(directory.path());
    let bus = MemoryBus::open_with(directory.path(), settings()).unwrap();
    assert!(
        size(directory.path()) * 10 < before,
        "{} of {before}",
        size(directory.path())
    );
    assert_eq!(bus.extents(&["s"]).await.unwrap()[0].added, 1000);
}

#[tokio::test]
async fn one_process_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let bus = MemoryBus::open(directory.path()).unwrap();
    assert!(matches!(
        MemoryBus::open(directory.path()),
        Err(DirectoryError::InUse { .. })
    ));
    drop(bus);
    MemoryBus::open(directory.path()).unwrap();
}

#[tokio::test]
async fn a_journal_of_nonsense_is_an_empty_bus() {
    let directory = tempfile::tempdir().unwrap();
    fs::File::create(directory.path().join("journal"))
        .unwrap()
        .write_all(&[0x5a; 1000])
        .unwrap();
    let bus = MemoryBus::open(directory.path()).unwrap();
    assert_eq!(bus.last_id("s").await.unwrap(), EntryId::ZERO);
    let read = bus
        .read(&[("s", EntryId::ZERO)], 1, Duration::from_millis(1))
        .await
        .unwrap();
    assert_eq!(read, []);
}
