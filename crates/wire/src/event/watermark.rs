//! "Everything committed before this moment is out": stream `caracal.watermarks`.

use std::collections::BTreeMap;

use super::fields::{EventError, Writer, required, required_number};
use crate::stream::Fields;

/// What one relay had published at one moment.
///
/// A reader is fresh as of `as_of_unix_us` once it has worked through every stream up to the id named here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watermark {
    /// Which relay says so.
    pub relay: String,
    /// The moment, in microseconds since the epoch, by the database's clock.
    pub as_of_unix_us: i64,
    /// The last entry id of each stream at that moment, as `<ms>-<seq>`.
    pub last_ids: BTreeMap<String, String>,
}

impl Watermark {
    /// The message as fields; `last_ids` is one field with a JSON object.
    pub fn to_fields(&self) -> Fields {
        // A map of texts always serialises; an empty one would only make readers wait.
        let last_ids = serde_json::to_string(&self.last_ids).unwrap_or_else(|_| "{}".to_owned());
        Writer::new()
            .put("relay", &self.relay)
            .put("as_of_unix_us", &self.as_of_unix_us)
            .put("last_ids", &last_ids)
            .finish()
    }

    /// Reads a message.
    ///
    /// # Errors
    /// [`EventError`] when a field is missing, or an entry id is not `<ms>-<seq>`.
    pub fn from_fields(fields: &Fields) -> Result<Self, EventError> {
        let last_ids: BTreeMap<String, String> = serde_json::from_str(required(fields, "last_ids")?)
            .map_err(|_malformed| EventError::Invalid("last_ids"))?;
        if !last_ids.values().all(|id| is_entry_id(id)) {
            return Err(EventError::Invalid("last_ids"));
        }
        Ok(Self {
            relay: required(fields, "relay")?.to_owned(),
            as_of_unix_us: required_number(fields, "as_of_unix_us")?,
            last_ids,
        })
    }
}

fn is_entry_id(text: &str) -> bool {
    let is_number =
        |part: &str| part.bytes().all(|byte| byte.is_ascii_digit()) && part.parse::<u64>().is_ok();
    text.split_once('-')
        .is_some_and(|(ms, seq)| is_number(ms) && is_number(seq))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_id_is_two_numbers() {
        assert!(is_entry_id("1700000000000-0"));
        for text in [
            "",
            "-",
            "5",
            "5-",
            "-5",
            "5-x",
            "+5-1",
            "5-1-1",
            "99999999999999999999-0",
        ] {
            assert!(!is_entry_id(text), "{text}");
        }
    }

    #[test]
    fn a_watermark_with_an_unreadable_position_is_refused() {
        let mut fields = Watermark {
            relay: "sts-1".to_owned(),
            as_of_unix_us: 5,
            last_ids: [("s".to_owned(), "7-1".to_owned())].into(),
        }
        .to_fields();
        assert!(Watermark::from_fields(&fields).is_ok());
        fields.insert("last_ids".to_owned(), r#"{"s":"latest"}"#.to_owned());
        assert_eq!(
            Watermark::from_fields(&fields),
            Err(EventError::Invalid("last_ids"))
        );
    }
}
