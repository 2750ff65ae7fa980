//! By which name do all services speak of one request?

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::rand;
use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

use crate::Clock;

/// The header that carries the name, in requests and answers.
pub const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// Longest name adopted from a client.
const LENGTH_MAX: usize = 128;

/// The name of a request: an extension of every request, and an extractor. 1 to 128 of `A-Z a-z 0-9 _ . : -`, so that
/// it can be logged and sent on as it is.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// A new name that sorts by time (UUID version 7).
    pub fn generate() -> Self {
        let mut random = [0_u8; 10];
        // Without randomness the name is not unique, which costs a log line its clarity and nothing else.
        let _filled = rand::fill(&mut random);
        Self::from_random(&random)
    }

    /// The same from random bytes of the caller's.
    pub fn from_random(random: &[u8; 10]) -> Self {
        let millis = u64::try_from(Clock::system().unix_millis()).unwrap_or_default();
        let uuid = uuid::Builder::from_unix_timestamp_millis(millis, random).into_uuid();
        let mut text = Uuid::encode_buffer();
        Self(Arc::from(&*uuid.hyphenated().encode_lower(&mut text)))
    }

    /// `text` as a name, if it is one.
    pub fn parse(text: &str) -> Option<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte);
        let is_name = (1..=LENGTH_MAX).contains(&text.len()) && text.bytes().all(allowed);
        is_name.then(|| Self(text.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name the client gave, if it is one; else a new one.
    pub(super) fn adopt(headers: &HeaderMap) -> Self {
        let given = headers
            .get(REQUEST_ID_HEADER)
            .and_then(|value| value.to_str().ok());
        given.and_then(Self::parse).unwrap_or_else(Self::generate)
    }

    /// The name as the value of a header.
    pub(super) fn header_value(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.0).ok()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "RequestId({})", self.0)
    }
}

impl<S: Sync> FromRequestParts<S> for RequestId {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        Ok(parts
            .extensions
            .get::<Self>()
            .cloned()
            .unwrap_or_else(Self::generate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_are_safe_to_log_are_adopted() {
        for text in ["a", "0199-x_y.z:1", &"a".repeat(128)] {
            assert_eq!(RequestId::parse(text).unwrap().as_str(), text);
        }
        for text in ["", " ", "a b", "a\n", "a/b", "é", &"a".repeat(129)] {
            assert!(RequestId::parse(text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn a_new_name_is_a_uuid_that_sorts_by_time() {
        let (one, two) = (RequestId::generate(), RequestId::generate());
        assert_ne!(one, two);
        assert_eq!(Uuid::parse_str(one.as_str()).unwrap().get_version_num(), 7);
        assert!(RequestId::parse(one.as_str()).is_some());
    }
}
