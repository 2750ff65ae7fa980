//! Which events does the publisher send next?

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

use bytes::Bytes;

use super::books::{Next, Position, Segment};
use super::recover::{segment_file, set_aside};
use super::{EVENT_BYTES_MAX, Shared};
use crate::frame::{self, Frame};

/// Bytes read at once; holds at least one event of any permitted size.
const READ_BYTES: usize = EVENT_BYTES_MAX + frame::HEADER_BYTES;
/// Events sent in one batch.
const BATCH_EVENTS: usize = 512;

/// Events in the order they were appended.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) events: Vec<Bytes>,
    /// Where the spool stands when the bus has taken them.
    pub(super) end: Position,
    /// Whether there was more than it holds.
    pub(super) is_full: bool,
}

/// The next batch, or `None` when everything written so far was published. Removes segments that were published to
/// their end. Blocks on the file system.
pub(super) fn next_batch(shared: &Shared) -> io::Result<Option<Batch>> {
    loop {
        match shared.books.next() {
            Next::Wait => return Ok(None),
            Next::Finished(segment) => remove(shared, segment)?,
            Next::Read { position, end } => {
                if let Some(batch) = read(shared, position, end)? {
                    return Ok(Some(batch));
                }
            }
        }
    }
}

/// Remembers that the bus has taken a batch. Blocks on the file system.
pub(super) fn settle(shared: &Shared, batch: &Batch) -> io::Result<()> {
    let events = u64::try_from(batch.events.len()).unwrap_or(u64::MAX);
    shared.books.published(batch.end, events);
    shared.position.save(batch.end)
}

fn read(shared: &Shared, position: Position, end: u64) -> io::Result<Option<Batch>> {
    let available = usize::try_from(end - position.offset).unwrap_or(usize::MAX);
    let mut content = vec![0; available.min(READ_BYTES)];
    let file = File::open(shared.directory.path().join(segment_file(position.segment)))?;
    file.read_exact_at(&mut content, position.offset)?;
    let content = Bytes::from(content);
    let mut events = Vec::new();
    let mut read_bytes = 0;
    while events.len() < BATCH_EVENTS
        && let Some(rest) = content.get(read_bytes..)
        && let Frame::Whole {
            written_unix_ms,
            payload,
        } = frame::read(rest)
    {
        if events.is_empty() {
            shared.books.oldest(written_unix_ms);
        }
        let length = payload.end;
        events.push(content.slice(read_bytes + payload.start..read_bytes + payload.end));
        read_bytes += length;
    }
    if events.is_empty() {
        // It was whole when it was written or recovered: the disk has changed it since.
        set_aside(&shared.directory, position.segment, &content)?;
        skip(shared, position, end)?;
        return Ok(None);
    }
    let offset = position.offset + u64::try_from(read_bytes).unwrap_or(u64::MAX);
    Ok(Some(Batch {
        events,
        end: Position { offset, ..position },
        is_full: offset < end,
    }))
}

fn skip(shared: &Shared, position: Position, end: u64) -> io::Result<()> {
    let end = Position {
        offset: end,
        ..position
    };
    shared.books.published(end, 0);
    shared.position.save(end)
}

fn remove(shared: &Shared, segment: Segment) -> io::Result<()> {
    match fs::remove_file(shared.directory.path().join(segment_file(segment.number))) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    shared.books.removed(segment);
    Ok(())
}
