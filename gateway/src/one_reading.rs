//! Does everybody on the way read this request head in the same way? What the HTTP library lets pass although others may read it
//! differently is refused here. Memory only.
//!
//! The library itself refuses: lengths that are not digits or disagree, transfer encodings other than a last `chunked` or in
//! HTTP/1.0, two hosts, a host that disagrees with the target, folded lines, and control characters. Of a length beside chunks it
//! drops the length and closes the connection after the request (RFC 9112 section 6.3).

use std::net::Ipv6Addr;

use http::header::{HOST, HeaderValue, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Version};
use pingora_http::RequestHeader;

use crate::denial::Denial;

/// Refuses a head that may be read in two ways. HTTP/2 frames its requests itself.
///
/// # Errors
/// [`Denial::BadRequest`].
pub(crate) fn check(head: &RequestHeader) -> Result<(), Denial> {
    let is_framed_here = matches!(head.version, Version::HTTP_10 | Version::HTTP_11);
    let is_read_alike = is_addressed(&head.headers, head.version)
        && (!is_framed_here || (is_target(head.raw_path(), &head.method) && is_framed(&head.headers)));
    if is_read_alike {
        Ok(())
    } else {
        Err(Denial::BadRequest)
    }
}

/// Whether the target is a path, a URL, or the server as a whole (RFC 9112 section 3.2): of anything else the library makes `/`.
/// It does so before this for what begins with `#`, and cuts what follows one: a fragment is neither seen here nor sent upstream.
fn is_target(target: &[u8], method: &Method) -> bool {
    let is_url = |scheme: &[u8]| {
        target
            .get(..scheme.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    target.starts_with(b"/")
        || is_url(b"http://")
        || is_url(b"https://")
        || (target == b"*" && method == Method::OPTIONS)
}

/// Whether there is a host, as HTTP/1.1 demands, and it is one (RFC 9112 section 3.2).
fn is_addressed(headers: &HeaderMap, version: Version) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return false;
    }
    match host.map(HeaderValue::to_str) {
        None => version == Version::HTTP_10,
        Some(Ok("")) => true,
        Some(Ok(host)) => is_host(host),
        Some(Err(_)) => false,
    }
}

/// Whether it is a name or an address, and digits after the colon of a port if there is one: what comes after a colon is the port to some and
/// part of the name to others.
fn is_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port),
        _ => (host, ""),
    };
    let is_name = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let is_address = address.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
    (is_name || is_address) && !name.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether the body is chunked or not encoded at all: codings below the chunks would be lost on the way, and nobody here undoes
/// them.
fn is_framed(headers: &HeaderMap) -> bool {
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    let first = encodings.next();
    first.is_none_or(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"chunked"))
        && encodings.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(target: &str, version: Version, headers: &[(&'static str, &str)]) -> RequestHeader {
        let mut head = RequestHeader::build("GET", target.as_bytes(), None).unwrap();
        head.set_version(version);
        for (name, value) in headers {
            head.append_header(*name, *value).unwrap();
        }
        head
    }

    #[test]
    fn heads_that_everybody_reads_alike_pass() {
        let host = ("host", "gateway.test:8081");
        for (target, version, headers) in [
            ("/", Version::HTTP_11, &[host][..]),
            (
                "/a?b=c",
                Version::HTTP_11,
                &[("host", "[::1]:80"), ("transfer-encoding", "Chunked")],
            ),
            ("HTTP://gateway.test/a", Version::HTTP_11, &[host]),
            ("/", Version::HTTP_11, &[("host", "")]),
            ("/", Version::HTTP_10, &[]),
            ("/", Version::HTTP_2, &[host]),
        ] {
            assert_eq!(
                check(&head(target, version, headers)),
                Ok(()),
                "{target} {headers:?}"
            );
        }
    }

    #[test]
    fn heads_that_may_be_read_in_two_ways_are_refused() {
        let host = ("host", "gateway.test");
        for (target, version, headers) in [
            ("outer", Version::HTTP_11, &[host][..]),
            ("*", Version::HTTP_11, &[host]),
            ("/", Version::HTTP_11, &[]),
            ("/", Version::HTTP_11, &[("host", "a.test, b.test")]),
            ("/", Version::HTTP_11, &[("host", "a.test b.test")]),
            ("/", Version::HTTP_11, &[("host", "a.test/path")]),
            ("/", Version::HTTP_10, &[("host", "user@a.test")]),
            ("/", Version::HTTP_2, &[]),
            ("/", Version::HTTP_2, &[("host", "a.test, b.test")]),
            ("/", Version::HTTP_2, &[("host", "a.test/path")]),
            ("/", Version::HTTP_11, &[("host", "a.test:x")]),
            ("/", Version::HTTP_11, &[("host", "a.test:80:80")]),
            ("/", Version::HTTP_11, &[("host", "a.test,b.test")]),
            ("/", Version::HTTP_11, &[("host", "a.test;b.test")]),
            ("/", Version::HTTP_11, &[("host", "[a]:80")]),
            (
                "/",
                Version::HTTP_11,
                &[host, ("transfer-encoding", "gzip, chunked")],
            ),
            (
                "/",
                Version::HTTP_11,
                &[host, ("transfer-encoding", "chunked, chunked")],
            ),
            (
                "/",
                Version::HTTP_11,
                &[
                    host,
                    ("transfer-encoding", "chunked"),
                    ("transfer-encoding", "chunked"),
                ],
            ),
        ] {
            assert_eq!(
                check(&head(target, version, headers)),
                Err(Denial::BadRequest),
                "{target} {headers:?}"
            );
        }
    }
}
