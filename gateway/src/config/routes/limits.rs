//! What may the requests of a route use?

use std::time::Duration;

use caracal_chassis::config::Reader;

use crate::rate::Rate;
use crate::snapshot::routes::Limits;

const SHORTEST: Duration = Duration::from_millis(50);
const DAY: Duration = Duration::from_hours(24);
/// Most requests a second, or at once, that can be written.
const REQUESTS_MAX: u32 = 1_000_000;

/// Reads the limits of one route; those that are not written are the gateway's.
pub(super) fn read(reader: &mut Reader<'_>) -> Limits {
    Limits {
        body_bytes_max: is_set(reader, "MAX_BODY").then(|| reader.size("MAX_BODY", 0, 1..=1 << 44)),
        timeout: duration(reader, "TIMEOUT"),
        idle_timeout: duration(reader, "IDLE_TIMEOUT"),
        rate: rate(reader, "RATE", "RATE_BURST"),
        source_rate: rate(reader, "SOURCE_RATE", "SOURCE_RATE_BURST"),
        concurrency: count(reader, "CONCURRENCY"),
        source_concurrency: count(reader, "SOURCE_CONCURRENCY"),
    }
}

fn count(reader: &mut Reader<'_>, key: &str) -> Option<usize> {
    is_set(reader, key).then(|| usize::try_from(reader.integer(key, 1, 1..=1_000_000)).unwrap_or(1))
}

fn is_set(reader: &mut Reader<'_>, key: &str) -> bool {
    reader.optional_text(key).is_some()
}

fn duration(reader: &mut Reader<'_>, key: &str) -> Option<Duration> {
    is_set(reader, key).then(|| reader.duration(key, DAY, SHORTEST..=DAY))
}

/// A rate, and how many may come at once: by default, those of a second.
fn rate(reader: &mut Reader<'_>, key: &str, burst_key: &str) -> Option<Rate> {
    let text = reader.optional_text(key);
    let burst_set = is_set(reader, burst_key);
    let burst = reader.integer(burst_key, 1, 1..=i64::from(REQUESTS_MAX));
    reader.check(
        text.is_some() || !burst_set,
        burst_key,
        "belongs to a rate that is not written",
        format!("write {} too", key.to_ascii_lowercase()),
    );
    let text = text?;
    let per_s = parse_rate(&text);
    reader.check(
        per_s.is_some(),
        key,
        format!("is {text:?}, not a rate"),
        "write requests and their time, e.g. 100/s, 30/m or 500/h",
    );
    let per_s = per_s?;
    let burst = if burst_set {
        f64::from(u32::try_from(burst).unwrap_or(REQUESTS_MAX))
    } else {
        per_s.ceil().max(1.0)
    };
    Some(Rate { burst, per_s })
}

/// Requests in a second, from `100/s`, `30/m`, `500/h`.
fn parse_rate(text: &str) -> Option<f64> {
    let (count, unit) = text.split_once('/')?;
    let seconds = match unit.trim() {
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        _ => return None,
    };
    let count: u32 = count.trim().parse().ok()?;
    (1..=REQUESTS_MAX)
        .contains(&count)
        .then(|| f64::from(count) / seconds)
}
