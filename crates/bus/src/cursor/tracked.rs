//! Where does a cursor stand in one stream, and can it have missed an entry there?

use std::time::Duration;

use crate::bus::Extent;
use crate::entry::{Entry, EntryId};

/// One stream as a cursor follows it.
#[derive(Debug)]
pub(super) struct Tracked {
    pub(super) name: String,
    /// The last entry handled.
    pub(super) position: EntryId,
    /// Where the stream ended at the capture; entries up to here are read again under an overlap.
    captured: EntryId,
    /// How many entries the stream had ever been given up to `position`, counting those up to `captured` at once.
    counted: u64,
}

impl Tracked {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            position: EntryId::ZERO,
            captured: EntryId::ZERO,
            counted: 0,
        }
    }

    pub(super) fn capture(&mut self, extent: &Extent, overlap: Duration) {
        self.captured = extent.last;
        self.counted = extent.added;
        self.position = if overlap.is_zero() {
            extent.last
        } else {
            let overlap_ms = u64::try_from(overlap.as_millis()).unwrap_or(u64::MAX);
            EntryId::new(extent.last.ms().saturating_sub(overlap_ms), 0)
        };
    }

    pub(super) fn advance(&mut self, id: EntryId) {
        self.position = self.position.max(id);
        if id > self.captured {
            self.counted += 1;
        }
    }

    /// Whether the stream, as `extent` describes it after `news` were read, has lost entries this cursor had not
    /// read: more are gone than it had counted, or fewer were ever added than it has read.
    pub(super) fn has_hole(&self, extent: &Extent, news: &[Entry]) -> bool {
        let unread = news.iter().filter(|entry| entry.id > self.captured).count();
        let seen = self
            .counted
            .saturating_add(u64::try_from(unread).unwrap_or(u64::MAX));
        extent.removed() > self.counted || extent.added < seen || extent.last < self.captured
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use caracal_wire::stream::Fields;

    fn extent(added: u64, length: u64, last: u64) -> Extent {
        Extent {
            added,
            length,
            first: None,
            last: EntryId::new(last, 0),
        }
    }

    fn entries(ids: &[u64]) -> Vec<Entry> {
        ids.iter()
            .map(|id| Entry {
                id: EntryId::new(*id, 0),
                fields: Fields::new(),
            })
            .collect()
    }

    fn captured(extent: &Extent) -> Tracked {
        let mut tracked = Tracked::new("s");
        tracked.capture(extent, Duration::ZERO);
        tracked
    }

    #[test]
    fn trimming_what_was_read_is_no_hole_and_trimming_what_was_not_is_one() {
        let tracked = captured(&extent(10, 10, 100));
        assert!(
            !tracked.has_hole(&extent(12, 2, 102), &entries(&[101, 102])),
            "the ten removed were read before"
        );
        assert!(
            tracked.has_hole(&extent(13, 2, 103), &entries(&[102, 103])),
            "entry 101 is gone unread"
        );
    }

    #[test]
    fn a_stream_that_forgot_entries_is_a_hole() {
        let tracked = captured(&extent(10, 10, 100));
        assert!(tracked.has_hole(&extent(0, 0, 0), &[]));
        assert!(
            tracked.has_hole(&extent(3, 3, 300), &entries(&[298, 299, 300])),
            "ids go on after a restart, counts do not"
        );
        assert!(!tracked.has_hole(&extent(10, 10, 100), &[]));
    }

    #[test]
    fn entries_read_twice_under_an_overlap_are_counted_once() {
        let mut tracked = Tracked::new("s");
        tracked.capture(&extent(10, 10, 100_000), Duration::from_mins(1));
        assert_eq!(tracked.position, EntryId::new(40_000, 0));
        let again = entries(&[50_000, 100_000]);
        assert!(!tracked.has_hole(&extent(10, 10, 100_000), &again));
        for entry in &again {
            tracked.advance(entry.id);
        }
        assert!(!tracked.has_hole(&extent(11, 11, 100_001), &entries(&[100_001])));
    }
}
