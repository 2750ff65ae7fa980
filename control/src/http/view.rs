//! What do the objects of the API have in common?

use caracal_storage::page::{Attribution, Position};
use serde::Serialize;
use time::OffsetDateTime;

/// Who made and changed an object.
#[derive(Debug, Serialize)]
pub(super) struct AttributionView<'a> {
    created_by: Option<&'a str>,
    created_via_operator: bool,
    updated_by: Option<&'a str>,
    updated_via_operator: bool,
}

impl<'a> From<&'a Attribution> for AttributionView<'a> {
    fn from(attribution: &'a Attribution) -> Self {
        Self {
            created_by: attribution.created_by.as_deref(),
            created_via_operator: attribution.created_via_operator,
            updated_by: attribution.updated_by.as_deref(),
            updated_via_operator: attribution.updated_via_operator,
        }
    }
}

/// The place of a row in its list.
pub(super) fn position(at: OffsetDateTime, id: &(impl ToString + ?Sized)) -> Position {
    Position {
        at,
        id: id.to_string(),
    }
}
