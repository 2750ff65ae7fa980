//! Reading numbers that have a range: counts, durations, sizes.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::scalar::{format_duration, format_size, parse_duration, parse_size};
use super::Reader;

impl Reader<'_> {
    /// A whole number within `range`.
    pub fn integer(&mut self, key: &str, default: i64, range: RangeInclusive<i64>) -> i64 {
        let Some(found) = self.find(key) else {
            return default;
        };
        let mend = format!("write a whole number from {} to {}", range.start(), range.end());
        match found.text.trim().parse::<i64>() {
            Ok(number) if range.contains(&number) => number,
            Ok(number) => self.wrong(key, format!("is {number}, out of range"), mend, default),
            Err(_) => self.wrong(
                key,
                format!("is {:?}, not a whole number", found.text),
                mend,
                default,
            ),
        }
    }

    /// A duration with its unit, within `range`: `250ms`, `45s`, `1m30s`, `2h`.
    pub fn duration(&mut self, key: &str, default: Duration, range: RangeInclusive<Duration>) -> Duration {
        let Some(found) = self.find(key) else {
            return default;
        };
        let mend = format!(
            "write a duration with its unit from {} to {}, e.g. {}",
            format_duration(*range.start()),
            format_duration(*range.end()),
            format_duration(default)
        );
        match parse_duration(found.text.trim()) {
            Some(duration) if range.contains(&duration) => duration,
            Some(_) => self.wrong(key, format!("is {:?}, out of range", found.text), mend, default),
            None => self.wrong(key, format!("is {:?}, not a duration", found.text), mend, default),
        }
    }

    /// A duration whose name says its unit (`..._MS`): a whole number of milliseconds. A value with a unit is
    /// accepted too.
    pub fn milliseconds(
        &mut self,
        key: &str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        self.duration_in(key, default, range, Duration::from_millis(1))
    }

    /// A duration whose name says its unit (`..._SECONDS`, `..._SEC`): a whole number of seconds. A value with a
    /// unit is accepted too.
    pub fn seconds(&mut self, key: &str, default: Duration, range: RangeInclusive<Duration>) -> Duration {
        self.duration_in(key, default, range, Duration::from_secs(1))
    }

    /// A number of bytes within `range`: `1MiB`, `64KiB`; a plain integer is bytes.
    pub fn size(&mut self, key: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let Some(found) = self.find(key) else {
            return default;
        };
        let mend = format!(
            "write a size from {} to {}",
            format_size(*range.start()),
            format_size(*range.end())
        );
        match parse_size(found.text.trim()) {
            Some(bytes) if range.contains(&bytes) => bytes,
            Some(_) => self.wrong(key, format!("is {:?}, out of range", found.text), mend, default),
            None => self.wrong(key, format!("is {:?}, not a size", found.text), mend, default),
        }
    }

    fn duration_in(
        &mut self,
        key: &str,
        default: Duration,
        range: RangeInclusive<Duration>,
        unit: Duration,
    ) -> Duration {
        let Some(found) = self.find(key) else {
            return default;
        };
        let text = found.text.trim();
        let bare = text.parse::<u32>().ok().map(|count| unit.saturating_mul(count));
        let in_units = |duration: Duration| duration.as_millis() / unit.as_millis();
        let name = if unit == Duration::from_secs(1) {
            "seconds"
        } else {
            "milliseconds"
        };
        let mend = format!(
            "write a whole number of {name} from {} to {}",
            in_units(*range.start()),
            in_units(*range.end())
        );
        match bare.or_else(|| parse_duration(text)) {
            Some(duration) if range.contains(&duration) => duration,
            Some(_) => self.wrong(key, format!("is {text:?}, out of range"), mend, default),
            None => self.wrong(key, format!("is {text:?}, not a number of {name}"), mend, default),
        }
    }
}
