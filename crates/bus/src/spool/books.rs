//! What is in the spool, how far is it published, and is there room for more?

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Shared, SpoolError, SpoolLimits, SpoolStats};

/// One segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) number: u64,
    /// Bytes of whole, confirmed events at its beginning.
    pub(super) bytes: u64,
    /// Whether nothing will be added to it any more.
    pub(super) closed: bool,
}

/// A place in the spool: everything before it has been taken by the bus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) segment: u64,
    pub(super) offset: u64,
}

/// What an earlier process left.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) segments: VecDeque<Segment>,
    pub(super) position: Position,
    pub(super) pending_events: u64,
    pub(super) oldest_unix_ms: Option<i64>,
    pub(super) next_segment: u64,
}

#[derive(Debug)]
pub(super) struct Books {
    pages: Mutex<Pages>,
    /// Bytes of all segment files and of the appends under way.
    used_bytes: AtomicU64,
    limits: SpoolLimits,
}

#[derive(Debug)]
struct Pages {
    segments: VecDeque<Segment>,
    position: Position,
    pending_events: u64,
    oldest_unix_ms: Option<i64>,
}

/// What the publisher may read next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Events of one segment from `position` up to the offset `end`.
    Read { position: Position, end: u64 },
    /// A closed segment that was published to its end.
    Finished(Segment),
    /// Nothing yet.
    Wait,
}

impl Books {
    pub(super) fn new(found: Found, limits: SpoolLimits) -> Self {
        Self {
            used_bytes: AtomicU64::new(found.segments.iter().map(|segment| segment.bytes).sum()),
            limits,
            pages: Mutex::new(Pages {
                segments: found.segments,
                position: found.position,
                pending_events: found.pending_events,
                oldest_unix_ms: found.oldest_unix_ms,
            }),
        }
    }

    /// A new segment file, open for writing.
    pub(super) fn begin(&self, number: u64) {
        self.pages().segments.push_back(Segment {
            number,
            bytes: 0,
            closed: false,
        });
    }

    /// Events were added to the segment being written.
    pub(super) fn written(&self, bytes: u64, events: u64, unix_ms: i64) {
        let mut pages = self.pages();
        if let Some(segment) = pages.segments.back_mut() {
            segment.bytes += bytes;
        }
        pages.pending_events += events;
        pages.oldest_unix_ms.get_or_insert(unix_ms);
    }

    /// The segment being written is complete.
    pub(super) fn close(&self) {
        if let Some(segment) = self.pages().segments.back_mut() {
            segment.closed = true;
        }
    }

    pub(super) fn next(&self) -> Next {
        let pages = self.pages();
        let Some(segment) = pages.segments.front().copied() else {
            return Next::Wait;
        };
        // The first segment may be younger than the position: what was before it is gone.
        let offset = if pages.position.segment == segment.number {
            pages.position.offset
        } else {
            0
        };
        if offset < segment.bytes {
            let position = Position {
                segment: segment.number,
                offset,
            };
            Next::Read {
                position,
                end: segment.bytes,
            }
        } else if segment.closed {
            Next::Finished(segment)
        } else {
            Next::Wait
        }
    }

    /// The oldest pending event was written at this time.
    pub(super) fn oldest(&self, unix_ms: i64) {
        self.pages().oldest_unix_ms = Some(unix_ms);
    }

    /// The bus has taken `events` events up to `position`. A position already passed changes nothing.
    pub(super) fn published(&self, position: Position, events: u64) {
        let mut pages = self.pages();
        if position <= pages.position {
            return;
        }
        pages.position = position;
        pages.pending_events = pages.pending_events.saturating_sub(events);
        if pages.pending_events == 0 {
            pages.oldest_unix_ms = None;
        }
    }

    /// The file of this segment is gone.
    pub(super) fn removed(&self, segment: Segment) {
        let mut pages = self.pages();
        if pages
            .segments
            .front()
            .is_some_and(|front| front.number == segment.number)
        {
            pages.segments.pop_front();
            drop(pages);
            self.used_bytes.fetch_sub(segment.bytes, Ordering::Relaxed);
        }
    }

    pub(super) fn stats(&self, now_unix_ms: i64) -> SpoolStats {
        let pages = self.pages();
        let age =
            |oldest| Duration::from_millis(u64::try_from(now_unix_ms.saturating_sub(oldest)).unwrap_or(0));
        SpoolStats {
            pending_events: pages.pending_events,
            bytes: self.used_bytes.load(Ordering::Relaxed),
            total_bytes: self.limits.total_bytes,
            files: pages.segments.len(),
            oldest_age: pages.oldest_unix_ms.map(age),
        }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room for one event. Given back when dropped, kept when the event was written.
#[derive(Debug)]
pub(super) struct Reservation {
    shared: Arc<Shared>,
    bytes: u64,
}

impl Reservation {
    pub(super) fn take(shared: &Arc<Shared>, bytes: u64) -> Result<Self, SpoolError> {
        let books = &shared.books;
        if bytes > books.limits.segment_bytes {
            return Err(SpoolError::NotAnEvent("longer than a segment"));
        }
        books
            .used_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes)
                    .filter(|used| *used <= books.limits.total_bytes)
            })
            .map_err(|_used| SpoolError::Full)?;
        Ok(Self {
            shared: Arc::clone(shared),
            bytes,
        })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The event is in the segment file; its bytes are given back with the file.
    pub(super) fn keep(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shared
            .books
            .used_bytes
            .fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
