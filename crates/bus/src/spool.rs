//! Where does evidence go before the bus has taken it?
//!
//! A service appends each event to files of its own before the effect the event records. Appending is one write to
//! the page cache shared by all callers of that moment; a publisher moves the files' content to the audit stream and
//! removes what the bus has taken. Killing the process at any moment loses nothing that was appended
//! (docs/operating/spool.md).

mod books;
mod line;
mod position;
mod publish;
mod reader;
mod recover;
mod writer;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use crate::clock::StoreClock;
use crate::directory::{DirectoryError, OwnedDirectory};
use crate::frame;
use books::{Books, Reservation};
use line::Line;
use position::PositionFile;
pub use publish::run_publisher;
use writer::Writer;

/// Longest event, in bytes. Longer ones are refused: one entry must never be what a store cannot take.
pub const EVENT_BYTES_MAX: usize = 1024 * 1024;
/// A spool with less room than this counts as full. Few events are larger, most have less than a tenth of it.
const ROOM_BYTES: u64 = 16 * 1024;

/// How much a spool may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpoolLimits {
    /// Size at which a segment file is closed and the next one begun, in bytes. Default 16 MiB.
    pub segment_bytes: u64,
    /// Size of all segment files together at which appends are refused, in bytes; at least two segments. Default
    /// 1 GiB: at 1 KiB an event, a quarter of an hour of Redis outage at a thousand events a second.
    pub total_bytes: u64,
}

impl Default for SpoolLimits {
    fn default() -> Self {
        Self {
            segment_bytes: 16 * 1024 * 1024,
            total_bytes: 1024 * 1024 * 1024,
        }
    }
}

/// What an append waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// Until the operating system has the event: it survives the process, not a power cut.
    Never,
    /// Until the disk has the event: it survives a power cut as well.
    Always,
}

/// Why an event was not recorded.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SpoolError {
    /// The spool holds as much as it may. The request must be refused; there is room again when the bus takes events.
    #[error("the evidence spool is full")]
    Full,
    /// The file system failed.
    #[error("the evidence spool cannot be written")]
    Io(#[source] Arc<io::Error>),
    /// The event is not one line of JSON text, or longer than [`EVENT_BYTES_MAX`] or than a segment.
    #[error("the event cannot be spooled: {0}")]
    NotAnEvent(&'static str),
    /// The writer has ended.
    #[error("the evidence spool is closed")]
    Closed,
}

/// Why a spool could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory is used by another process or cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The limits contradict each other.
    #[error(
        "the total size of the spool must be at least twice the segment size, and a segment at least 4 KiB"
    )]
    Limits,
}

/// What was found when a spool was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Events that wait to be published.
    pub pending_events: u64,
    /// Bytes at the ends of segments that were no whole event and were cut off: appends that were never confirmed.
    pub torn_bytes: u64,
    /// Segments with a damaged event before their end. What followed is kept beside them in `<segment>.damaged`.
    pub damaged_segments: u64,
}

/// How a spool stands, for metrics and readiness.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpoolStats {
    /// Events that the bus has not taken yet.
    pub pending_events: u64,
    /// Size of the segment files and of the appends under way, in bytes.
    pub bytes: u64,
    /// Size at which appends are refused, in bytes.
    pub total_bytes: u64,
    /// Segment files, the one being written included.
    pub files: usize,
    /// How long the oldest pending event has been waiting.
    pub oldest_age: Option<Duration>,
}

impl SpoolStats {
    /// Whether the next event is likely to be taken: there is room for a large one.
    pub fn has_room(&self) -> bool {
        self.total_bytes.saturating_sub(self.bytes) >= ROOM_BYTES
    }
}

/// The evidence spool of one process. Clones share it; dropping the last one waits for the write under way and gives
/// the directory back.
#[derive(Clone, Debug)]
pub struct Spool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    line: Arc<Line>,
    thread: Option<std::thread::JoinHandle<()>>,
    shared: Arc<Shared>,
}

/// What appenders, the writer and the publisher have in common.
#[derive(Debug)]
struct Shared {
    directory: OwnedDirectory,
    books: Books,
    position: PositionFile,
    written: Notify,
    clock: StoreClock,
    publishing: AtomicBool,
}

impl Spool {
    /// Opens the spool in `directory`, creates it when it is missing, and recovers what an earlier process left.
    /// Blocks on the file system.
    ///
    /// # Errors
    /// [`OpenError::Directory`] when another process uses it (it is named) or it cannot be used;
    /// [`OpenError::Limits`].
    pub fn open(directory: &Path, limits: SpoolLimits, fsync: Fsync) -> Result<(Self, Recovery), OpenError> {
        Self::open_with_clock(directory, limits, fsync, StoreClock::system())
    }

    /// As [`Spool::open`], with a clock for the age of events.
    ///
    /// # Errors
    /// As [`Spool::open`].
    pub fn open_with_clock(
        directory: &Path,
        limits: SpoolLimits,
        fsync: Fsync,
        clock: StoreClock,
    ) -> Result<(Self, Recovery), OpenError> {
        if limits.segment_bytes < 4096 || limits.total_bytes / 2 < limits.segment_bytes {
            return Err(OpenError::Limits);
        }
        let failed = |source| DirectoryError::Io {
            directory: directory.to_owned(),
            source,
        };
        let owned = OwnedDirectory::take(directory)?;
        let (position, remembered) = PositionFile::open(&owned).map_err(failed)?;
        let (found, recovery) = recover::recover(&owned, remembered).map_err(failed)?;
        let next_segment = found.next_segment;
        let shared = Arc::new(Shared {
            directory: owned,
            books: Books::new(found, limits),
            position,
            written: Notify::new(),
            clock,
            publishing: AtomicBool::new(false),
        });
        let writer = Writer::new(Arc::clone(&shared), next_segment, limits.segment_bytes, fsync);
        let (line, thread) = Line::open(writer, fsync).map_err(failed)?;
        let inner = Inner {
            line,
            thread: Some(thread),
            shared,
        };
        Ok((Self(Arc::new(inner)), recovery))
    }

    /// Records one event, a JSON object on one line; resolves when the operating system (or, with [`Fsync::Always`],
    /// the disk) has it. Callers of the same moment share one write. Dropping the future may or may not record the
    /// event.
    ///
    /// # Errors
    /// [`SpoolError`] when the event is not recorded; then its effect must not happen.
    pub async fn append(&self, event: Bytes) -> Result<(), SpoolError> {
        check(&event)?;
        let shared = &self.0.shared;
        let bytes = u64::try_from(frame::HEADER_BYTES + event.len()).unwrap_or(u64::MAX);
        let room = Reservation::take(shared, bytes)?;
        self.0.line.append(event, room).await
    }

    /// How the spool stands. Takes one short lock.
    pub fn stats(&self) -> SpoolStats {
        self.0.shared.books.stats(self.0.shared.clock.unix_ms())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.line.close();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the writer of the evidence spool ended in a panic");
        }
    }
}

/// What is spooled becomes the `data` field of a stream entry: text, and for JSON on one line no byte below a space.
fn check(event: &[u8]) -> Result<(), SpoolError> {
    if event.is_empty() || event.len() > EVENT_BYTES_MAX {
        return Err(SpoolError::NotAnEvent("its length"));
    }
    // Looks at every byte, which is faster than to stop at the first.
    if event.iter().fold(0, |found, byte| found | u8::from(*byte < b' ')) != 0 {
        return Err(SpoolError::NotAnEvent(
            "a control character; write the JSON on one line",
        ));
    }
    match std::str::from_utf8(event) {
        Ok(_text) => Ok(()),
        Err(_not_text) => Err(SpoolError::NotAnEvent("not UTF-8")),
    }
}
