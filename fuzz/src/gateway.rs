//! What strangers send to the gateway, what upstreams answer, and what operators and zones write about where things go.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use caracal_egress::{Guard, Resolve};
use caracal_gateway::fuzzing;
use futures_util::FutureExt;
use url::Url;

/// The mandate that no header may carry on.
const MANDATE: &str = "a-mandate-of-some-length";

/// The first line, and `name: value` of the others.
fn lines(bytes: &[u8]) -> (&[u8], Vec<(&str, &[u8])>) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let first = lines.next().unwrap_or_default();
    let headers = lines.filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = std::str::from_utf8(line.get(..colon)?).ok()?;
        Some((name, line.get(colon + 1..)?.trim_ascii()))
    });
    (first, headers.collect())
}

/// Nothing that only the gateway may say goes upstream, and the mandate does not.
pub(crate) fn request_head(bytes: &[u8]) {
    let (target, headers) = lines(bytes);
    let Some(passed) = fuzzing::request_head(target, &headers, MANDATE) else {
        return;
    };
    let is_path = target.starts_with(b"/") || target.contains(&b':') || target == b"*";
    assert!(is_path, "{target:?} is neither path nor URL");
    for (name, value) in &passed {
        let plain = name.to_ascii_lowercase().replace('_', "-");
        let is_ours = plain.starts_with("x-caracal-") || plain.starts_with("x-forwarded-");
        assert!(
            !is_ours && plain != "authorization" && plain != "forwarded" && plain != "x-real-ip",
            "{name} passed"
        );
        let carried = value
            .windows(MANDATE.len())
            .any(|window| window == MANDATE.as_bytes());
        assert!(!carried, "the mandate passed in {name}");
    }
    let hosts = passed.iter().filter(|(name, _value)| name == "host");
    for (_name, value) in hosts {
        assert!(!value.contains(&b'/') && !value.contains(&b' ') && !value.contains(&b'@'));
    }
    let encodings: Vec<_> = passed
        .iter()
        .filter(|(name, _value)| name == "transfer-encoding")
        .collect();
    assert!(encodings.len() <= 1, "encoded twice");
    assert!(
        encodings
            .iter()
            .all(|(_name, value)| value.eq_ignore_ascii_case(b"chunked"))
    );
}

/// Nothing of ours comes from an upstream, and nothing sends the client elsewhere.
pub(crate) fn response_head(bytes: &[u8]) {
    let (status, headers) = lines(bytes);
    let status = std::str::from_utf8(status)
        .ok()
        .and_then(|text| text.parse().ok());
    let Some(passed) = fuzzing::response_head(status.unwrap_or(200), &headers) else {
        return;
    };
    for (name, value) in &passed {
        assert!(
            !name.starts_with("x-caracal-") && name != "server",
            "{name} passed"
        );
        if name == "location" || name == "content-location" {
            let here = Url::parse("https://here.test/").expect("a URL");
            let text = String::from_utf8_lossy(value);
            let there = here.join(&text).expect("what passed is a reference");
            assert_eq!(there.host_str(), here.host_str(), "{text} leads away");
            assert_eq!(there.scheme(), here.scheme(), "{text} leads away");
        }
    }
}

/// Names are not looked at: nobody is asked about an address.
#[derive(Debug)]
struct Nobody;

#[async_trait]
impl Resolve for Nobody {
    async fn resolve(&self, _host: &str) -> io::Result<Vec<IpAddr>> {
        Err(io::Error::other("nobody is asked"))
    }
}

/// However an address is written, none that is blocked is dialled.
pub(crate) fn upstream_address(bytes: &[u8]) {
    let Some(url) = std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| Url::parse(text).ok())
    else {
        return;
    };
    if url.domain().is_some() {
        return;
    }
    let guard = Guard::of_upstreams(Arc::new(Nobody), &[], Duration::ZERO);
    let Some(Ok(target)) = guard.resolve(&url).now_or_never() else {
        return;
    };
    assert!(matches!(url.scheme(), "http" | "https"), "{url}");
    assert!(url.username().is_empty() && url.password().is_none(), "{url}");
    for address in target.addresses() {
        assert_eq!(Some(address.port()), url.port_or_known_default());
        let is_blocked = match address.ip() {
            IpAddr::V4(address) => is_blocked(address),
            IpAddr::V6(address) => is_blocked_v6(address),
        };
        assert!(!is_blocked, "{url} leads to {address}");
    }
}

fn is_blocked(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    address.is_link_local() || address.is_multicast() || first == 0 || first >= 240
}

fn is_blocked_v6(address: Ipv6Addr) -> bool {
    let words = address.segments();
    let embedded = |first: usize| {
        let word = |at: usize| u32::from(words.get(at).copied().unwrap_or_default());
        is_blocked(Ipv4Addr::from(word(first) << 16 | word(first + 1)))
    };
    let is_nat64 = words.starts_with(&[0x64, 0xff9b, 0, 0, 0, 0]);
    let is_6to4 = words.starts_with(&[0x2002]);
    address.is_multicast()
        || address.is_unspecified()
        || address.is_unicast_link_local()
        || address.to_ipv4_mapped().is_some_and(is_blocked)
        || (is_nat64 && embedded(6))
        || (is_6to4 && embedded(1))
}
