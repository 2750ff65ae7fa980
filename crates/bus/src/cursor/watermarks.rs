//! Which watermark has a cursor reached?

use std::collections::VecDeque;

use caracal_wire::event::Watermark;
use tokio::time::Instant;

use super::tracked::Tracked;
use crate::entry::EntryId;

/// Watermarks waiting for the cursor to reach their positions. More than a cursor that keeps up ever holds.
const WAITING_MAX: usize = 256;

/// The watermarks read and not yet reached, each with the moment it was read.
#[derive(Debug, Default)]
pub(super) struct Watermarks(VecDeque<(Watermark, Instant)>);

impl Watermarks {
    /// Adds a watermark. When too many wait, the newest waiting one gives way: the oldest is the first that can be
    /// reached.
    pub(super) fn push(&mut self, watermark: Watermark, arrived: Instant) {
        if self.0.len() >= WAITING_MAX {
            self.0.pop_back();
        }
        self.0.push_back((watermark, arrived));
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Removes the watermarks reached and returns the latest moment they prove, in Unix microseconds, and when
    /// that proof was read.
    pub(super) fn take_reached(&mut self, tracked: &[Tracked]) -> Option<(i64, Instant)> {
        let mut proved = None;
        self.0.retain(|(watermark, arrived)| {
            let reached = is_reached(watermark, tracked);
            if reached {
                proved = proved.max(Some((watermark.as_of_unix_us, *arrived)));
            }
            !reached
        });
        proved
    }
}

/// A stream the watermark does not speak of is not proved by it.
fn is_reached(watermark: &Watermark, tracked: &[Tracked]) -> bool {
    tracked.iter().all(|stream| {
        let last = watermark
            .last_ids
            .get(&stream.name)
            .and_then(|id| id.parse::<EntryId>().ok());
        last.is_some_and(|last| stream.position >= last)
    })
}
