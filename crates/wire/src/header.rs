//! Which headers are ours, which end at one hop, which may never carry a credential?
//!
//! `docs/contract/wire-formats.md`, "Headers". All names here are lower case; the predicates ignore case. What a client
//! may not set it may not set with `_` for `-` either: upstreams that read headers in the manner of CGI (RFC 3875 section
//! 4.1.18) take both for one name.

/// The caller's request id, echoed in every answer.
pub const REQUEST_ID: &str = "x-request-id";
/// Identifier of the protected resource a request is for.
pub const RESOURCE: &str = "x-caracal-resource";
/// Not accepted: the client is who the mandate says.
pub const CLIENT_ID: &str = "x-caracal-client-id";
/// The mandate, forwarded to an upstream that asked for it.
pub const IDENTITY: &str = "x-caracal-identity";
/// Whole seconds left on the presented mandate.
pub const TOKEN_EXPIRES_IN: &str = "x-caracal-token-expires-in";
/// Trailer: the answer was cut because the mandate was revoked.
pub const REVOKED: &str = "x-caracal-revoked";
/// Id of one `caracal run` launch.
pub const LAUNCH_ID: &str = "x-caracal-launch-id";
/// How long the caller will wait for the answer, in milliseconds: no work is done for longer on its behalf.
pub const TIMEOUT_MS: &str = "x-caracal-timeout-ms";
/// A proof of possession (RFC 9449). It says who holds a mandate, to us.
pub const PROOF: &str = "dpop";
/// W3C trace context, see [`crate::trace`].
pub const TRACEPARENT: &str = "traceparent";
/// W3C trace context of vendors; passed through.
pub const TRACESTATE: &str = "tracestate";
/// W3C baggage; our own members are removed at the gateway.
pub const BAGGAGE: &str = "baggage";
/// Address of the client, as the gateway saw it.
pub const FORWARDED_FOR: &str = "x-forwarded-for";
/// Scheme of the request, as the gateway saw it.
pub const FORWARDED_PROTO: &str = "x-forwarded-proto";
/// Host the request was for.
pub const FORWARDED_HOST: &str = "x-forwarded-host";
/// What the gateway took off the path of the request.
pub const FORWARDED_PREFIX: &str = "x-forwarded-prefix";
/// Address of the client, as the gateway saw it; the older name.
pub const REAL_IP: &str = "x-real-ip";
/// Replay marker of an idempotent answer.
pub const IDEMPOTENCY_REPLAYED: &str = "idempotency-replayed";

/// Headers that end at one hop (RFC 9110 section 7.6.1), besides those that `Connection` names.
pub const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "proxy-connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Headers that a provider may not name as the place of its credential: setting them would change how the request is framed,
/// routed or attributed.
const RESERVED: [&str; 19] = [
    "baggage",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-real-ip",
    "x-request-id",
    "proxy-authenticate",
];
const RESERVED_PREFIXES: [&str; 3] = ["x-caracal-", "x-forwarded-", "proxy-"];

/// Response headers that tell about the upstream's software, or send the client elsewhere behind the gateway's back.
const RESPONSE_REMOVED: [&str; 6] = [
    "x-caracal-identity",
    "server",
    "x-powered-by",
    "x-aspnet-version",
    "x-aspnetmvc-version",
    "refresh",
];

/// Whether the header ends at one hop.
pub fn is_hop_by_hop(name: &str) -> bool {
    HOP_BY_HOP.iter().any(|held| held.eq_ignore_ascii_case(name))
}

/// Whether an upstream may take both for the same header: they differ in case, or in `_` for `-`, at most. One pass.
pub fn is_same_name(one: &str, other: &str) -> bool {
    one.len() == other.len() && one.bytes().map(folded).eq(other.bytes().map(folded))
}

/// Whether a provider's credential may never be put into this header.
pub fn is_reserved_credential_header(name: &str) -> bool {
    RESERVED.iter().any(|held| is_same_name(held, name))
        || RESERVED_PREFIXES.iter().any(|prefix| has_prefix(name, prefix))
}

/// Whether the gateway removes this header from a client's request: ours, those only a proxy may set, and the mandate itself.
/// A name with `_` is removed too when it may pass for any reserved one. Hop-by-hop headers are a matter of
/// [`is_hop_by_hop`].
pub fn is_removed_from_request(name: &str) -> bool {
    has_prefix(name, "x-caracal-")
        || has_prefix(name, "x-forwarded-")
        || [
            "forwarded",
            REAL_IP,
            "server",
            "authorization",
            PROOF,
            "client-cert",
            "client-cert-chain",
            // Another method or path than was decided about.
            "x-http-method-override",
            "x-http-method",
            "x-method-override",
            "x-original-url",
            "x-original-uri",
            "x-rewrite-url",
        ]
        .iter()
        .any(|held| is_same_name(held, name))
        || (name.contains('_') && is_reserved_credential_header(name))
}

/// Whether the gateway removes this header from an upstream's answer. Hop-by-hop headers are a matter of [`is_hop_by_hop`].
pub fn is_removed_from_response(name: &str) -> bool {
    RESPONSE_REMOVED
        .iter()
        .any(|held| held.eq_ignore_ascii_case(name))
}

/// Whether the text is a header name (RFC 9110 section 5.1: a token).
pub fn is_header_name(name: &str) -> bool {
    http::HeaderName::from_bytes(name.as_bytes()).is_ok()
}

fn has_prefix(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len())
        .is_some_and(|start| is_same_name(start, prefix))
}

/// The byte in lower case, an underscore as a hyphen.
const fn folded(byte: u8) -> u8 {
    match byte {
        b'_' => b'-',
        byte => byte.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_does_not_matter() {
        assert!(is_hop_by_hop("Transfer-Encoding"));
        assert!(is_reserved_credential_header("X-Caracal-Anything"));
        assert!(is_reserved_credential_header("HOST"));
        assert!(is_removed_from_request("X-Forwarded-For"));
        assert!(is_removed_from_response("Server"));
    }

    #[test]
    fn a_credential_may_go_into_an_ordinary_header() {
        for name in ["authorization", "x-api-key", "x-demo-key", "cookie", "x-caracal"] {
            assert!(!is_reserved_credential_header(name), "{name}");
        }
        for name in [
            "proxy-authorization",
            "proxy-anything",
            "content-length",
            "via",
            "x-real-ip",
        ] {
            assert!(is_reserved_credential_header(name), "{name}");
        }
    }

    #[test]
    fn an_underscore_hides_no_name() {
        for name in [
            "X_Caracal_Identity",
            "x-caracal_identity",
            "x_forwarded_for",
            "X_Forwarded-Host",
            "x_real_ip",
            "x_request_id",
            "content_length",
            "transfer_encoding",
            "proxy_authorization",
        ] {
            assert!(is_removed_from_request(name), "{name}");
            assert!(is_reserved_credential_header(name), "{name}");
        }
        for name in [
            "x_api_key",
            "x_caracal",
            "content-length",
            "x-request-id",
            "traceparent",
        ] {
            assert!(!is_removed_from_request(name), "{name}");
        }
    }

    #[test]
    fn names_are_the_same_whatever_their_case_and_hyphens() {
        assert!(is_same_name("X-Api-Key", "x_api-key"));
        assert!(!is_same_name("x-api-key", "x-api-keys"));
        assert!(!is_same_name("x-api-key", "xapikey"));
    }

    #[test]
    fn every_hop_by_hop_header_is_reserved() {
        assert!(HOP_BY_HOP.into_iter().all(is_reserved_credential_header));
    }

    #[test]
    fn our_own_constants_are_lower_case_names() {
        for name in [
            REQUEST_ID,
            RESOURCE,
            CLIENT_ID,
            IDENTITY,
            TOKEN_EXPIRES_IN,
            REVOKED,
            LAUNCH_ID,
            TRACEPARENT,
            TRACESTATE,
            BAGGAGE,
            FORWARDED_FOR,
            FORWARDED_PROTO,
            FORWARDED_HOST,
            FORWARDED_PREFIX,
            REAL_IP,
            IDEMPOTENCY_REPLAYED,
        ] {
            assert_eq!(http::HeaderName::from_static(name).as_str(), name);
        }
    }

    #[test]
    fn a_header_name_is_a_token() {
        assert!(is_header_name("X-Api-Key"));
        for name in ["", "a b", "a:b", "a\n", "é"] {
            assert!(!is_header_name(name), "{name:?}");
        }
    }

    #[test]
    fn a_name_shorter_than_a_prefix_is_no_match() {
        assert!(!is_removed_from_request("x"));
        assert!(!is_removed_from_request("xé-caracal"));
    }
}
