//! At what moment? Points in time as numbers, read from and written to RFC 3339 text.
//!
//! Nothing here reads a clock. A moment that becomes coarser is always rounded down: an expiry then comes earlier, never
//! later.

use std::fmt;
use std::ops::{Add, Sub};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A moment in whole seconds since 1970-01-01T00:00:00Z (RFC 7519 `NumericDate`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixSeconds(pub i64);

impl UnixSeconds {
    /// Seconds since the epoch.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// This moment, `seconds` later; stops at the ends of the number range instead of wrapping.
    #[must_use]
    pub const fn plus_seconds(self, seconds: i64) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    /// Seconds from `earlier` to this moment; negative when this moment is the earlier one.
    pub const fn seconds_since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Reads RFC 3339 text; a fraction of a second is dropped.
    ///
    /// # Errors
    /// [`TimeError`] when the text is not an RFC 3339 date and time with offset.
    pub fn parse_rfc3339(text: &str) -> Result<Self, TimeError> {
        let moment = OffsetDateTime::parse(text, &Rfc3339).map_err(TimeError)?;
        Ok(Self(moment.unix_timestamp()))
    }

    /// The moment as RFC 3339 text in UTC, for example `2026-01-02T03:04:05Z`.
    ///
    /// Moments outside the years 0 to 9999 are written as the nearest representable one.
    pub fn to_rfc3339(self) -> String {
        format(i128::from(self.0) * 1_000_000_000)
    }
}

impl Add<i64> for UnixSeconds {
    type Output = Self;

    fn add(self, seconds: i64) -> Self {
        self.plus_seconds(seconds)
    }
}

impl Sub<i64> for UnixSeconds {
    type Output = Self;

    fn sub(self, seconds: i64) -> Self {
        Self(self.0.saturating_sub(seconds))
    }
}

impl fmt::Display for UnixSeconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A moment in microseconds since 1970-01-01T00:00:00Z: the precision of the database and of the audit ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMicros(pub i64);

impl UnixMicros {
    /// Microseconds since the epoch.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// The whole second this moment lies in.
    pub const fn seconds(self) -> UnixSeconds {
        UnixSeconds(self.0.div_euclid(1_000_000))
    }

    /// Nanoseconds since the epoch, always a multiple of 1000.
    pub const fn nanoseconds(self) -> i128 {
        self.0 as i128 * 1000
    }

    /// Reads RFC 3339 text; digits beyond the microsecond are cut off, not rounded.
    ///
    /// # Errors
    /// [`TimeError`] when the text is not an RFC 3339 date and time with offset.
    pub fn parse_rfc3339(text: &str) -> Result<Self, TimeError> {
        let moment = OffsetDateTime::parse(text, &Rfc3339).map_err(TimeError)?;
        let micros = moment.unix_timestamp_nanos().div_euclid(1000);
        // Years 0 to 9999 are within 3e17 microseconds of the epoch, so this cannot saturate.
        Ok(Self(i64::try_from(micros).unwrap_or(i64::MAX)))
    }

    /// The moment as RFC 3339 text in UTC, with as many digits of the fraction as it has, for example
    /// `2026-01-02T03:04:05.123456Z`.
    pub fn to_rfc3339(self) -> String {
        format(self.nanoseconds())
    }
}

impl Serialize for UnixMicros {
    /// Written as RFC 3339 text.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_rfc3339())
    }
}

impl<'de> Deserialize<'de> for UnixMicros {
    /// Read from RFC 3339 text.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse_rfc3339(&text).map_err(serde::de::Error::custom)
    }
}

/// A text is not an RFC 3339 date and time.
#[derive(Debug, thiserror::Error)]
#[error("not an RFC 3339 date and time")]
pub struct TimeError(#[source] time::error::Parse);

fn format(nanoseconds: i128) -> String {
    /// 0000-01-01T00:00:00Z.
    const FIRST: i128 = -62_167_219_200 * 1_000_000_000;
    /// 9999-12-31T23:59:59Z.
    const LAST: i128 = 253_402_300_799 * 1_000_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanoseconds.clamp(FIRST, LAST))
        .ok()
        .and_then(|moment| moment.format(&Rfc3339).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_number_agree() {
        let moment = UnixMicros::parse_rfc3339("2026-01-02T03:04:05.123456789Z").unwrap();
        assert_eq!(
            moment,
            UnixMicros(1_767_323_045_123_456),
            "the digits beyond the microsecond are cut off"
        );
        assert_eq!(moment.to_rfc3339(), "2026-01-02T03:04:05.123456Z");
        assert_eq!(moment.seconds().to_rfc3339(), "2026-01-02T03:04:05Z");
        assert_eq!(
            UnixSeconds::parse_rfc3339("2026-01-02T05:04:05.9+02:00").unwrap(),
            moment.seconds()
        );
    }

    #[test]
    fn a_moment_before_the_epoch_is_rounded_down_too() {
        assert_eq!(UnixMicros(-1).seconds(), UnixSeconds(-1));
        assert_eq!(
            UnixSeconds::parse_rfc3339("1969-12-31T23:59:59.5Z").unwrap(),
            UnixSeconds(-1)
        );
    }

    #[test]
    fn text_that_is_no_moment_is_refused() {
        for text in [
            "",
            "2026-01-02",
            "2026-01-02T03:04:05",
            "2026-02-30T00:00:00Z",
            "tomorrow",
        ] {
            assert!(UnixSeconds::parse_rfc3339(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn moments_at_the_ends_of_the_range_do_not_wrap() {
        assert_eq!(UnixSeconds(i64::MAX) + 1, UnixSeconds(i64::MAX));
        assert_eq!(UnixSeconds(i64::MAX).to_rfc3339(), "9999-12-31T23:59:59Z");
        assert_eq!(UnixMicros(i64::MIN).to_rfc3339(), "0000-01-01T00:00:00Z");
    }
}
