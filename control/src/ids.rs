//! Which id does a new thing get?

use std::str::FromStr;

use caracal_model::IdError;
use uuid::Uuid;

use crate::refusal::Refusal;

/// A new id: a version 7 UUID (RFC 9562 section 5.7), so that ids sort by the time they were made.
///
/// # Errors
/// Never in practice: a UUID is made of characters every id allows.
pub(crate) fn new<T: FromStr<Err = IdError>>() -> Result<T, Refusal> {
    Uuid::now_v7().to_string().parse().map_err(Refusal::internal)
}
