//! What one message of a stream is: its position and its fields.

use std::fmt;
use std::str::FromStr;

use caracal_wire::stream::Fields;

/// The position of an entry in its stream: milliseconds and a sequence number within them.
///
/// Ordered as the stream is. Written `<ms>-<seq>`; a bare `<ms>` is read as sequence 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    ms: u64,
    seq: u64,
}

impl EntryId {
    /// Before every entry of every stream.
    pub const ZERO: Self = Self { ms: 0, seq: 0 };

    /// The position `ms`-`seq`; `ms` is Unix milliseconds where the store chose the id.
    pub const fn new(ms: u64, seq: u64) -> Self {
        Self { ms, seq }
    }

    /// Unix milliseconds at which the store took the entry.
    pub const fn ms(self) -> u64 {
        self.ms
    }

    /// Number within the millisecond.
    pub const fn seq(self) -> u64 {
        self.seq
    }

    /// The largest position before this one; [`EntryId::ZERO`] has none and gives itself.
    #[must_use]
    pub const fn previous(self) -> Self {
        match (self.ms.checked_sub(1), self.seq.checked_sub(1)) {
            (_, Some(seq)) => Self { ms: self.ms, seq },
            (Some(ms), None) => Self { ms, seq: u64::MAX },
            (None, None) => Self::ZERO,
        }
    }

    /// The smallest position after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        match self.seq.checked_add(1) {
            Some(seq) => Self { ms: self.ms, seq },
            None => Self {
                ms: self.ms.saturating_add(1),
                seq: 0,
            },
        }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.ms, self.seq)
    }
}

/// The text is not `<ms>-<seq>`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the id of a stream entry")]
pub struct EntryIdError;

impl FromStr for EntryId {
    type Err = EntryIdError;

    fn from_str(text: &str) -> Result<Self, EntryIdError> {
        let (ms, seq) = text.split_once('-').unwrap_or((text, "0"));
        Ok(Self {
            ms: digits(ms)?,
            seq: digits(seq)?,
        })
    }
}

fn digits(text: &str) -> Result<u64, EntryIdError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(EntryIdError);
    }
    text.parse().map_err(|_overflow| EntryIdError)
}

/// One message of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it stands in its stream.
    pub id: EntryId,
    /// Its fields as they travel, `_sig` included.
    pub fields: Fields,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_what_they_print_and_sort_as_numbers() {
        let id: EntryId = "1700000000000-12".parse().unwrap();
        assert_eq!(id.to_string(), "1700000000000-12");
        assert_eq!("7".parse(), Ok(EntryId::new(7, 0)));
        assert!(
            EntryId::new(9, 10) > EntryId::new(9, 9),
            "sequence numbers compare as numbers, not as text"
        );
        assert!(EntryId::new(10, 0) > EntryId::new(9, 99));
        assert_eq!(EntryId::new(4, u64::MAX).next(), EntryId::new(5, 0));
        assert_eq!(EntryId::new(5, 0).previous(), EntryId::new(4, u64::MAX));
        assert_eq!(EntryId::ZERO.previous(), EntryId::ZERO);
    }

    #[test]
    fn text_that_is_no_id_is_refused() {
        for text in [
            "",
            "-",
            "1-",
            "-1",
            "+1-0",
            "1-2-3",
            "a-1",
            "99999999999999999999-0",
            "$",
            ">",
        ] {
            assert_eq!(text.parse::<EntryId>(), Err(EntryIdError), "{text:?}");
        }
    }
}
