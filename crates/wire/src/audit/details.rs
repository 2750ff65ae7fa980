//! What does an event say besides its fixed members? Members of an object, written as JSON text as they become known.

use std::borrow::Cow;
use std::ops::Range;

use serde::Serialize;
use serde::ser::Error as _;

/// Bytes that the members of most events need.
const USUAL_BYTES: usize = 1_024;
/// Members that most events have.
const USUAL_MEMBERS: usize = 24;

/// The members of `metadata_json`. Hot path: two allocations, however many members there are.
#[derive(Clone, Debug)]
pub struct Details {
    /// The values, one after the other.
    text: Vec<u8>,
    members: Vec<(Cow<'static, str>, Range<usize>)>,
    /// A value could not be written: there must be no event without it.
    failed: bool,
}

impl Default for Details {
    fn default() -> Self {
        Self {
            text: Vec::with_capacity(USUAL_BYTES),
            members: Vec::with_capacity(USUAL_MEMBERS),
            failed: false,
        }
    }
}

impl Details {
    /// Adds a member. One that is there already gets this value instead.
    pub fn put(&mut self, name: impl Into<Cow<'static, str>>, value: &(impl Serialize + ?Sized)) {
        let begin = self.text.len();
        if serde_json::to_writer(&mut self.text, value).is_err() {
            self.failed = true;
        }
        let (name, range) = (name.into(), begin..self.text.len());
        match self.members.iter_mut().find(|(present, _)| *present == name) {
            Some((_, present)) => *present = range,
            None => self.members.push((name, range)),
        }
    }

    /// Adds `,"metadata_json":{..}` before the closing brace of `event`, if there are members.
    pub(super) fn join(&self, event: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        if self.failed {
            return Err(serde_json::Error::custom(
                "a detail of an event cannot be written",
            ));
        }
        if self.members.is_empty() {
            return Ok(());
        }
        event.pop();
        event.extend_from_slice(b",\"metadata_json\":");
        let mut before = b'{';
        for (name, range) in &self.members {
            event.push(before);
            serde_json::to_writer(&mut *event, name)?;
            event.push(b':');
            event.extend_from_slice(self.text.get(range.clone()).unwrap_or_default());
            before = b',';
        }
        event.extend_from_slice(b"}}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use caracal_model::time::UnixMicros;
    use serde_json::{Value, json};

    use super::super::AuditEvent;
    use super::*;

    fn event() -> AuditEvent {
        AuditEvent::new("e".parse().unwrap(), "z".parse().unwrap(), "t", UnixMicros(1))
    }

    #[test]
    fn members_are_written_as_values_would_be_and_the_last_of_a_name_stays() {
        let mut details = Details::default();
        details.put("a\"b", "text with \"quotes\" and \n");
        details.put("list", &["x", "y"]);
        details.put("n", &1);
        details.put("n", &json!({"deep": null}));
        let text = event().to_json_with(&details).unwrap();
        let as_values = AuditEvent {
            metadata_json: json!({"a\"b": "text with \"quotes\" and \n", "list": ["x", "y"], "n": {"deep": null}}),
            ..event()
        };
        let read: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(read, serde_json::to_value(as_values).unwrap());
        assert_eq!(String::from_utf8(text).unwrap().matches("\"n\"").count(), 1);
    }

    #[test]
    fn without_members_there_is_no_object() {
        assert_eq!(
            event().to_json_with(&Details::default()).unwrap(),
            event().to_json().unwrap()
        );
    }

    #[test]
    fn an_event_is_not_written_without_what_could_not_be() {
        struct Unwritable;
        impl Serialize for Unwritable {
            fn serialize<S: serde::Serializer>(&self, _serializer: S) -> Result<S::Ok, S::Error> {
                Err(S::Error::custom("no"))
            }
        }
        let mut details = Details::default();
        details.put("a", &Unwritable);
        assert!(event().to_json_with(&details).is_err());
    }
}
