//! Which headers pass the gateway, in either direction? (docs/contract/gateway.md, "Headers")

use std::net::IpAddr;

use caracal_wire::header::{
    is_hop_by_hop, is_removed_from_request, is_removed_from_response, is_reserved_credential_header,
};
use caracal_wire::trace::{Traceparent, strip_caracal_members};
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_LOCATION, HeaderName, HeaderValue, LOCATION, UPGRADE,
};
use http::{HeaderMap, StatusCode};
use pingora_error::Result;
use pingora_http::{RequestHeader, ResponseHeader};
use url::Url;

use crate::chance::Chance;
use crate::config::ProxyTrust;
use crate::context::Inbound;

/// Names the protected resource.
pub(crate) const RESOURCE: HeaderName = HeaderName::from_static(caracal_wire::header::RESOURCE);
/// Refused: who calls is a matter of the mandate.
pub(crate) const CLIENT_ID: HeaderName = HeaderName::from_static(caracal_wire::header::CLIENT_ID);
/// The mandate, for upstreams that asked for it.
pub(crate) const IDENTITY: HeaderName = HeaderName::from_static(caracal_wire::header::IDENTITY);
/// Name of the request.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static(caracal_wire::header::REQUEST_ID);
/// Seconds left on the mandate.
pub(crate) const TOKEN_EXPIRES_IN: HeaderName =
    HeaderName::from_static(caracal_wire::header::TOKEN_EXPIRES_IN);
/// W3C trace context.
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static(caracal_wire::header::TRACEPARENT);
/// Address of the client.
pub(crate) const FORWARDED_FOR: HeaderName = HeaderName::from_static(caracal_wire::header::FORWARDED_FOR);
/// Scheme the client used.
pub(crate) const FORWARDED_PROTO: HeaderName = HeaderName::from_static(caracal_wire::header::FORWARDED_PROTO);
/// Host the client asked for.
pub(crate) const FORWARDED_HOST: HeaderName = HeaderName::from_static(caracal_wire::header::FORWARDED_HOST);
/// What was taken off the path.
pub(crate) const FORWARDED_PREFIX: HeaderName =
    HeaderName::from_static(caracal_wire::header::FORWARDED_PREFIX);
/// Address of the client, for servers that read this one.
pub(crate) const REAL_IP: HeaderName = HeaderName::from_static(caracal_wire::header::REAL_IP);
const BAGGAGE: HeaderName = HeaderName::from_static(caracal_wire::header::BAGGAGE);

/// Shortest text taken for a mandate when headers are searched for it; a real one has hundreds of bytes.
const MANDATE_BYTES_MIN: usize = 16;

/// Takes from a request what must not reach the upstream: our own headers, those only a proxy may set, our baggage
/// members, and every header in which the mandate stands, whatever its name. Hop-by-hop headers and those `Connection`
/// names are gone before (Pingora takes them, and leaves a WebSocket handshake).
pub(crate) fn clean_request(request: &mut RequestHeader, mandate: Option<&str>) -> Result<()> {
    let carries_mandate =
        |value: &HeaderValue| mandate.is_some_and(|mandate| contains(value.as_bytes(), mandate));
    let unwanted: Vec<HeaderName> = request
        .headers
        .iter()
        .filter(|(name, value)| is_removed_from_request(name.as_str()) || carries_mandate(value))
        .map(|(name, _value)| name.clone())
        .collect();
    for name in unwanted {
        request.remove_header(&name);
    }
    clean_baggage(request)
}

fn clean_baggage(request: &mut RequestHeader) -> Result<()> {
    if !request.headers.contains_key(BAGGAGE) {
        return Ok(());
    }
    let values = request.headers.get_all(BAGGAGE).iter();
    let kept: Vec<String> = values
        .filter_map(|value| value.to_str().ok())
        .filter_map(strip_caracal_members)
        .collect();
    request.remove_header(&BAGGAGE);
    for value in kept {
        request.append_header(BAGGAGE, value)?;
    }
    Ok(())
}

/// Takes from an answer what ends here, what tells about the upstream's software, and what would send the client
/// elsewhere behind the gateway's back; a public upstream is a site of the operator's, whose sign-in sends clients on.
pub(crate) fn clean_response(response: &mut ResponseHeader, is_public: bool) {
    let switches = response.status == StatusCode::SWITCHING_PROTOCOLS;
    let named: Vec<HeaderName> = response
        .headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .filter(|name| !(switches && *name == UPGRADE))
        .collect();
    let is_unwanted = |name: &HeaderName, value: &HeaderValue| {
        let is_handshake = switches && (*name == CONNECTION || *name == UPGRADE);
        (is_hop_by_hop(name.as_str()) && !is_handshake)
            || is_removed_from_response(name.as_str())
            || is_ours(name.as_str())
            || ((*name == LOCATION || *name == CONTENT_LOCATION) && !is_public && !is_relative(value))
    };
    let unwanted: Vec<HeaderName> = response
        .headers
        .iter()
        .filter(|(name, value)| is_unwanted(name, value))
        .map(|(name, _value)| name.clone())
        .collect();
    for name in unwanted.iter().chain(&named) {
        response.remove_header(name);
    }
    if response.status.is_informational() {
        // No content follows, whatever the upstream says (RFC 9110 section 15.2).
        response.remove_header(&CONTENT_LENGTH);
    }
}

/// Takes from the trailers of an answer what must not pass: what [`clean_response`] takes, and what may stand in a head
/// only because it frames, routes, authenticates or describes the message (RFC 9110 section 6.5.1).
pub(crate) fn clean_trailers(trailers: &mut HeaderMap) {
    let is_unwanted = |name: &str| {
        is_hop_by_hop(name)
            || is_removed_from_response(name)
            || is_reserved_credential_header(name)
            || HEAD_ONLY.contains(&name)
    };
    let unwanted: Vec<HeaderName> = trailers
        .keys()
        .filter(|name| is_unwanted(name.as_str()))
        .cloned()
        .collect();
    for name in unwanted {
        trailers.remove(name);
    }
}

/// Besides the ones a credential may not be put into.
const HEAD_ONLY: [&str; 10] = [
    "authorization",
    "cache-control",
    "content-location",
    "content-range",
    "date",
    "expires",
    "location",
    "set-cookie",
    "vary",
    "www-authenticate",
];

/// Whether only this gateway says it.
fn is_ours(name: &str) -> bool {
    name.starts_with("x-caracal-")
}

/// Whether a reference stays at the gateway: a path, a query or a fragment. A backslash is a slash to browsers.
fn is_relative(value: &HeaderValue) -> bool {
    let Ok(text) = value.to_str() else { return false };
    let text = text.trim();
    !text.starts_with("//")
        && !text.contains('\\')
        && Url::parse(text) == Err(url::ParseError::RelativeUrlWithoutBase)
}

/// The `traceparent` that goes upstream: the client's when it is valid, else a new trace.
pub(crate) fn traceparent(headers: &HeaderMap, chance: Option<&Chance>) -> (Traceparent, HeaderValue) {
    let given = headers
        .get(TRACEPARENT)
        .filter(|_value| headers.get_all(TRACEPARENT).iter().count() == 1);
    let parsed = given
        .and_then(|value| value.to_str().ok())
        .and_then(|text| Traceparent::parse(text).ok());
    if let (Some(parsed), Some(value)) = (parsed, given) {
        return (parsed, value.clone());
    }
    // Without randomness the trace is not unique, which costs an operator clarity and nothing else.
    let fresh = Traceparent::generate(chance.map(Chance::trace).unwrap_or_default());
    let value = HeaderValue::try_from(fresh.to_string()).unwrap_or(HeaderValue::from_static(""));
    (fresh, value)
}

/// Whom the request came from: the client that trusted proxies name in `X-Forwarded-For`, else the peer. Every proxy adds whom it
/// heard from at the end, so with a list of proxies it is the last element that is none of them: what stands before it
/// anybody can have written. Without a list it is the first one.
pub(crate) fn client_address(request: &Inbound<'_>, trust: &ProxyTrust) -> IpAddr {
    let peer = request.peer().ip().to_canonical();
    if !trust.covers(peer) {
        return peer;
    }
    let values = request.headers().get_all(FORWARDED_FOR).iter();
    let mut said = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|element| {
            element
                .trim()
                .parse::<IpAddr>()
                .map(|address| address.to_canonical())
        });
    let named = if trust.has_list() {
        let addresses: Vec<_> = said.collect();
        let last = addresses
            .into_iter()
            .rev()
            .find(|said| !said.as_ref().is_ok_and(|address| trust.lists(*address)));
        last.and_then(Result::ok)
    } else {
        said.next().and_then(Result::ok)
    };
    named.unwrap_or(peer)
}

/// The scheme the client used: what a trusted proxy says, else that of this listener.
pub(crate) fn client_scheme(request: &Inbound<'_>, is_trusted: bool) -> &'static str {
    let own = if request.is_tls() { "https" } else { "http" };
    let said = request.headers().get(FORWARDED_PROTO).filter(|_value| is_trusted);
    match said.and_then(|value| value.to_str().ok()) {
        Some("http") => "http",
        Some("https") => "https",
        _ => own,
    }
}

/// Whether `mandate` stands anywhere in `bytes`.
pub(crate) fn contains(bytes: &[u8], mandate: &str) -> bool {
    let mandate = mandate.as_bytes();
    mandate.len() >= MANDATE_BYTES_MIN
        && bytes.len() >= mandate.len()
        && bytes.windows(mandate.len()).any(|window| window == mandate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::Origin;

    const MANDATE: &str = "eyJhbGciOiJFUzI1NiJ9.payload.signature";

    fn request(headers: &[(&'static str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        for (name, value) in headers {
            request.append_header(*name, *value).unwrap();
        }
        request
    }

    fn response(status: u16, headers: &[(&'static str, &str)]) -> ResponseHeader {
        let mut response = ResponseHeader::build(status, None).unwrap();
        for (name, value) in headers {
            response.append_header(*name, *value).unwrap();
        }
        response
    }

    #[test]
    fn request_headers_that_must_not_pass() {
        for (name, value) in [
            ("Authorization", "Bearer x"),
            ("X-Caracal-Resource", "resource://crm"),
            ("X-Caracal-Identity", "forged"),
            ("X-Caracal-Anything", "1"),
            ("X-Forwarded-For", "1.2.3.4"),
            ("X-Forwarded-Port", "1"),
            ("Forwarded", "for=1.2.3.4"),
            ("DPoP", "a.b.c"),
            ("Client-Cert", ":AAAA:"),
            ("Client_Cert_Chain", ":AAAA:"),
            ("X-Real-Ip", "1.2.3.4"),
            ("Server", "of no meaning in a request"),
            ("X_Caracal_Identity", "forged"),
            ("X_Forwarded_For", "1.2.3.4"),
            ("X_Real_Ip", "1.2.3.4"),
            ("X_Request_Id", "forged"),
            ("X-Api-Key", MANDATE),
            ("Cookie", &format!("a=1; token={MANDATE}; b=2")),
            ("X-Custom", &format!("Bearer {MANDATE}")),
            ("Baggage", "caracal.session=s1,caracal.hop=0"),
        ] {
            let mut request = request(&[(name_of(name), value)]);
            clean_request(&mut request, Some(MANDATE)).unwrap();
            assert!(request.headers.is_empty(), "{name}: {value}");
        }
    }

    #[test]
    fn request_headers_that_pass() {
        for (name, value) in [
            ("Cookie", "a=1"),
            ("Origin", "https://app.example"),
            ("tracestate", "vendor=1"),
            ("Accept-Encoding", "gzip"),
            ("X-Api-Key", "of the application"),
            ("Baggage", "tenant=acme"),
        ] {
            let mut request = request(&[(name_of(name), value)]);
            clean_request(&mut request, Some(MANDATE)).unwrap();
            assert_eq!(request.headers.get(name).unwrap(), value);
        }
    }

    #[test]
    fn baggage_keeps_what_is_not_ours() {
        let mut request = request(&[
            ("baggage", "caracal.hop=0,tenant=acme"),
            ("baggage", "caracal.session=1"),
            ("baggage", "x=1"),
        ]);
        clean_request(&mut request, None).unwrap();
        let kept: Vec<_> = request.headers.get_all("baggage").iter().collect();
        assert_eq!(kept, ["tenant=acme", "x=1"]);
    }

    #[test]
    fn response_headers_that_must_not_pass() {
        for (name, value) in [
            ("Server", "nginx"),
            ("X-Powered-By", "PHP"),
            ("X-AspNet-Version", "4"),
            ("X-AspNetMvc-Version", "5"),
            ("Refresh", "0;url=https://evil.example"),
            ("X-Caracal-Identity", "x"),
            ("X-Caracal-Revoked", "true"),
            ("Keep-Alive", "timeout=5"),
            ("Connection", "close"),
            ("Proxy-Authenticate", "Basic"),
            ("Upgrade", "h2c"),
            ("Trailer", "x"),
            ("Location", "https://elsewhere.example/"),
            ("Location", "//elsewhere.example/"),
            ("Location", "/\\elsewhere.example/"),
            ("Location", "javascript:alert(1)"),
            ("Location", "http:relative"),
            ("Content-Location", "https://elsewhere.example/x"),
        ] {
            let mut response = response(200, &[(name_of(name), value)]);
            clean_response(&mut response, false);
            assert!(response.headers.is_empty(), "{name}: {value}");
        }
    }

    #[test]
    fn response_headers_that_pass() {
        for (name, value) in [
            ("Set-Cookie", "a=1"),
            ("Location", "/next?page=2"),
            ("Location", "next"),
            ("Location", "?page=2"),
            ("Content-Location", "/a/b"),
            ("Content-Type", "text/event-stream"),
            ("ETag", "\"1\""),
        ] {
            let mut response = response(200, &[(name_of(name), value)]);
            clean_response(&mut response, false);
            assert_eq!(response.headers.get(name).unwrap(), value);
        }
    }

    #[test]
    fn a_public_site_sends_its_clients_on() {
        let mut response = response(
            302,
            &[("Location", "https://elsewhere.example/"), ("Server", "s")],
        );
        clean_response(&mut response, true);
        assert_eq!(
            response.headers.get("Location").unwrap(),
            "https://elsewhere.example/"
        );
        assert_eq!(response.headers.len(), 1);
    }

    #[test]
    fn headers_that_connection_names_end_here() {
        let mut response = response(
            200,
            &[("Connection", "close, X-Hop"), ("X-Hop", "1"), ("X-Stays", "1")],
        );
        clean_response(&mut response, false);
        assert_eq!(response.headers.len(), 1);
    }

    #[test]
    fn a_websocket_handshake_is_left_whole() {
        let mut response = response(
            101,
            &[
                ("Connection", "Upgrade"),
                ("Upgrade", "websocket"),
                ("Sec-WebSocket-Accept", "x"),
                ("Server", "s"),
            ],
        );
        clean_response(&mut response, false);
        assert_eq!(response.headers.len(), 3);
    }

    #[test]
    fn a_trace_is_continued_or_begun() {
        let valid = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(
            traceparent(&request(&[("traceparent", valid)]).headers, None).1,
            valid
        );
        for headers in [
            &[][..],
            &[("traceparent", "00-0-0-01")],
            &[("traceparent", valid), ("traceparent", valid)],
        ] {
            let (parsed, value) = traceparent(&request(headers).headers, Chance::draw().as_ref());
            assert_ne!(value, valid);
            assert_eq!(Traceparent::parse(value.to_str().unwrap()), Ok(parsed));
        }
    }

    #[test]
    fn only_a_trusted_proxy_says_who_the_client_is() {
        let head = request(&[
            ("x-forwarded-for", "203.0.113.7, 10.0.0.1"),
            ("x-forwarded-proto", "https"),
        ]);
        let origin = from("10.0.0.9:1");
        let inbound = Inbound::new(&head, &origin);
        assert_eq!(client_address(&inbound, &any()), IpAddr::from([203, 0, 113, 7]));
        assert_eq!(
            client_address(&inbound, &ProxyTrust::default()),
            IpAddr::from([10, 0, 0, 9])
        );
        assert_eq!(
            (client_scheme(&inbound, true), client_scheme(&inbound, false)),
            ("https", "http")
        );
        let head = request(&[("x-forwarded-for", "unknown"), ("x-forwarded-proto", "gopher")]);
        let origin = from("[::ffff:10.0.0.9]:1");
        let inbound = Inbound::new(&head, &origin);
        assert_eq!(client_address(&inbound, &any()), IpAddr::from([10, 0, 0, 9]));
        assert_eq!(client_scheme(&inbound, true), "http");
    }

    /// Believes everybody.
    fn any() -> ProxyTrust {
        ProxyTrust::of(&[])
    }

    #[test]
    fn of_listed_proxies_only_what_they_added_counts() {
        let listed = ProxyTrust::of(&["10.0.0.0/8"]);
        for (said, client) in [
            ("203.0.113.7", "203.0.113.7"),
            ("198.51.100.1, 203.0.113.7, 10.0.0.1", "203.0.113.7"),
            ("10.0.0.5, 203.0.113.7", "203.0.113.7"),
            ("unknown, 10.0.0.1", "10.0.0.9"),
            ("10.0.0.1", "10.0.0.9"),
        ] {
            let head = request(&[("x-forwarded-for", said)]);
            let origin = from("10.0.0.9:1");
            let address = client_address(&Inbound::new(&head, &origin), &listed);
            assert_eq!(address, client.parse::<IpAddr>().unwrap(), "{said}");
        }
    }

    fn from(peer: &str) -> Origin {
        let peer = peer.parse().unwrap();
        Origin {
            peer,
            is_tls: false,
            belongs_to_tls: false,
            certificate: None,
        }
    }

    /// `append_header` keeps the case of a static name.
    fn name_of(name: &'static str) -> &'static str {
        name
    }
}
