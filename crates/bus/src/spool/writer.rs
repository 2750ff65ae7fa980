//! Who writes the segment files: one thread, so that callers share writes and never block a request's thread.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::books::Reservation;
use super::recover::segment_file;
use super::{Fsync, Shared, SpoolError};
use crate::frame;

/// Appends taken with one look at the queue.
const GROUP_MAX: usize = 1_024;

/// One event on its way to the file.
#[derive(Debug)]
pub(super) struct Append {
    pub(super) event: Bytes,
    pub(super) room: Reservation,
    pub(super) confirm: oneshot::Sender<Result<(), SpoolError>>,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Append>,
    next_segment: u64,
    segment_bytes: u64,
    fsync: Fsync,
    current: Option<Current>,
}

/// The segment being written.
struct Current {
    file: File,
    bytes: u64,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        queue: mpsc::Receiver<Append>,
        next_segment: u64,
        segment_bytes: u64,
        fsync: Fsync,
    ) -> Self {
        Self {
            shared,
            queue,
            next_segment,
            segment_bytes,
            fsync,
            current: None,
        }
    }

    /// Until every handle of the spool is gone.
    pub(super) fn run(mut self) {
        let mut appends = Vec::with_capacity(GROUP_MAX);
        let mut group = Group::default();
        while self.queue.blocking_recv_many(&mut appends, GROUP_MAX) > 0 {
            for append in appends.drain(..) {
                let filled = self.current.as_ref().map_or(0, |current| current.bytes) + group.length();
                if filled > 0 && filled + append.room.bytes() > self.segment_bytes {
                    self.write(&mut group);
                    self.close();
                }
                group.add(append, self.shared.clock.unix_ms());
            }
            self.write(&mut group);
        }
        self.close();
    }

    fn write(&mut self, group: &mut Group) {
        if group.appends.is_empty() {
            return;
        }
        match self.try_write(group) {
            Ok(()) => group.confirm(),
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the evidence spool cannot be written"
                );
                self.give_up_segment();
                group.refuse(&SpoolError::Io(Arc::new(error)));
            }
        }
    }

    fn try_write(&mut self, group: &Group) -> io::Result<()> {
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

    fn close(&mut self) {
        if self.current.take().is_some() {
            self.shared.books.close();
        }
    }

    /// After a failed write nobody knows what the file ends with: cut it back to the last confirmed event and begin
    /// another one.
    fn give_up_segment(&mut self) {
        if let Some(current) = &self.current
            && let Err(error) = current.file.set_len(current.bytes)
        {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a half-written event could not be cut off"
            );
        }
        self.close();
    }
}

/// Appends that share one write.
#[derive(Default)]
struct Group {
    bytes: Vec<u8>,
    appends: Vec<(Reservation, oneshot::Sender<Result<(), SpoolError>>)>,
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

    fn confirm(&mut self) {
        self.bytes.clear();
        for (room, confirm) in self.appends.drain(..) {
            room.keep();
            // The caller may have gone away; the event is recorded all the same.
            let _gone = confirm.send(Ok(()));
        }
    }

    fn refuse(&mut self, error: &SpoolError) {
        self.bytes.clear();
        for (room, confirm) in self.appends.drain(..) {
            drop(room);
            let _gone = confirm.send(Err(error.clone()));
        }
    }
}
