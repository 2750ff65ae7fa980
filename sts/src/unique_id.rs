//! Ids of what this service creates: UUID version 7 (RFC 9562 section 5.7), ordered by time, 74 random bits.

use aws_lc_rs::error::Unspecified;
use uuid::Builder;

/// A fresh id, as text. `unix_millis` is the present time.
///
/// # Errors
/// When the operating system gives no randomness.
pub(crate) fn unique_id(unix_millis: i64) -> Result<String, Unspecified> {
    unique_ids(unix_millis).map(|[id]| id)
}

/// Several, for the randomness of one: asking for it costs more than what is given.
///
/// # Errors
/// As [`unique_id`].
pub(crate) fn unique_ids<const N: usize>(unix_millis: i64) -> Result<[String; N], Unspecified> {
    let mut random = [[0; 10]; N];
    aws_lc_rs::rand::fill(random.as_flattened_mut())?;
    let millis = u64::try_from(unix_millis).unwrap_or_default();
    Ok(random.map(|random| {
        let id = Builder::from_unix_timestamp_millis(millis, &random).into_uuid();
        id.to_string()
    }))
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
        let [one, other] = unique_ids(1_700_000_000_000).unwrap();
        assert_ne!(one.get(19..), other.get(19..), "each has its own randomness");
        assert_eq!(earlier.len(), 36);
        assert_eq!(earlier.as_bytes().get(14), Some(&b'7'));
    }
}
