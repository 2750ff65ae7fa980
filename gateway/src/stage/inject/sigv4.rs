//! How is a request to an AWS service signed? AWS Signature Version 4, in the `Authorization` header.
//!
//! The body is never read here, so its hash comes from elsewhere (`docs/contract/upstream-credentials.md`, "AWS"):
//! a request without a body has the hash of nothing; a client that knows its body says so in `X-Amz-Content-Sha256`, which
//! AWS then checks; S3 over TLS takes a body unsigned; anything else cannot be signed and is refused.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use caracal_wire::sts::AwsSigning;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, TRANSFER_ENCODING};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode, utf8_percent_encode};
use pingora_error::{Error, ErrorType, Result};
use pingora_http::RequestHeader;
use time::OffsetDateTime;

use crate::context::Inbound;
use crate::denial::Denial;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const PAYLOAD: HeaderName = HeaderName::from_static("x-amz-content-sha256");
/// Beginning of the headers in which S3 is told to read another object.
const COPY_SOURCE: &str = "x-amz-copy-source";
const SECURITY_TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");
/// SHA-256 of no bytes.
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Everything but the unreserved characters of RFC 3986 is encoded.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
const RESERVED_IN_PATH: &AsciiSet = &RESERVED.remove(b'/');

/// A signature to be made over the finished head of a request.
pub(super) struct Signing {
    aws: AwsSigning,
    date: Date,
    payload: HeaderValue,
}

impl fmt::Debug for Signing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Signing").field(&self.aws).finish()
    }
}

impl Signing {
    /// Decides how `request` is signed at `unix_seconds`, before anything is recorded or sent.
    ///
    /// # Errors
    /// [`Denial::Unbuildable`] when there is a body of unknown hash and the service does not take it unsigned, and when the request
    /// names another object to read: what it is for was decided by its path.
    pub(super) fn plan(
        aws: &AwsSigning,
        request: &Inbound<'_>,
        is_tls: bool,
        unix_seconds: i64,
    ) -> Result<Self, Denial> {
        let names_source = |name: &HeaderName| name.as_str().starts_with(COPY_SOURCE);
        if request.headers().keys().any(names_source) {
            return Err(Denial::Unbuildable("x-amz-copy-source"));
        }
        Ok(Self {
            payload: payload(aws, request, is_tls)?,
            date: Date::at(unix_seconds).ok_or(Denial::Unbuildable("time"))?,
            aws: aws.clone(),
        })
    }

    /// Signs `head`, which is complete but for the headers of the signature. What the client put there is replaced.
    ///
    /// # Errors
    /// When a value cannot stand in a header.
    pub(super) fn apply(&self, head: &mut RequestHeader) -> Result<()> {
        head.insert_header(DATE, self.date.time.as_str())?;
        head.insert_header(PAYLOAD, self.payload.clone())?;
        head.remove_header(&SECURITY_TOKEN);
        if let Some(token) = &self.aws.session_token {
            head.insert_header(SECURITY_TOKEN, sensitive(token)?)?;
        }
        head.remove_header(&AUTHORIZATION);
        let target = String::from_utf8_lossy(head.raw_path()).into_owned();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let headers = signed_headers(head);
        let request = Canonical {
            method: head.method.as_str(),
            path,
            query,
            headers: &headers,
            payload: self.payload.to_str().unwrap_or_default(),
        };
        let authorization = authorization(&self.aws, &self.date, &request);
        head.insert_header(AUTHORIZATION, sensitive(&authorization)?)?;
        Ok(())
    }
}

/// What stands in `X-Amz-Content-Sha256`.
fn payload(aws: &AwsSigning, request: &Inbound<'_>, is_tls: bool) -> Result<HeaderValue, Denial> {
    let takes_unsigned = aws.service == "s3" && is_tls;
    if let Some(told) = request.headers().get(PAYLOAD) {
        let text = told.to_str().unwrap_or_default();
        let is_hash = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_hash || (takes_unsigned && text == UNSIGNED) {
            return Ok(told.clone());
        }
        return Err(Denial::Unbuildable("x-amz-content-sha256"));
    }
    let has_body = request.headers().contains_key(TRANSFER_ENCODING)
        || request.content_length().is_some_and(|length| length > 0);
    match (has_body, takes_unsigned) {
        (false, _) => Ok(HeaderValue::from_static(EMPTY)),
        (true, true) => Ok(HeaderValue::from_static(UNSIGNED)),
        (true, false) => Err(Denial::Unbuildable("a body without x-amz-content-sha256")),
    }
}

/// The moment of a signature.
#[derive(Debug)]
struct Date {
    /// `YYYYMMDD`.
    day: String,
    /// `YYYYMMDDTHHMMSSZ`.
    time: String,
}

impl Date {
    fn at(unix_seconds: i64) -> Option<Self> {
        let at = OffsetDateTime::from_unix_timestamp(unix_seconds).ok()?;
        let day = format!("{:04}{:02}{:02}", at.year(), u8::from(at.month()), at.day());
        let time = format!("{day}T{:02}{:02}{:02}Z", at.hour(), at.minute(), at.second());
        Some(Self { day, time })
    }
}

/// Host, content type, and everything of Amazon's: names in lower case, sorted, values joined and trimmed.
fn signed_headers(head: &RequestHeader) -> Vec<(String, String)> {
    let is_signed =
        |name: &&HeaderName| **name == HOST || **name == CONTENT_TYPE || name.as_str().starts_with("x-amz-");
    let mut names: Vec<&HeaderName> = head.headers.keys().filter(is_signed).collect();
    names.sort_unstable_by_key(|name| name.as_str());
    let value = |name: &HeaderName| {
        let values = head.headers.get_all(name).iter();
        let values: Vec<String> = values
            .map(|value| trimmed(&String::from_utf8_lossy(value.as_bytes())))
            .collect();
        values.join(",")
    };
    names
        .into_iter()
        .map(|name| (name.as_str().to_owned(), value(name)))
        .collect()
}

/// Without white space around, and with one space for several.
fn trimmed(value: &str) -> String {
    value.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
}

/// What is signed of a request.
struct Canonical<'a> {
    method: &'a str,
    /// As sent.
    path: &'a str,
    /// As sent, without `?`.
    query: &'a str,
    /// Sorted by name.
    headers: &'a [(String, String)],
    payload: &'a str,
}

impl Canonical<'_> {
    fn text(&self, service: &str) -> String {
        let mut text = format!(
            "{}\n{}\n{}\n",
            self.method,
            canonical_path(self.path, service),
            canonical_query(self.query)
        );
        for (name, value) in self.headers {
            for part in [name, ":", value, "\n"] {
                text.push_str(part);
            }
        }
        for part in ["\n", &self.header_names(), "\n", self.payload] {
            text.push_str(part);
        }
        text
    }

    fn header_names(&self) -> String {
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        names.join(";")
    }
}

/// S3 takes the path as its objects are named, encoded once. Every other service takes what was sent, without empty
/// segments, and encodes it again.
fn canonical_path(path: &str, service: &str) -> String {
    if service == "s3" {
        let decoded: Vec<u8> = percent_decode_str(path).collect();
        return percent_encode(&decoded, RESERVED_IN_PATH).to_string();
    }
    let mut normal = String::with_capacity(path.len());
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        normal.push('/');
        normal.push_str(segment);
    }
    if normal.is_empty() || path.ends_with('/') {
        normal.push('/');
    }
    utf8_percent_encode(&normal, RESERVED_IN_PATH).to_string()
}

/// Parameters encoded anew and sorted; one without a value has an empty one.
fn canonical_query(query: &str) -> String {
    let encoded = |text: &str| {
        let text = text.replace('+', " ");
        let decoded: Vec<u8> = percent_decode_str(&text).collect();
        percent_encode(&decoded, RESERVED).to_string()
    };
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let mut pairs: Vec<(String, String)> = pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (encoded(name), encoded(value)))
        .collect();
    pairs.sort_unstable();
    let pairs: Vec<String> = pairs
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    pairs.join("&")
}

fn authorization(aws: &AwsSigning, date: &Date, request: &Canonical<'_>) -> String {
    let scope = format!("{}/{}/{}/aws4_request", date.day, aws.region, aws.service);
    let hash = hex::encode(digest(&SHA256, request.text(&aws.service).as_bytes()));
    let signed = format!("{ALGORITHM}\n{}\n{scope}\n{hash}", date.time);
    let key = signing_key(aws, &date.day);
    let signature = hex::encode(mac(key.as_ref(), signed.as_bytes()));
    format!(
        "{ALGORITHM} Credential={}/{scope}, SignedHeaders={}, Signature={signature}",
        aws.access_key_id,
        request.header_names()
    )
}

fn signing_key(aws: &AwsSigning, day: &str) -> hmac::Tag {
    let secret = format!("AWS4{}", aws.secret_access_key);
    let key = mac(secret.as_bytes(), day.as_bytes());
    let key = mac(key.as_ref(), aws.region.as_bytes());
    let key = mac(key.as_ref(), aws.service.as_bytes());
    mac(key.as_ref(), b"aws4_request")
}

fn mac(key: &[u8], text: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text)
}

fn sensitive(text: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::try_from(text).map_err(|_error| {
        Error::explain(
            ErrorType::InternalError,
            "a value of the signature is no header value",
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests;
