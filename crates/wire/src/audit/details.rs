//! What does an event say besides its fixed members? Members of an object, written as JSON text as they become known.

use std::borrow::Cow;
use std::ops::Range;

use serde::Serialize;
use serde::ser::Error as _;

use crate::json_text::{begin_member, write_text};

/// Bytes that the members of most events need.
const USUAL_BYTES: usize = 1_280;

/// The members of `metadata_json`. Hot path: one allocation for all members that are added, and one for those that are put.
#[derive(Clone, Debug)]
pub struct Details {
    /// `,"name":value` for each member.
    text: Vec<u8>,
    /// Where those stand that may be put again.
    put: Vec<(Cow<'static, str>, Range<usize>)>,
    /// How many members there are.
    count: usize,
    /// A value could not be written: there must be no event without it.
    failed: bool,
}

impl Default for Details {
    fn default() -> Self {
        Self {
            text: Vec::with_capacity(USUAL_BYTES),
            put: Vec::new(),
            count: 0,
            failed: false,
        }
    }
}

impl Details {
    /// Adds a member. One that was put already gets this value instead.
    pub fn put(&mut self, name: impl Into<Cow<'static, str>>, value: &(impl Serialize + ?Sized)) {
        let name = name.into();
        if let Some(place) = self.put.iter().position(|(present, _)| *present == name) {
            let (_, before) = self.put.remove(place);
            self.forget(before);
        }
        let begin = self.text.len();
        self.text.push(b',');
        self.failed |= write_text(&mut self.text, &name).is_err();
        self.text.push(b':');
        self.failed |= serde_json::to_writer(&mut self.text, value).is_err();
        self.put.push((name, begin..self.text.len()));
        self.count += 1;
    }

    /// Adds a member whose name needs no escape, and which is neither put nor added besides: nothing looks for it.
    pub fn add(&mut self, name: &'static str, value: &(impl Serialize + ?Sized)) {
        self.count += 1;
        begin_member(&mut self.text, name);
        self.failed |= serde_json::to_writer(&mut self.text, value).is_err();
    }

    /// The same for a text.
    pub fn add_text(&mut self, name: &'static str, text: &str) {
        self.count += 1;
        begin_member(&mut self.text, name);
        self.failed |= write_text(&mut self.text, text).is_err();
    }

    /// How long all of it is.
    pub(super) fn bytes(&self) -> usize {
        self.text.len()
    }

    /// Adds `,"metadata_json":{..}` before the closing brace of `event`, if there are members.
    pub(super) fn join(&self, event: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        if self.failed {
            return Err(serde_json::Error::custom(
                "a detail of an event cannot be written",
            ));
        }
        let Some((_comma, members)) = self.text.split_first() else {
            return Ok(());
        };
        debug_assert_eq!(self.different_names(), Some(self.count), "a name stands twice");
        event.pop();
        event.extend_from_slice(b",\"metadata_json\":{");
        event.extend_from_slice(members);
        event.extend_from_slice(b"}}");
        Ok(())
    }

    fn different_names(&self) -> Option<usize> {
        let (_comma, members) = self.text.split_first()?;
        let object = [b"{", members, b"}"].concat();
        let read: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&object).ok()?;
        Some(read.len())
    }

    fn forget(&mut self, before: Range<usize>) {
        self.count -= 1;
        let bytes = before.len();
        for (_, range) in &mut self.put {
            if range.start >= before.end {
                *range = range.start - bytes..range.end - bytes;
            }
        }
        self.text.drain(before);
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
    fn what_is_put_again_leaves_everything_else_in_its_place() {
        let mut details = Details::default();
        details.add_text("first", "1");
        details.put("a", &"long enough to move the rest");
        details.add("second", &2);
        details.put("b", &[1, 2]);
        details.put("a", &0);
        details.add_text("third", "\"3\"");
        details.put("b", &"");
        details.put("a", &true);
        let text = event().to_json_with(&details).unwrap();
        let read: Value = serde_json::from_slice(&text).unwrap();
        let expected = json!({"first": "1", "second": 2, "third": "\"3\"", "b": "", "a": true});
        assert_eq!(read["metadata_json"], expected);
    }

    #[cfg(debug_assertions)]
    #[test]
    #[should_panic(expected = "a name stands twice")]
    fn a_name_that_was_added_twice_is_found_by_every_test() {
        let mut details = Details::default();
        details.add_text("a", "1");
        details.put("a", &2);
        drop(event().to_json_with(&details));
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
        let mut details = Details::default();
        details.add("a", &Unwritable);
        assert!(event().to_json_with(&details).is_err());
    }
}
