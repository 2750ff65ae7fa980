//! Which upstreams serve a public route, and how are they asked whether they are well?

use std::time::Duration;

use caracal_chassis::config::Reader;
use url::Url;

use crate::upstream::{CheckRule, Pool};

/// Upstreams of one route at most.
const UPSTREAMS_MAX: usize = 16;
/// How long a health check may take where nothing is said.
const TIMEOUT: Duration = Duration::from_secs(2);
const SHORTEST: Duration = Duration::from_millis(50);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

/// Reads the upstreams of one route; `None` when it names none, or not properly.
pub(super) fn read(reader: &mut Reader<'_>) -> Option<Pool> {
    let one = reader.optional_url("UPSTREAM", &["http", "https"]);
    let several = reader.optional_urls("UPSTREAMS", &["http", "https"]);
    let check = read_check(reader);
    reader.check(
        one.is_none() || several.is_empty(),
        "UPSTREAMS",
        "and upstream are both written",
        "write one of them",
    );
    reader.check(
        several.len() <= UPSTREAMS_MAX,
        "UPSTREAMS",
        format!("has {} entries", several.len()),
        format!("write at most {UPSTREAMS_MAX}; a name may have several addresses"),
    );
    let has_any = one.is_some() || !several.is_empty();
    reader.check(
        has_any || check.is_none(),
        "HEALTH_PATH",
        "is for routes with upstreams of their own",
        "leave it out, or write upstream or upstreams",
    );
    let urls: Vec<Url> = several
        .iter()
        .chain(&one)
        .filter_map(|url| Url::parse(url).ok())
        .collect();
    let is_twice = |url: &Url| urls.iter().filter(|other| *other == url).count() > 1;
    let is_unique = !urls.iter().any(is_twice);
    let is_readable = urls.len() == several.len() + usize::from(one.is_some());
    let pool = Pool::new(urls, check).filter(|_pool| is_unique);
    reader.check(
        pool.is_some() || !has_any || !is_readable,
        "UPSTREAMS",
        "names an upstream twice, or upstreams that differ in more than their host and port",
        "write URLs of the same scheme, path and query, each once",
    );
    pool
}

fn read_check(reader: &mut Reader<'_>) -> Option<CheckRule> {
    let path = reader.optional_text("HEALTH_PATH");
    let every = reader.duration("HEALTH_INTERVAL", Duration::from_secs(10), SHORTEST..=HOUR);
    let timeout = reader.duration("HEALTH_TIMEOUT", TIMEOUT, SHORTEST..=MINUTE);
    let ill_after = read_count(reader, "UNHEALTHY_AFTER", 3);
    let well_after = read_count(reader, "HEALTHY_AFTER", 2);
    let is_path = |path: &String| {
        path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')
    };
    reader.check(
        path.as_ref().is_none_or(is_path),
        "HEALTH_PATH",
        "is no path",
        "write a path that begins with a slash, percent-encoded, with a query if need be",
    );
    Some(CheckRule {
        path: path?,
        every,
        timeout,
        ill_after,
        well_after,
    })
}

fn read_count(reader: &mut Reader<'_>, key: &str, default: i64) -> u32 {
    u32::try_from(reader.integer(key, default, 1..=100)).unwrap_or(1)
}
