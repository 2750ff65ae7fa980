//! Which values may one member of a provider's configuration have?
//!
//! Each function returns the value in its stored form. No message repeats a value: it may be a secret in the wrong
//! place.

use std::borrow::Cow;

use serde_json::{Map, Value};
use url::Url;

/// Why a configuration was refused: a sentence for the client.
pub(crate) type Fault = Cow<'static, str>;

const TEXT_CHARACTERS_MAX: usize = 2048;
const SECRET_CHARACTERS_MAX: usize = 16_384;
const ENTRIES_MAX: usize = 64;

/// Headers that steer the connection or that this product sets itself: a credential must not be put there.
const RESERVED_HEADERS: [&str; 20] = [
    "baggage",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-real-ip",
    "x-request-id",
];
const RESERVED_HEADER_PREFIXES: [&str; 3] = ["x-caracal-", "x-forwarded-", "proxy-"];

/// A trimmed, non-empty secret. A private key may have several lines; nothing else may hold control characters.
pub(crate) fn secret(name: &'static str, value: &Value) -> Result<String, Fault> {
    let text = value.as_str().ok_or_else(|| expected(name, "a string"))?.trim();
    if text.is_empty() || text.chars().count() > SECRET_CHARACTERS_MAX {
        return Err(expected(name, "1 to 16384 characters"));
    }
    let multiline = name == "private_key";
    if text
        .chars()
        .any(|c| c.is_control() && !(multiline && matches!(c, '\n' | '\r' | '\t')))
    {
        return Err(expected(name, "no control characters"));
    }
    if multiline && !is_pem(text, "PRIVATE KEY") {
        return Err(expected(name, "a PEM private key"));
    }
    Ok(text.to_owned())
}

/// A trimmed, non-empty text without control characters.
pub(crate) fn text(name: &str, value: &Value) -> Result<Value, Fault> {
    plain(name, value).map(Value::from)
}

/// One of a fixed set of words.
pub(crate) fn word(name: &str, value: &Value, words: &[&str]) -> Result<Value, Fault> {
    match value.as_str().filter(|word| words.contains(word)) {
        Some(word) => Ok(Value::from(word)),
        None => Err(expected(name, &format!("one of {}", words.join(", ")))),
    }
}

/// A boolean.
pub(crate) fn boolean(name: &str, value: &Value) -> Result<Value, Fault> {
    value
        .as_bool()
        .map(Value::from)
        .ok_or_else(|| expected(name, "a boolean"))
}

/// An RFC 9110 field name that may carry a credential.
pub(crate) fn header_name(name: &str, value: &Value) -> Result<Value, Fault> {
    let header = plain(name, value)?;
    let lower = header.to_ascii_lowercase();
    if !header.bytes().all(is_token_byte) {
        return Err(expected(name, "an HTTP field name"));
    }
    if RESERVED_HEADERS.contains(&lower.as_str())
        || RESERVED_HEADER_PREFIXES
            .iter()
            .any(|prefix| lower.starts_with(prefix))
    {
        return Err(expected(name, "a field name that is not reserved"));
    }
    Ok(Value::from(header))
}

/// The name of a query parameter.
pub(crate) fn parameter_name(name: &str, value: &Value) -> Result<Value, Fault> {
    let parameter = plain(name, value)?;
    if !is_parameter_name(&parameter) {
        return Err(expected(name, "letters, digits and . _ ~ - only"));
    }
    Ok(Value::from(parameter))
}

/// An authentication scheme: a letter, then letters, digits and hyphens.
pub(crate) fn auth_scheme(name: &str, value: &Value) -> Result<Value, Fault> {
    let scheme = plain(name, value)?;
    let starts_with_letter = scheme.bytes().next().is_some_and(|b| b.is_ascii_alphabetic());
    if !starts_with_letter || !scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err(expected(name, "a scheme such as Bearer"));
    }
    Ok(Value::from(scheme))
}

/// Host names that may receive the credential, in lower case.
pub(crate) fn hosts(name: &str, value: &Value) -> Result<Value, Fault> {
    let mut hosts = Vec::new();
    for host in strings(name, value)? {
        let host = host.to_ascii_lowercase();
        let ends = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
        let well_formed = host.len() <= 253
            && ends(host.bytes().next())
            && ends(host.bytes().next_back())
            && host
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'))
            && !host.contains("..");
        if !well_formed {
            return Err(expected(name, "host names without scheme, port or path"));
        }
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    Ok(Value::from(hosts))
}

/// A list of non-empty texts.
pub(crate) fn texts(name: &str, value: &Value) -> Result<Value, Fault> {
    strings(name, value).map(Value::from)
}

/// Extra parameters of a request to the OAuth server; `reserved` are the ones the protocol sets itself.
pub(crate) fn parameters(name: &str, value: &Value, reserved: &[&str]) -> Result<Value, Fault> {
    let map = value
        .as_object()
        .ok_or_else(|| expected(name, "an object of strings"))?;
    if map.len() > ENTRIES_MAX {
        return Err(expected(name, "at most 64 members"));
    }
    let mut checked = Map::new();
    for (parameter, entry) in map {
        if !is_parameter_name(parameter) {
            return Err(expected(name, "member names of letters, digits and . _ ~ -"));
        }
        if reserved.contains(&parameter.as_str()) {
            return Err(format!("config_json.{name}.{parameter} is set by the protocol").into());
        }
        let text = entry.as_str().filter(|text| !text.chars().any(char::is_control));
        let text = text.ok_or_else(|| expected(name, "an object of strings"))?;
        checked.insert(parameter.clone(), Value::from(text));
    }
    Ok(Value::Object(checked))
}

/// An `https` URL without user information or fragment.
pub(crate) fn https_endpoint(name: &str, value: &Value) -> Result<Value, Fault> {
    let text = plain(name, value)?;
    let url = Url::parse(&text)
        .ok()
        .filter(|url| url.scheme() == "https" && url.host_str().is_some());
    let url = url.ok_or_else(|| expected(name, "an https URL"))?;
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err(expected(name, "a URL without user information or fragment"));
    }
    Ok(Value::from(text))
}

/// Any absolute URI.
pub(crate) fn absolute_uri(name: &str, value: &Value) -> Result<Value, Fault> {
    let text = plain(name, value)?;
    if Url::parse(&text).is_err() {
        return Err(expected(name, "an absolute URI"));
    }
    Ok(Value::from(text))
}

/// A PEM certificate.
pub(crate) fn certificate(name: &str, value: &Value) -> Result<Value, Fault> {
    let text = value
        .as_str()
        .map(str::trim)
        .filter(|text| is_pem(text, "CERTIFICATE"));
    text.map(Value::from)
        .ok_or_else(|| expected(name, "a PEM certificate"))
}

fn plain(name: &str, value: &Value) -> Result<String, Fault> {
    let text = value.as_str().ok_or_else(|| expected(name, "a string"))?.trim();
    if text.is_empty() || text.chars().count() > TEXT_CHARACTERS_MAX {
        return Err(expected(name, "1 to 2048 characters"));
    }
    if text.chars().any(char::is_control) {
        return Err(expected(name, "no control characters"));
    }
    Ok(text.to_owned())
}

fn strings(name: &str, value: &Value) -> Result<Vec<String>, Fault> {
    let entries = value
        .as_array()
        .ok_or_else(|| expected(name, "a list of strings"))?;
    if entries.len() > ENTRIES_MAX {
        return Err(expected(name, "at most 64 entries"));
    }
    entries.iter().map(|entry| plain(name, entry)).collect()
}

fn is_parameter_name(name: &str) -> bool {
    !name.is_empty()
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'~' | b'-'))
}

/// RFC 9110 section 5.6.2 `tchar`.
const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

fn is_pem(text: &str, label: &str) -> bool {
    let begins = text.lines().next().is_some_and(|line| {
        line.starts_with("-----BEGIN ") && line.trim_end().ends_with(&format!("{label}-----"))
    });
    let ends = text.lines().next_back().is_some_and(|line| {
        line.starts_with("-----END ") && line.trim_end().ends_with(&format!("{label}-----"))
    });
    begins && ends
}

fn expected(name: &str, what: &str) -> Fault {
    format!("config_json.{name}: expected {what}").into()
}
