//! Does this path climb out of where it should stay, and what else could it mean?
//!
//! A path is looked at as the most careless upstream might: decoded again and again until nothing changes
//! (`docs/contract/wire-formats.md`, "Paths").

mod table;

use std::borrow::Cow;

pub use table::{PathRule, PathTable};

/// How many times over a path may be encoded. Nobody honest encodes more than twice; without a limit a path of nested percent
/// signs would cost time that grows with the square of its length.
const MAX_ENCODINGS: usize = 8;

/// Whether a request path must be refused: at any level of decoding it has a percent sign without two hex digits, a
/// backslash, a control character, or a segment `.` or `..`; or it is encoded more than eight times over.
///
/// `raw_path` is the path as received, without query. Cost: one pass when nothing is encoded, no allocation then.
pub fn is_traversal(raw_path: &str) -> bool {
    let mut path = Cow::Borrowed(raw_path.as_bytes());
    for _level in 0..=MAX_ENCODINGS {
        if climbs(&path) {
            return true;
        }
        if !path.contains(&b'%') {
            return false;
        }
        match decode_once(&path) {
            Some(decoded) => path = Cow::Owned(decoded),
            None => return true,
        }
    }
    true
}

/// The path as the most obliging server reads it: decoded until nothing changes, segments cut at a semicolon, slashes
/// joined. Two servers that agree on this reading agree on what the path is for.
///
/// `raw_path` is no traversal ([`is_traversal`]). Cost: one pass without allocation for a path that reads as it is written.
pub fn obliging(raw_path: &str) -> Cow<'_, str> {
    let is_plain = !raw_path.contains(['%', ';']) && !raw_path.contains("//");
    if is_plain {
        return Cow::Borrowed(raw_path);
    }
    let mut path = Cow::Borrowed(raw_path.as_bytes());
    for _level in 0..=MAX_ENCODINGS {
        match decode_once(&path) {
            Some(decoded) if *decoded != *path => path = Cow::Owned(decoded),
            _ => break,
        }
    }
    let text = String::from_utf8_lossy(&path);
    let mut read = String::with_capacity(text.len());
    for segment in text.split('/') {
        let segment = segment.split(';').next().unwrap_or_default();
        if !segment.is_empty() {
            read.push('/');
            read.push_str(segment);
        }
    }
    if text.ends_with('/') || read.is_empty() {
        read.push('/');
    }
    Cow::Owned(read)
}

/// A path that was read ([`obliging`]) as a server reads it that tells neither case nor a slash at the end apart. Some do, so what is
/// protected under one spelling must not be open under another.
pub fn careless(read: &str) -> Cow<'_, str> {
    let trimmed = read.trim_end_matches('/');
    let trimmed = if trimmed.is_empty() { "/" } else { trimmed };
    if trimmed.chars().any(char::is_uppercase) {
        Cow::Owned(trimmed.to_lowercase())
    } else {
        Cow::Borrowed(trimmed)
    }
}

fn climbs(path: &[u8]) -> bool {
    path.iter().any(|byte| *byte == b'\\' || byte.is_ascii_control())
        || path
            .split(|byte| *byte == b'/')
            .any(|segment| is_dots(without_parameters(segment)))
}

fn is_dots(segment: &[u8]) -> bool {
    segment == b"." || segment == b".."
}

/// Some servers cut a segment at a semicolon, so `..;x` climbs there.
fn without_parameters(segment: &[u8]) -> &[u8] {
    segment.split(|byte| *byte == b';').next().unwrap_or_default()
}

fn decode_once(path: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path.iter();
    let digit = |byte: Option<&u8>| {
        char::from(*byte?)
            .to_digit(16)
            .and_then(|value| u8::try_from(value).ok())
    };
    while let Some(byte) = rest.next() {
        if *byte == b'%' {
            decoded.push(digit(rest.next())? << 4 | digit(rest.next())?);
        } else {
            decoded.push(*byte);
        }
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_paths_pass() {
        for path in [
            "",
            "/",
            "/v1/contacts",
            "/a%20b/c",
            "/a..b/...",
            "/.well-known/x",
            "//x",
            "/caf%C3%A9",
            "/a;v=1",
            "/%2Fx",
            "/~u/*",
        ] {
            assert!(!is_traversal(path), "{path}");
        }
    }

    #[test]
    fn climbing_paths_are_refused_however_they_are_written() {
        for path in [
            "/..",
            "/../x",
            "/a/..",
            "/a/./b",
            ".",
            "/%2e%2e/x",
            "/%2E./x",
            "/a%2f..%2fb",
            "/%252e%252e/x",
            "/%25252e%25252e",
            "/a\\b",
            "/a%5cb",
            "/a%255Cb",
            "/..;/x",
            "/..;jsession=1/x",
            "/%2e%2e;/x",
        ] {
            assert!(is_traversal(path), "{path}");
        }
    }

    #[test]
    fn an_obliging_server_reads_different_spellings_as_one_path() {
        for (path, read) in [
            ("/api/x", "/api/x"),
            ("/%61pi/x", "/api/x"),
            ("/%2561pi", "/api"),
            ("//api///x/", "/api/x/"),
            ("/api;v=1/x;y", "/api/x"),
            ("/api%2Fx", "/api/x"),
            ("/;x", "/"),
            ("//", "/"),
            ("/%C3%A9", "/é"),
        ] {
            assert_eq!(obliging(path), read, "{path}");
        }
    }

    #[test]
    fn what_cannot_be_decoded_is_refused() {
        for path in [
            "/%",
            "/%2",
            "/%zz",
            "/%25",
            "/%25zz",
            "/a%00b",
            "/a%0d%0ab",
            "/a\tb",
        ] {
            assert!(is_traversal(path), "{path}");
        }
    }

    #[test]
    fn a_path_encoded_without_end_is_refused() {
        let nested = |levels: usize| format!("/%{}41", "25".repeat(levels));
        assert!(!is_traversal(&nested(2)));
        assert!(is_traversal(&nested(MAX_ENCODINGS)));
        assert!(is_traversal(&nested(30_000)));
    }

    proptest! {
        #[test]
        fn no_level_of_encoding_hides_a_climb(rounds in 0usize..4, upper in any::<bool>()) {
            let mut dots = "..".to_owned();
            for _ in 0..rounds {
                dots = dots.bytes().map(|byte| if upper { format!("%{byte:02X}") } else { format!("%{byte:02x}") }).collect();
            }
            let path = format!("/a/{dots}/b");
            prop_assert!(is_traversal(&path));
        }

        #[test]
        fn any_path_gets_an_answer(path in "\\PC{0,40}") {
            let _answer = is_traversal(&path);
        }
    }
}
