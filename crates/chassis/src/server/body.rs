//! How does a handler that needs the raw bytes read them without being filled up?

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body;

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// It has more than this many bytes: answer 413.
    #[error("the body has more than {0} bytes")]
    TooLarge(usize),
    /// The client stopped sending it, or sent it malformed: answer 400.
    #[error("the body could not be read")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Reads all of `body`, at most `limit` bytes. Copies once when it came in several pieces, else not at all.
///
/// # Errors
/// See [`BodyError`].
pub async fn read_body<B>(body: B, limit: usize) -> Result<Bytes, BodyError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match Limited::new(body, limit).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(BodyError::TooLarge(limit)),
        Err(error) => Err(BodyError::Broken(error)),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[tokio::test]
    async fn a_body_of_exactly_the_limit_is_read_and_one_more_byte_is_refused() {
        assert_eq!(read_body(Body::from("12345"), 5).await.unwrap(), "12345");
        let error = read_body(Body::from("123456"), 5).await.unwrap_err();
        assert!(matches!(error, BodyError::TooLarge(5)), "{error:?}");
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_told_apart() {
        let pieces = futures_util::stream::iter([Ok("12"), Err(std::io::Error::other("reset"))]);
        let error = read_body(Body::from_stream(pieces), 5).await.unwrap_err();
        assert!(matches!(error, BodyError::Broken(_)), "{error:?}");
    }
}
