//! How is a duration, a size or a switch written?

use std::time::Duration;

/// Units of a duration, longest first. `us` to `h`, as Go and systemd write them.
const DURATION_UNITS: [(&str, f64); 6] = [
    ("h", 3_600.0),
    ("m", 60.0),
    ("s", 1.0),
    ("ms", 1e-3),
    ("us", 1e-6),
    ("ns", 1e-9),
];

/// Units of a size. Powers of two and powers of ten are told apart.
const SIZE_UNITS: [(&str, u64); 8] = [
    ("", 1),
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
];

/// Reads `250ms`, `45s`, `1m30s`, `1.5h`. A bare number is refused, because nobody can see its unit; `0` is allowed.
/// The longest duration is 1000 years.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let (number, after) = split_at_first(rest, |c: char| !c.is_ascii_digit() && c != '.')?;
        let (unit, after) =
            split_at_first(after, |c: char| c.is_ascii_digit() || c == '.').unwrap_or((after, ""));
        let (_, seconds) = DURATION_UNITS.iter().find(|(name, _)| *name == unit)?;
        total += number.parse::<f64>().ok()? * seconds;
        rest = after;
    }
    if text.is_empty() || total > 1_000.0 * 365.0 * 86_400.0 {
        return None;
    }
    // Rounded to microseconds: below that only the error of the float remains.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "within 0..=1000 years, see above"
    )]
    let micros = (total * 1e6).round() as u64;
    Some(Duration::from_micros(micros))
}

/// Writes a duration as [`parse_duration`] reads it, with the largest units that fit: `1m30s`, `250ms`.
pub fn format_duration(duration: Duration) -> String {
    let micros = duration.as_micros();
    if micros == 0 {
        return "0".to_owned();
    }
    let parts = [
        (3_600_000_000, "h"),
        (60_000_000, "m"),
        (1_000_000, "s"),
        (1_000, "ms"),
        (1, "us"),
    ];
    let mut rest = micros;
    let mut written = Vec::new();
    for (size, unit) in parts {
        let count = rest / size;
        rest %= size;
        if count > 0 {
            written.push(format!("{count}{unit}"));
        }
    }
    written.concat()
}

/// Reads `1MiB`, `64KiB`, `10MB`; a plain integer is a number of bytes.
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split_at_first(text, |c: char| !c.is_ascii_digit()).unwrap_or((text, ""));
    let (_, bytes) = SIZE_UNITS.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*bytes)
}

/// Writes a size as [`parse_size`] reads it.
pub(super) fn format_size(bytes: u64) -> String {
    for (unit, size) in [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= size && bytes.is_multiple_of(size) {
            return format!("{}{unit}", bytes / size);
        }
    }
    bytes.to_string()
}

/// Reads a switch in any of the usual spellings.
pub(super) fn parse_boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Some(true),
        "0" | "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

fn split_at_first(text: &str, is_boundary: impl Fn(char) -> bool) -> Option<(&str, &str)> {
    text.find(is_boundary).map(|position| text.split_at(position))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_units() {
        for (text, millis) in [
            ("250ms", 250),
            ("45s", 45_000),
            ("1m30s", 90_000),
            ("2h", 7_200_000),
            ("1.5s", 1_500),
            ("1h0m0.25s", 3_600_250),
            ("0", 0),
            ("0s", 0),
        ] {
            assert_eq!(
                parse_duration(text),
                Some(Duration::from_millis(millis)),
                "{text}"
            );
        }
        assert_eq!(parse_duration("150us"), Some(Duration::from_micros(150)));
    }

    #[test]
    fn a_duration_without_a_known_unit_is_refused() {
        for text in [
            "", "45", "s", "45 s", "-1s", "1d", "1s45", "1.2.3s", "1S", "9999999h", "1e3s", "inf",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn durations_are_written_as_they_are_read() {
        for text in ["0", "250ms", "45s", "1m30s", "2h", "1h1ms", "7us"] {
            assert_eq!(format_duration(parse_duration(text).unwrap()), text);
        }
    }

    #[test]
    fn sizes_are_read_with_binary_and_decimal_units() {
        for (text, bytes) in [
            ("1MiB", 1_048_576),
            ("64KiB", 65_536),
            ("10MB", 10_000_000),
            ("4096", 4_096),
            ("1 GiB", 1 << 30),
            ("7B", 7),
        ] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "MiB", "1mib", "1.5MiB", "-1", "99999999999GiB"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
        assert_eq!(format_size(1_048_576), "1MiB");
        assert_eq!(format_size(1_500), "1500");
    }

    #[test]
    fn switches_are_read_in_the_usual_spellings() {
        assert_eq!(parse_boolean("Yes"), Some(true));
        assert_eq!(parse_boolean("off"), Some(false));
        assert_eq!(parse_boolean("maybe"), None);
    }
}
