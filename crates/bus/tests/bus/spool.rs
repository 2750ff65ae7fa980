//! Evidence on disk.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use caracal_bus::spool::{
    EVENT_BYTES_MAX, Fsync, OpenError, Recovery, Spool, SpoolError, SpoolLimits, run_publisher,
};
use caracal_bus::{Bus, DirectoryError, EntryId, StoreClock};
use caracal_testing::{wait_for, wait_until};
use caracal_wire::audit;
use caracal_wire::stream::{AUDIT_EVENTS, Fields};
use futures_util::FutureExt;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::both::{NOW, SOON, key, keys, on_both};
use crate::flaky::FlakyBus;

on_both!(
    an_event_arrives_with_its_id_its_bytes_and_both_signatures,
    ten_thousand_concurrent_appends_all_arrive_and_each_writer_in_order,
);

/// Small segments, so that tests go through many of them.
const SMALL: SpoolLimits = SpoolLimits {
    segment_bytes: 8 * 1024,
    total_bytes: 64 * 1024 * 1024,
};

struct Publishing {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Publishing {
    fn start(spool: &Spool, bus: &Arc<dyn Bus>) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move { drop(stopped.await) };
        let task = tokio::spawn(run_publisher(
            spool.clone(),
            Arc::clone(bus),
            Some(key(7)),
            keys(),
            shutdown,
        ));
        Self { stop, task }
    }

    async fn stop(self) {
        drop(self.stop);
        self.task.await.unwrap();
    }
}

fn open(directory: &Path, limits: SpoolLimits) -> (Spool, Recovery) {
    Spool::open(directory, limits, Fsync::Never).unwrap()
}

/// As [`open`], once the blocking work of an aborted publisher has ended and given the directory back.
async fn reopen(directory: &Path, limits: SpoolLimits) -> (Spool, Recovery) {
    wait_for(SOON, async || Spool::open(directory, limits, Fsync::Never).ok()).await
}

fn event(writer: usize, n: usize) -> Bytes {
    Bytes::from(format!("{{\"id\":\"{writer}/{n}\",\"zone_id\":\"z\"}}"))
}

async fn append(spool: &Spool, range: std::ops::Range<usize>) {
    for n in range {
        spool.append(event(0, n)).await.unwrap();
    }
}

async fn published(bus: &Arc<dyn Bus>) -> Vec<Fields> {
    let read = bus
        .read(&[(AUDIT_EVENTS, EntryId::ZERO)], 1_000_000, NOW)
        .await
        .unwrap();
    read.into_iter()
        .flat_map(|(_, entries)| entries)
        .map(|entry| entry.fields)
        .collect()
}

async fn ids(bus: &Arc<dyn Bus>) -> Vec<String> {
    published(bus)
        .await
        .into_iter()
        .map(|fields| fields["id"].clone())
        .collect()
}

fn expected(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("0/{n}")).collect()
}

async fn drained(spool: &Spool) {
    wait_until(SOON, async || spool.stats().pending_events == 0).await;
}

fn segments(directory: &Path) -> Vec<PathBuf> {
    let mut segments: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "segment"))
        .collect();
    segments.sort();
    segments
}

/// What a killed process leaves: the files as they are at this moment, in a directory of their own.
fn copy_of(directory: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in fs::read_dir(directory).unwrap() {
        let file = file.unwrap();
        // A segment may be removed while we look.
        if let Ok(content) = fs::read(file.path()) {
            fs::write(copy.path().join(file.file_name()), content).unwrap();
        }
    }
    copy
}

async fn an_event_arrives_with_its_id_its_bytes_and_both_signatures(bus: Arc<dyn Bus>) {
    let directory = tempfile::tempdir().unwrap();
    let (spool, recovery) = open(directory.path(), SpoolLimits::default());
    assert_eq!(recovery, Recovery::default());
    let publishing = Publishing::start(&spool, &bus);
    let data = r#"{"id":"ev\u002d1", "zone_id":"z","metadata_json":{"b":1,"a":"ü \n"}}"#;
    spool.append(Bytes::from_static(data.as_bytes())).await.unwrap();
    spool.append(Bytes::from_static(b"not json")).await.unwrap();
    let next_line = "{\"id\":\"ev-3\",\"x\":\"\u{85}\"}";
    spool
        .append(Bytes::from_static(next_line.as_bytes()))
        .await
        .unwrap();
    drained(&spool).await;
    let entries = published(&bus).await;
    assert_eq!(entries[0]["id"], "ev-1");
    assert_eq!(entries[0]["data"], data, "byte for byte");
    assert!(audit::verify_data(&[7; 32], data.as_bytes(), &entries[0]["sig"]));
    assert!(keys().verify(AUDIT_EVENTS, &entries[0]));
    assert_eq!(entries[1].get("id"), None);
    assert_eq!(
        entries[1]["data"], "not json",
        "ingest will say what is wrong with it"
    );
    assert!(
        keys().verify(AUDIT_EVENTS, &entries[2]),
        "only what would break the signed text is refused"
    );
    assert!(audit::verify_data(
        &[7; 32],
        next_line.as_bytes(),
        &entries[2]["sig"]
    ));
    publishing.stop().await;
}

async fn ten_thousand_concurrent_appends_all_arrive_and_each_writer_in_order(bus: Arc<dyn Bus>) {
    let directory = tempfile::tempdir().unwrap();
    let limits = SpoolLimits {
        segment_bytes: 64 * 1024,
        ..SMALL
    };
    let (spool, _) = open(directory.path(), limits);
    let publishing = Publishing::start(&spool, &bus);
    let writers: Vec<_> = (0..500)
        .map(|writer| {
            let spool = spool.clone();
            tokio::spawn(async move {
                for n in 0..20 {
                    spool.append(event(writer, n)).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    drained(&spool).await;
    let mut next = BTreeMap::<usize, usize>::new();
    for id in ids(&bus).await {
        let (writer, n) = id.split_once('/').unwrap();
        let expected = next.entry(writer.parse().unwrap()).or_default();
        assert_eq!(n.parse::<usize>().unwrap(), *expected, "writer {writer}");
        *expected += 1;
    }
    assert_eq!(next.len(), 500);
    assert!(next.values().all(|count| *count == 20));
    publishing.stop().await;
    assert_eq!(
        segments(directory.path()).len(),
        1,
        "published segments are removed"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_who_waits_for_the_files_is_forgotten() {
    for (fsync, rounds) in [(Fsync::Never, 2_000), (Fsync::Always, 20)] {
        let directory = tempfile::tempdir().unwrap();
        let (spool, _) = Spool::open(directory.path(), SMALL, fsync).unwrap();
        for round in 0..rounds {
            // A few at once and then nobody: no later caller serves who was left behind.
            let together = Arc::new(tokio::sync::Barrier::new(4));
            let appends = (0..4).map(|writer| {
                let (spool, together) = (spool.clone(), Arc::clone(&together));
                tokio::spawn(async move {
                    together.wait().await;
                    spool.append(event(writer, round)).await
                })
            });
            let appends = futures_util::future::join_all(appends.collect::<Vec<_>>());
            let written = tokio::time::timeout(Duration::from_mins(1), appends).await;
            let written = written.expect("every append returns");
            assert!(written.iter().all(|append| matches!(append, Ok(Ok(())))));
        }
        assert_eq!(spool.stats().pending_events, 4 * rounds as u64);
    }
}

#[tokio::test]
async fn a_write_that_panics_fails_its_append_and_no_other() {
    for fsync in [Fsync::Never, Fsync::Always] {
        let directory = tempfile::tempdir().unwrap();
        let calls = AtomicUsize::new(0);
        let clock = StoreClock::new(move || {
            assert_ne!(
                calls.fetch_add(1, Ordering::SeqCst),
                1,
                "the second event has no time"
            );
            1
        });
        let (spool, _) = Spool::open_with_clock(directory.path(), SMALL, fsync, clock).unwrap();
        spool.append(event(0, 0)).await.unwrap();
        let second = spool.clone();
        let failed = tokio::spawn(async move { second.append(event(0, 1)).await }).await;
        assert!(!matches!(failed, Ok(Ok(()))), "{fsync:?}");
        let third = tokio::time::timeout(SOON, spool.append(event(0, 2))).await;
        third.expect("the next append returns").unwrap();
        assert_eq!(spool.stats().pending_events, 2, "{fsync:?}");
        drop(spool);
        let (_spool, recovery) = open(directory.path(), SMALL);
        assert_eq!(
            (
                recovery.pending_events,
                recovery.torn_bytes,
                recovery.damaged_segments
            ),
            (2, 0, 0)
        );
    }
}

#[tokio::test]
async fn ten_thousand_appends_at_once_share_writes() {
    let directory = tempfile::tempdir().unwrap();
    let (spool, _) = open(directory.path(), SpoolLimits::default());
    let appends: Vec<_> = (0..10_000)
        .map(|n| {
            let spool = spool.clone();
            tokio::spawn(async move { spool.append(event(0, n)).await })
        })
        .collect();
    for append in appends {
        append.await.unwrap().unwrap();
    }
    assert_eq!(spool.stats().pending_events, 10_000);
    drop(spool);
    let (_spool, recovery) = open(directory.path(), SpoolLimits::default());
    assert_eq!(
        recovery,
        Recovery {
            pending_events: 10_000,
            ..Recovery::default()
        }
    );
}

#[tokio::test]
async fn a_bus_that_is_down_delays_evidence_and_does_not_reorder_it() {
    let directory = tempfile::tempdir().unwrap();
    let flaky = FlakyBus::new();
    let bus = flaky.as_bus();
    flaky.take_down();
    let (spool, _) = open(directory.path(), SMALL);
    let publishing = Publishing::start(&spool, &bus);
    append(&spool, 0..1000).await;
    assert_eq!(spool.stats().pending_events, 1000);
    assert!(segments(directory.path()).len() > 3);
    flaky.bring_up();
    append(&spool, 1000..1100).await;
    drained(&spool).await;
    assert_eq!(ids(&bus).await, expected(0..1100));
    publishing.stop().await;
}

#[tokio::test]
async fn a_full_spool_refuses_until_the_bus_takes_events_again() {
    let directory = tempfile::tempdir().unwrap();
    let limits = SpoolLimits {
        segment_bytes: 4096,
        total_bytes: 16 * 1024,
    };
    let (spool, _) = open(directory.path(), limits);
    let mut accepted = 0;
    let refusal = loop {
        match spool.append(event(0, accepted)).await {
            Ok(()) => accepted += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refusal, SpoolError::Full), "{refusal:?}");
    let stats = spool.stats();
    assert!(stats.bytes <= limits.total_bytes);
    let on_disk: u64 = segments(directory.path())
        .iter()
        .map(|path| fs::metadata(path).unwrap().len())
        .sum();
    assert_eq!(stats.bytes, on_disk, "what is counted is what is there");
    assert!(matches!(
        spool.append(event(0, accepted)).await,
        Err(SpoolError::Full)
    ));

    let bus: Arc<dyn Bus> = crate::both::memory(caracal_bus::StreamLengths::default());
    let publishing = Publishing::start(&spool, &bus);
    wait_until(SOON, async || spool.append(event(0, accepted)).await.is_ok()).await;
    drained(&spool).await;
    assert_eq!(
        ids(&bus).await,
        expected(0..accepted + 1),
        "no refused event was recorded"
    );
    publishing.stop().await;
}

/// Moments looked at, and events written around each.
const KILLS: usize = 12;
const EVENTS_PER_KILL: usize = 400;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_moment_of_the_kill_every_confirmed_event_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let (spool, _) = open(directory.path(), SMALL);
    let confirmed = Arc::new(AtomicUsize::new(0));
    let kills = Arc::new(AtomicUsize::new(0));
    let (counted, seen) = (Arc::clone(&confirmed), Arc::clone(&kills));
    let writing = tokio::spawn(async move {
        for n in 0..KILLS * EVENTS_PER_KILL {
            while n > (seen.load(Ordering::SeqCst) + 1) * EVENTS_PER_KILL {
                tokio::task::yield_now().await;
            }
            spool.append(event(0, n)).await.unwrap();
            counted.store(n + 1, Ordering::SeqCst);
        }
    });
    for _ in 0..KILLS {
        let at_least = confirmed.load(Ordering::SeqCst);
        let killed = copy_of(directory.path());
        let (survivor, recovery) = open(killed.path(), SMALL);
        assert!(
            recovery.pending_events >= at_least as u64,
            "{} of {at_least}",
            recovery.pending_events
        );
        assert_eq!(recovery.damaged_segments, 0);
        let bus: Arc<dyn Bus> = crate::both::memory(caracal_bus::StreamLengths::default());
        let publishing = Publishing::start(&survivor, &bus);
        drained(&survivor).await;
        let ids = ids(&bus).await;
        assert_eq!(ids, expected(0..ids.len()));
        publishing.stop().await;
        kills.fetch_add(1, Ordering::SeqCst);
    }
    writing.await.unwrap();
}

#[tokio::test]
async fn a_torn_end_is_cut_off_wherever_it_was_torn() {
    let directory = tempfile::tempdir().unwrap();
    let (spool, _) = open(directory.path(), SpoolLimits::default());
    append(&spool, 0..3).await;
    drop(spool);
    let segment = segments(directory.path()).remove(0);
    let name = segment.file_name().unwrap();
    let content = fs::read(&segment).unwrap();
    let last_event = content.len() / 3;
    for cut in content.len() - last_event..content.len() {
        let copy = tempfile::tempdir().unwrap();
        fs::write(copy.path().join(name), &content[..cut]).unwrap();
        let (spool, recovery) = open(copy.path(), SpoolLimits::default());
        let torn_bytes = (cut - (content.len() - last_event)) as u64;
        assert_eq!(
            recovery,
            Recovery {
                pending_events: 2,
                torn_bytes,
                damaged_segments: 0
            },
            "cut at {cut}"
        );
        append(&spool, 2..4).await;
        let bus: Arc<dyn Bus> = crate::both::memory(caracal_bus::StreamLengths::default());
        let publishing = Publishing::start(&spool, &bus);
        drained(&spool).await;
        assert_eq!(ids(&bus).await, expected(0..4));
        publishing.stop().await;
    }
}

#[tokio::test]
async fn a_damaged_segment_is_kept_for_whoever_wants_to_look_and_the_rest_is_published() {
    let directory = tempfile::tempdir().unwrap();
    let (spool, _) = open(directory.path(), SMALL);
    append(&spool, 0..400).await;
    drop(spool);
    let all = segments(directory.path());
    assert!(all.len() > 2);
    let mut content = fs::read(&all[0]).unwrap();
    let per_event = 16 + event(0, 0).len();
    content[per_event + 20] ^= 1;
    fs::write(&all[0], &content).unwrap();
    let (spool, recovery) = open(directory.path(), SMALL);
    assert_eq!(recovery.damaged_segments, 1);
    let kept = fs::read(all[0].with_extension("damaged")).unwrap();
    assert_eq!(kept, &content[per_event..]);
    let bus: Arc<dyn Bus> = crate::both::memory(caracal_bus::StreamLengths::default());
    let publishing = Publishing::start(&spool, &bus);
    drained(&spool).await;
    let ids = ids(&bus).await;
    assert_eq!(ids[0], "0/0");
    assert_eq!(ids.last().unwrap(), "0/399");
    assert_eq!(ids.len() as u64, recovery.pending_events);
    publishing.stop().await;
}

#[tokio::test]
async fn a_publisher_killed_between_batches_goes_on_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let bus: Arc<dyn Bus> = crate::both::memory(caracal_bus::StreamLengths::default());
    let mut appended = 0;
    for round in 1..=5 {
        let (spool, recovery) = reopen(directory.path(), SMALL).await;
        assert!(
            round == 1 || recovery.pending_events < appended as u64,
            "what was published is not published again"
        );
        append(&spool, appended..appended + 1000).await;
        appended += 1000;
        let publishing = Publishing::start(&spool, &bus);
        wait_until(SOON, async || spool.stats().pending_events < 1000).await;
        // Not a shutdown: the task is gone in the middle of whatever it did.
        publishing.task.abort();
        drop(publishing.task.await);
        drop(spool);
    }
    let (spool, _) = reopen(directory.path(), SMALL).await;
    let publishing = Publishing::start(&spool, &bus);
    drained(&spool).await;
    publishing.stop().await;
    let mut seen = ids(&bus).await;
    let published = seen.len();
    seen.sort_by_key(|id| id[2..].parse::<usize>().unwrap());
    seen.dedup();
    assert_eq!(seen, expected(0..appended), "at least once");
    assert!(
        published < appended + 5 * 513,
        "and no more than one batch twice for each kill: {published}"
    );
}

#[tokio::test]
async fn what_was_published_before_a_clean_end_is_not_published_again() {
    let directory = tempfile::tempdir().unwrap();
    let bus: Arc<dyn Bus> = crate::both::memory(caracal_bus::StreamLengths::default());
    for round in 0..3 {
        let (spool, recovery) = open(directory.path(), SpoolLimits::default());
        assert_eq!(recovery.pending_events, 0);
        let publishing = Publishing::start(&spool, &bus);
        append(&spool, round * 10..round * 10 + 10).await;
        drained(&spool).await;
        publishing.stop().await;
    }
    assert_eq!(ids(&bus).await, expected(0..30));
    let (_spool, _) = open(directory.path(), SpoolLimits::default());
    assert!(segments(directory.path()).len() <= 1);
}

#[tokio::test]
async fn a_lost_position_means_publishing_again_and_a_position_ahead_of_the_files_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (spool, _) = open(directory.path(), SpoolLimits::default());
    append(&spool, 0..10).await;
    drop(spool);
    for nonsense in ["", "1", "1 60", "1 060\n", "1 60 1\n", "x y\n", "99"] {
        fs::write(directory.path().join("position"), nonsense).unwrap();
        let (_spool, recovery) = open(directory.path(), SpoolLimits::default());
        assert_eq!(recovery.pending_events, 10, "{nonsense:?}");
    }
    // As earlier versions wrote it: behind the second event.
    let events = fs::read(&segments(directory.path())[0]).unwrap();
    let two = events.len() / 5;
    fs::write(directory.path().join("position"), format!("1 {two}\n")).unwrap();
    let (spool, recovery) = open(directory.path(), SpoolLimits::default());
    assert_eq!(recovery.pending_events, 8);
    drop(spool);
    let numbers = format!("{:020} {:020}", 1, 99_999_999);
    let position = format!("{numbers} {:08x}\n", crc32fast::hash(numbers.as_bytes()));
    fs::write(directory.path().join("position"), position).unwrap();
    let (spool, recovery) = open(directory.path(), SpoolLimits::default());
    assert_eq!(recovery.pending_events, 0);
    let bus: Arc<dyn Bus> = crate::both::memory(caracal_bus::StreamLengths::default());
    let publishing = Publishing::start(&spool, &bus);
    append(&spool, 10..12).await;
    drained(&spool).await;
    assert_eq!(ids(&bus).await, expected(10..12));
    publishing.stop().await;
}

#[tokio::test]
async fn one_process_one_directory_and_nobody_else_may_read_it() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("deep/spool");
    let (spool, _) = open(&directory, SpoolLimits::default());
    append(&spool, 0..1).await;
    let refused = Spool::open(&directory, SpoolLimits::default(), Fsync::Never).unwrap_err();
    assert!(
        matches!(refused, OpenError::Directory(DirectoryError::InUse { .. })),
        "{refused:?}"
    );
    assert!(
        refused
            .to_string()
            .contains(&format!("process {}", std::process::id())),
        "{refused}"
    );
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory), 0o700);
    for file in fs::read_dir(&directory).unwrap() {
        let path = file.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    let clone = spool.clone();
    drop(spool);
    assert!(
        Spool::open(&directory, SpoolLimits::default(), Fsync::Never).is_err(),
        "a clone is still there"
    );
    drop(clone);
    open(&directory, SpoolLimits::default());
}

#[tokio::test]
async fn with_fsync_every_append_waits_for_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let (spool, _) = Spool::open(directory.path(), SMALL, Fsync::Always).unwrap();
    append(&spool, 0..300).await;
    assert_eq!(spool.stats().pending_events, 300);
    drop(spool);
    assert_eq!(open(directory.path(), SMALL).1.pending_events, 300);
}

#[tokio::test]
async fn what_is_no_event_is_refused_and_takes_no_room() {
    let directory = tempfile::tempdir().unwrap();
    let (spool, _) = open(directory.path(), SpoolLimits::default());
    for bad in [
        &b""[..],
        b"\xff\xfe",
        b"{\n}",
        b"{\"id\":\"\x00\"}",
        &vec![b' '; EVENT_BYTES_MAX + 1],
    ] {
        let refused = spool.append(Bytes::copy_from_slice(bad)).await;
        assert!(matches!(refused, Err(SpoolError::NotAnEvent(_))), "{refused:?}");
    }
    assert_eq!(spool.stats().bytes, 0);
    spool
        .append(Bytes::from(vec![b' '; EVENT_BYTES_MAX]))
        .await
        .unwrap();
    let bus: Arc<dyn Bus> = crate::both::memory(caracal_bus::StreamLengths::default());
    let publishing = Publishing::start(&spool, &bus);
    drained(&spool).await;
    assert_eq!(
        published(&bus).await[0]["data"].len(),
        EVENT_BYTES_MAX,
        "the longest event gets through"
    );
    publishing.stop().await;
}

#[tokio::test]
async fn limits_that_contradict_each_other_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    for limits in [
        SpoolLimits {
            segment_bytes: 100,
            total_bytes: 1_000_000,
        },
        SpoolLimits {
            segment_bytes: 10_000,
            total_bytes: 19_999,
        },
    ] {
        assert!(matches!(
            Spool::open(directory.path(), limits, Fsync::Never),
            Err(OpenError::Limits)
        ));
    }
}

#[tokio::test]
async fn the_age_of_the_oldest_event_is_told_and_survives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let now = Arc::new(AtomicI64::new(1_000_000));
    let clock = {
        let now = Arc::clone(&now);
        StoreClock::new(move || now.load(Ordering::SeqCst))
    };
    let reopen = || {
        Spool::open_with_clock(directory.path(), SMALL, Fsync::Never, clock.clone())
            .unwrap()
            .0
    };
    let spool = reopen();
    assert_eq!(spool.stats().oldest_age, None);
    append(&spool, 0..1).await;
    now.fetch_add(5_000, Ordering::SeqCst);
    append(&spool, 1..2).await;
    assert_eq!(spool.stats().oldest_age, Some(Duration::from_secs(5)));
    drop(spool);
    now.fetch_add(60_000, Ordering::SeqCst);
    let spool = reopen();
    assert_eq!(spool.stats().oldest_age, Some(Duration::from_secs(65)));
    let bus: Arc<dyn Bus> = crate::both::memory(caracal_bus::StreamLengths::default());
    let publishing = Publishing::start(&spool, &bus);
    drained(&spool).await;
    assert_eq!(spool.stats().oldest_age, None);
    publishing.stop().await;
}

#[tokio::test]
async fn a_second_publisher_of_the_same_spool_steps_back() {
    let directory = tempfile::tempdir().unwrap();
    let bus: Arc<dyn Bus> = crate::both::memory(caracal_bus::StreamLengths::default());
    let (spool, _) = open(directory.path(), SMALL);
    let publishing = Publishing::start(&spool, &bus);
    append(&spool, 0..1).await;
    drained(&spool).await;
    let second = Publishing::start(&spool, &bus);
    tokio::time::timeout(SOON, second.task).await.unwrap().unwrap();
    publishing.stop().await;
    let third = Publishing::start(&spool, &bus);
    append(&spool, 1..2).await;
    drained(&spool).await;
    third.stop().await;
    assert_eq!(ids(&bus).await, expected(0..2));
}

#[tokio::test]
async fn an_append_that_was_given_up_leaves_no_room_taken() {
    let directory = tempfile::tempdir().unwrap();
    let bus: Arc<dyn Bus> = crate::both::memory(caracal_bus::StreamLengths::default());
    let limits = SpoolLimits {
        segment_bytes: 4096,
        total_bytes: 8192,
    };
    let (spool, _) = open(directory.path(), limits);
    let publishing = Publishing::start(&spool, &bus);
    for n in 0..2000 {
        let append = spool.append(event(0, n));
        let mut append = std::pin::pin!(append);
        drop(append.as_mut().now_or_never());
        if n % 50 == 0 {
            drained(&spool).await;
        }
    }
    drained(&spool).await;
    wait_until(SOON, async || spool.stats().bytes <= limits.segment_bytes).await;
    publishing.stop().await;
}

#[tokio::test]
async fn a_publisher_that_was_aborted_can_be_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let bus: Arc<dyn Bus> = crate::both::memory(caracal_bus::StreamLengths::default());
    let (spool, _) = open(directory.path(), SMALL);
    let first = Publishing::start(&spool, &bus);
    append(&spool, 0..1).await;
    drained(&spool).await;
    first.task.abort();
    drop(first.task.await);
    let second = Publishing::start(&spool, &bus);
    append(&spool, 1..2).await;
    drained(&spool).await;
    second.stop().await;
    assert_eq!(ids(&bus).await, expected(0..2));
}
