//! What in a log line looks like a secret?
//!
//! The net below the types: libraries format errors too, and an upstream's message can quote what it was sent.

use std::borrow::Cow;

/// What stands in place of a secret.
const REDACTED: &str = "[redacted]";

/// Shortest text after `Bearer` that counts as a credential; shorter is a word of a sentence.
const BEARER_MIN: usize = 8;

/// `line` with compact tokens (three base64url parts, RFC 7515 section 3.1), bearer credentials (RFC 6750 section
/// 2.1), private keys in PEM (RFC 7468) and passwords of URLs (RFC 3986 section 3.2.1) replaced.
///
/// Costs one search per kind; a line without any is not copied.
pub(super) fn redact(line: &str) -> Cow<'_, str> {
    let mut line = Cow::Borrowed(line);
    for (mark, secret) in [
        ("eyJ", compact_token as fn(&str) -> Option<(usize, usize)>),
        ("earer ", bearer),
        ("-----BEGIN ", private_key),
        ("://", password),
    ] {
        if line.contains(mark) {
            line = Cow::Owned(replace_each(&line, mark, secret));
        }
    }
    line
}

/// Replaces what `secret` finds behind each `mark`. `secret` gets the text from the mark on, and answers where in it
/// the secret begins and ends.
fn replace_each(line: &str, mark: &str, secret: fn(&str) -> Option<(usize, usize)>) -> String {
    let mut redacted = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(position) = rest.find(mark) {
        let (before, from_mark) = rest.split_at(position);
        redacted.push_str(before);
        let (kept, skipped) = match secret(from_mark) {
            Some((begin, end)) => {
                redacted.push_str(from_mark.get(..begin).unwrap_or_default());
                redacted.push_str(REDACTED);
                ("", end)
            }
            None => (mark, mark.len()),
        };
        redacted.push_str(kept);
        rest = from_mark.get(skipped..).unwrap_or_default();
    }
    redacted.push_str(rest);
    redacted
}

/// Two parts suffice: the payload alone must not be logged either.
fn compact_token(text: &str) -> Option<(usize, usize)> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let end = text.find(|c: char| !is_part(c) && c != '.').unwrap_or(text.len());
    let token = text.get(..end)?;
    let (_, payload) = token.split_once('.')?;
    (!payload.trim_matches('.').is_empty()).then(|| (0, token.trim_end_matches('.').len()))
}

fn bearer(text: &str) -> Option<(usize, usize)> {
    let begin = "earer ".len();
    let is_token = |c: char| c.is_ascii_alphanumeric() || "-._~+/=".contains(c);
    let credential = text.get(begin..)?;
    let length = credential.find(|c| !is_token(c)).unwrap_or(credential.len());
    (length >= BEARER_MIN).then_some((begin, begin + length))
}

/// To the end of the key, or of the line when the key is cut off.
fn private_key(text: &str) -> Option<(usize, usize)> {
    let label = text.get(..text.get(11..)?.find("-----")? + 11)?;
    if !label.contains("PRIVATE KEY") {
        return None;
    }
    let ending = "PRIVATE KEY-----";
    let end = text
        .find("-----END ")
        .and_then(|end| Some(end + text.get(end..)?.find(ending)? + ending.len()));
    Some((0, end.unwrap_or(text.len())))
}

fn password(text: &str) -> Option<(usize, usize)> {
    let begin = "://".len();
    let authority = text.get(begin..)?;
    let authority = authority.get(
        ..authority
            .find(|c: char| c.is_whitespace() || "/?#\"'".contains(c))
            .unwrap_or(authority.len()),
    )?;
    let (userinfo, _) = authority.rsplit_once('@')?;
    let (user, password) = userinfo.split_once(':')?;
    (!password.is_empty()).then_some((begin + user.len() + 1, begin + userinfo.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_secret_is_replaced() {
        for (line, redacted) in [
            ("token eyJhbGciOi.eyJzdWIi.c2ln, next", "token [redacted], next"),
            ("two eyJa.eyJb.c eyJd.eyJe.f.", "two [redacted] [redacted]."),
            ("header and payload eyJa.eyJb", "header and payload [redacted]"),
            (
                "Authorization: Bearer cat_0123456789abcdef",
                "Authorization: Bearer [redacted]",
            ),
            ("\"bearer 0123456789\"", "\"bearer [redacted]\""),
            (
                "postgres://user:hunter2@db:5432/caracal down",
                "postgres://user:[redacted]@db:5432/caracal down",
            ),
            ("redis://:p@ss@redis", "redis://:[redacted]@redis"),
            (
                r"key -----BEGIN EC PRIVATE KEY-----\nMHc=\n-----END EC PRIVATE KEY----- end",
                "key [redacted] end",
            ),
            ("cut -----BEGIN PRIVATE KEY-----\\nMHc", "cut [redacted]"),
        ] {
            assert_eq!(redact(line), redacted);
        }
    }

    #[test]
    fn everything_else_is_left_as_it_is() {
        for line in [
            "a bearer of bad news",
            "Bearer of",
            "eyJust a word",
            "eyJa. End of sentence",
            "http://127.0.0.1:8080/path?at=a@b",
            "postgres://user@db/caracal",
            "-----BEGIN CERTIFICATE-----",
            "-----BEGIN ",
            "https://[::1]:8443/",
            "caf\u{e9} \u{1f980} eyJ\u{e9}",
        ] {
            assert_eq!(redact(line), line);
        }
    }
}
