//! Who writes the segment files? A caller that finds them free, for itself and for everybody who waits: no other thread is
//! woken for a write to the page cache. Where a write waits for the disk a thread of its own does it.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::books::Reservation;
use super::recover::segment_file;
use super::{Fsync, Shared, SpoolError};
use crate::frame;

/// One event on its way to the file.
#[derive(Debug)]
pub(super) struct Append {
    pub(super) event: Bytes,
    pub(super) room: Reservation,
    /// Absent when the caller itself is writing.
    pub(super) confirm: Option<Confirm>,
}

/// Tells a caller what became of its event.
pub(super) type Confirm = oneshot::Sender<Result<(), SpoolError>>;

/// The segment files; one writer at a time.
#[derive(Debug)]
pub(super) struct Writer {
    shared: Arc<Shared>,
    next_segment: u64,
    segment_bytes: u64,
    fsync: Fsync,
    current: Option<Current>,
    group: Group,
}

/// The segment being written.
#[derive(Debug)]
struct Current {
    file: File,
    bytes: u64,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, next_segment: u64, segment_bytes: u64, fsync: Fsync) -> Self {
        Self {
            shared,
            next_segment,
            segment_bytes,
            fsync,
            current: None,
            group: Group::default(),
        }
    }

    /// Writes all of them, with one write as long as the segment has room, and tells each caller that waits. Gives what
    /// became of the last one.
    pub(super) fn write(&mut self, appends: impl IntoIterator<Item = Append>) -> Result<(), SpoolError> {
        for append in appends {
            let filled = self.current.as_ref().map_or(0, |current| current.bytes) + self.group.length();
            if filled > 0 && filled + append.room.bytes() > self.segment_bytes {
                // What became of these, their callers are told.
                let _told = self.flush();
                self.close();
            }
            self.group.add(append, self.shared.clock.unix_ms());
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), SpoolError> {
        let mut group = std::mem::take(&mut self.group);
        let written = if group.appends.is_empty() {
            Ok(())
        } else {
            self.write_group(&group).map_err(|error| {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the evidence spool cannot be written"
                );
                self.mend_segment();
                SpoolError::Io(Arc::new(error))
            })
        };
        group.tell(&written);
        self.group = group;
        written
    }

    fn write_group(&mut self, group: &Group) -> io::Result<()> {
        let fsync = self.fsync;
        let current = self.open_segment()?;
        current.file.write_all(&group.bytes)?;
        if fsync == Fsync::Always {
            current.file.sync_data()?;
        }
        current.bytes += group.length();
        let events = u64::try_from(group.appends.len()).unwrap_or(u64::MAX);
        self.shared
            .books
            .written(group.length(), events, group.first_unix_ms);
        self.shared.written.notify_one();
        Ok(())
    }

    fn open_segment(&mut self) -> io::Result<&mut Current> {
        let current = match self.current.take() {
            Some(current) => current,
            None => self.create_segment()?,
        };
        Ok(self.current.insert(current))
    }

    fn create_segment(&mut self) -> io::Result<Current> {
        let number = self.next_segment;
        self.next_segment += 1;
        let file = self.shared.directory.create(&segment_file(number))?;
        if self.fsync == Fsync::Always {
            self.shared.directory.sync()?;
        }
        self.shared.books.begin(number);
        Ok(Current { file, bytes: 0 })
    }

    /// Nothing more is added to the segment being written.
    pub(super) fn close(&mut self) {
        if self.current.take().is_some() {
            self.shared.books.close();
        }
    }

    /// After a failed write nobody knows what the file ends with: it is cut back to the last confirmed event. Where that
    /// fails too another one is begun; else a full disk would get a new file for each event.
    pub(super) fn mend_segment(&mut self) {
        if let Some(current) = &self.current
            && let Err(error) = current.file.set_len(current.bytes)
        {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a half-written event could not be cut off"
            );
            self.close();
        }
    }
}

/// Bytes of its buffer that a group keeps for the next one.
const KEPT_BYTES: usize = 256 * 1024;

/// Appends that share one write.
#[derive(Debug, Default)]
struct Group {
    bytes: Vec<u8>,
    appends: Vec<(Reservation, Option<Confirm>)>,
    first_unix_ms: i64,
}

impl Group {
    fn add(&mut self, append: Append, unix_ms: i64) {
        if self.appends.is_empty() {
            self.first_unix_ms = unix_ms;
        }
        frame::write(&mut self.bytes, unix_ms, &append.event);
        self.appends.push((append.room, append.confirm));
    }

    fn length(&self) -> u64 {
        u64::try_from(self.bytes.len()).unwrap_or(u64::MAX)
    }

    /// Keeps the room of what was written, gives back that of what was not, and begins anew.
    fn tell(&mut self, written: &Result<(), SpoolError>) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES);
        for (room, confirm) in self.appends.drain(..) {
            if written.is_ok() {
                room.keep();
            }
            if let Some(confirm) = confirm {
                // The caller may have gone away; what was written is recorded all the same.
                let _gone = confirm.send(written.clone());
            }
        }
    }
}
