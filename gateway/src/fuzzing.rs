//! What the fuzz targets of the workspace may call: the parsers of bytes that strangers write. Not for anybody else.

use pingora_http::{RequestHeader, ResponseHeader};

/// Headers by name.
pub type Headers = Vec<(String, Vec<u8>)>;

/// Takes a request head in as HTTP/1.1: its headers after cleaning, or `None` when it is refused or is no head.
pub fn request_head(target: &[u8], headers: &[(&str, &[u8])], mandate: &str) -> Option<Headers> {
    let mut head = RequestHeader::build("GET", target, Some(headers.len())).ok()?;
    for (name, value) in headers {
        head.append_header((*name).to_owned(), *value).ok()?;
    }
    crate::one_reading::check(&head).ok()?;
    crate::header::clean_request(&mut head, Some(mandate)).ok()?;
    Some(listed(&head.headers))
}

/// Takes an answer's head in: its headers after cleaning, or `None` when it is no head.
pub fn response_head(status: u16, headers: &[(&str, &[u8])]) -> Option<Headers> {
    let mut head = ResponseHeader::build(status, Some(headers.len())).ok()?;
    for (name, value) in headers {
        head.append_header((*name).to_owned(), *value).ok()?;
    }
    crate::header::clean_response(&mut head, false);
    Some(listed(&head.headers))
}

fn listed(headers: &http::HeaderMap) -> Headers {
    let headers = headers.iter();
    headers
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
        .collect()
}
