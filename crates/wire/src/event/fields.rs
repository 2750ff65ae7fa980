//! Reading and writing single fields of an entry.

use std::str::FromStr;

use caracal_model::id::IdError;

use crate::stream::Fields;

/// Why an entry is not the message it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// A required field is absent or empty.
    #[error("stream field {0} is missing")]
    Missing(&'static str),
    /// A field that must be an id is not one.
    #[error("stream field {field} is not an id")]
    Id {
        /// The field at fault.
        field: &'static str,
        /// What is wrong with it.
        source: IdError,
    },
    /// A field has a value that the message does not allow.
    #[error("stream field {0} is invalid")]
    Invalid(&'static str),
}

/// The value of an optional field. Absent, empty and the text `null` (as some producers write it) all mean: not there.
pub(super) fn optional<'f>(fields: &'f Fields, name: &str) -> Option<&'f str> {
    fields
        .get(name)
        .map(String::as_str)
        .filter(|value| !value.is_empty() && *value != "null")
}

pub(super) fn required<'f>(fields: &'f Fields, name: &'static str) -> Result<&'f str, EventError> {
    optional(fields, name).ok_or(EventError::Missing(name))
}

pub(super) fn optional_id<T: FromStr<Err = IdError>>(
    fields: &Fields,
    name: &'static str,
) -> Result<Option<T>, EventError> {
    let parsed = optional(fields, name).map(str::parse).transpose();
    parsed.map_err(|source| EventError::Id { field: name, source })
}

pub(super) fn required_id<T: FromStr<Err = IdError>>(
    fields: &Fields,
    name: &'static str,
) -> Result<T, EventError> {
    optional_id(fields, name)?.ok_or(EventError::Missing(name))
}

pub(super) fn required_number<T: FromStr>(fields: &Fields, name: &'static str) -> Result<T, EventError> {
    required(fields, name)?
        .parse()
        .map_err(|_not_a_number| EventError::Invalid(name))
}

/// Puts a message together, leaving out what is not there.
pub(super) struct Writer(Fields);

impl Writer {
    pub(super) fn new() -> Self {
        Self(Fields::new())
    }

    pub(super) fn put(mut self, name: &str, value: &(impl ToString + ?Sized)) -> Self {
        self.0.insert(name.to_owned(), value.to_string());
        self
    }

    pub(super) fn put_if<T: ToString>(self, name: &str, value: Option<&T>) -> Self {
        match value {
            Some(value) => self.put(name, value),
            None => self,
        }
    }

    pub(super) fn finish(self) -> Fields {
        self.0
    }
}
