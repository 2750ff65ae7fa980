//! How does a time look in a JSON answer?

use serde::{Serialize, Serializer};
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

/// A time that is written as `2026-01-02T03:04:05.678Z`: UTC, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timestamp(pub(crate) OffsetDateTime);

impl Timestamp {
    /// With `digits` of the fraction of a second, 3 or 6; what lies beyond is cut off.
    fn text(self, digits: usize) -> String {
        let at = self.0.to_offset(UtcOffset::UTC);
        let micros = format!("{:06}", at.microsecond());
        format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{}Z",
            at.year(),
            u8::from(at.month()),
            at.day(),
            at.hour(),
            at.minute(),
            at.second(),
            micros.get(..digits).unwrap_or(&micros)
        )
    }

    /// As JSON shows it.
    pub(crate) fn milliseconds(self) -> String {
        self.text(3)
    }

    /// With everything the database knows, for cursors.
    pub(crate) fn microseconds(self) -> String {
        self.text(6)
    }

    /// Reads an RFC 3339 time.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        OffsetDateTime::parse(text, &Rfc3339).ok().map(Self)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.milliseconds())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc_and_cut_off() {
        let at = Timestamp::parse("2026-01-02T05:04:05.123999+02:00").unwrap();
        assert_eq!(at.milliseconds(), "2026-01-02T03:04:05.123Z");
        assert_eq!(at.microseconds(), "2026-01-02T03:04:05.123999Z");
        assert_eq!(Timestamp::parse(&at.microseconds()), Some(at));
        assert_eq!(Timestamp::parse("yesterday"), None);
    }
}
