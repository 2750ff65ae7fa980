//! How many entries does each stream keep?

use std::collections::BTreeMap;

use crate::bus::STREAM_LENGTH_DEFAULT;
use crate::consumer::DEAD_LETTERS_KEPT;
use caracal_wire::stream::{AUDIT_EVENTS, MINTS_COUNTED, WATERMARKS};

/// Watermarks kept. Only the last few matter; at one a second this is a quarter of an hour to look back on.
const WATERMARKS_KEPT: usize = 1_000;
/// Counts of mints kept: whoever is later than that is told how full the buckets are.
const COUNTS_KEPT: usize = 100;

/// How many entries each stream keeps at least; what is older goes when new entries are published. Redis removes whole
/// blocks, so somewhat more may stay (docs/contract/event-bus.md, "Length").
#[derive(Clone, Debug)]
pub struct StreamLengths {
    default: usize,
    exceptions: BTreeMap<String, Option<usize>>,
}

impl Default for StreamLengths {
    fn default() -> Self {
        Self::new(STREAM_LENGTH_DEFAULT)
    }
}

impl StreamLengths {
    /// `default` entries (at least 1) for every stream but: the audit stream and its dead letters (`.dlq`), which are
    /// never shortened by length; dead letters (`.dead`), of which [`DEAD_LETTERS_KEPT`] stay; and the watermarks and
    /// the counts of mints, of which only the last matter.
    pub fn new(default: usize) -> Self {
        let exceptions = BTreeMap::from([
            (AUDIT_EVENTS.to_owned(), None),
            (WATERMARKS.to_owned(), Some(WATERMARKS_KEPT)),
            (MINTS_COUNTED.to_owned(), Some(COUNTS_KEPT)),
        ]);
        Self {
            default: default.max(1),
            exceptions,
        }
    }

    /// Keeps `length` entries (at least 1) of `stream`, or all of them when `None`.
    #[must_use]
    pub fn with(mut self, stream: &str, length: Option<usize>) -> Self {
        self.exceptions
            .insert(stream.to_owned(), length.map(|length| length.max(1)));
        self
    }

    /// How many entries `stream` keeps; `None` for all.
    pub fn of(&self, stream: &str) -> Option<usize> {
        if let Some(length) = self.exceptions.get(stream) {
            return *length;
        }
        match stream.rsplit_once('.') {
            Some((_, "dlq")) => None,
            Some((_, "dead")) => Some(DEAD_LETTERS_KEPT),
            Some(_) | None => Some(self.default),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_is_never_removed_by_length() {
        let lengths = StreamLengths::default();
        assert_eq!(lengths.of("caracal.audit.events"), None);
        assert_eq!(lengths.of("caracal.audit.events.dlq"), None);
        assert_eq!(lengths.of("caracal.sessions.revoke"), Some(100_000));
        assert_eq!(lengths.of("caracal.sessions.revoke.dead"), Some(10_000));
        assert_eq!(
            lengths
                .with("caracal.sessions.revoke", Some(0))
                .of("caracal.sessions.revoke"),
            Some(1)
        );
    }
}
