//! Ids of what this service creates: UUID version 7 (RFC 9562 section 5.7), ordered by time, 74 random bits.

use aws_lc_rs::error::Unspecified;
use uuid::Builder;

/// A fresh id, as text. `unix_millis` is the present time.
///
/// # Errors
/// When the operating system gives no randomness.
pub(crate) fn unique_id(unix_millis: i64) -> Result<String, Unspecified> {
    let mut random = [0; 10];
    aws_lc_rs::rand::fill(&mut random)?;
    let millis = u64::try_from(unix_millis).unwrap_or_default();
    Ok(Builder::from_unix_timestamp_millis(millis, &random)
        .into_uuid()
        .to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_sort_by_time() {
        let earlier = unique_id(1_700_000_000_000).unwrap();
        let later = unique_id(1_700_000_000_001).unwrap();
        assert_ne!(earlier, unique_id(1_700_000_000_000).unwrap());
        assert!(earlier < later);
        assert_eq!(earlier.len(), 36);
        assert_eq!(earlier.as_bytes().get(14), Some(&b'7'));
    }
}
