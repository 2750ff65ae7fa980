//! What clients write into a request's target and headers.

use caracal_wire::path;
use caracal_wire::proxy_header::{self, Said};
use caracal_wire::trace::{Traceparent, strip_caracal_members};

/// How often a path is decoded by whoever stands behind the gateway, at the very most.
const DECODINGS: usize = 4;

/// A path that passes leads nowhere else, however often somebody decodes it.
pub(crate) fn path(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if path::is_traversal(text) {
        return;
    }
    let mut decoded = text.as_bytes().to_vec();
    for _ in 0..DECODINGS {
        for segment in decoded.split(|byte| matches!(byte, b'/' | b'\\')) {
            assert!(segment != b".." && segment != b".", "{text:?} leaves its place");
        }
        decoded = decode_once(&decoded);
    }
}

fn decode_once(text: &[u8]) -> Vec<u8> {
    let digit = |byte: Option<&u8>| {
        char::from(*byte?)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        let byte = digit(tail.first()).zip(digit(tail.get(1)));
        match byte {
            Some((high, low)) if *first == b'%' => {
                decoded.push(high * 16 + low);
                rest = tail.get(2..).unwrap_or_default();
            }
            _ => {
                decoded.push(*first);
                rest = tail;
            }
        }
    }
    decoded
}

/// A trace that was read is written as it was, and no member of ours survives in baggage.
pub(crate) fn trace(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(parent) = Traceparent::parse(text) {
        let written = parent.to_string();
        let again = Traceparent::parse(&written).expect("what was written can be read");
        assert_eq!(again.to_string(), written);
    }
    if let Some(kept) = strip_caracal_members(text) {
        assert!(kept.len() <= text.len());
        let ours = kept
            .split(',')
            .any(|member| member.trim_start().to_ascii_lowercase().starts_with("caracal."));
        assert!(!ours, "{kept:?} still names us");
        assert_eq!(strip_caracal_members(&kept).as_deref(), Some(kept.as_str()));
    }
}

/// A PROXY header is as long as it says and no longer than may be, and what follows it changes nothing of it.
pub(crate) fn proxy_header(bytes: &[u8]) {
    let said = proxy_header::parse(bytes);
    if let Said::Header { length, .. } = said {
        assert!(length <= bytes.len() && length <= proxy_header::HEADER_BYTES_MAX);
        let alone = bytes.get(..length).unwrap_or_default();
        assert_eq!(proxy_header::parse(alone), said, "what follows is no part of it");
        let more = [alone, b"GET / HTTP/1.1\r\n"].concat();
        assert_eq!(proxy_header::parse(&more), said);
    }
    if bytes.len() >= proxy_header::HEADER_BYTES_MAX {
        assert_ne!(said, Said::NotYet, "nobody is waited for forever");
    }
}
