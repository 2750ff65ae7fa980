//! What did the client send, and which of its members are wrong?
//!
//! A reader over one JSON object that collects every problem with its path, so that a client learns all of them at
//! once (`docs/contract/admin-api.md` section 3).

use std::ops::RangeInclusive;

use serde_json::{Map, Value, json};

use crate::refusal::{Code, Refusal};

/// A parsed request body: a JSON object, and the problems found in it so far.
#[derive(Debug)]
pub(crate) struct Body {
    members: Map<String, Value>,
    known: Vec<&'static str>,
    issues: Vec<Issue>,
}

#[derive(Debug)]
struct Issue {
    path: Vec<Value>,
    message: String,
}

impl Body {
    /// Reads `bytes` as one JSON object; an empty body is an empty object.
    ///
    /// # Errors
    /// [`Code::InvalidBody`] when the bytes are not a JSON object.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        if bytes.is_empty() {
            return Ok(Self::of(Map::new()));
        }
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(members)) => Ok(Self::of(members)),
            Ok(_) => Err(not_an_object("Expected a JSON object")),
            Err(_) => Err(not_an_object("The body is not valid JSON")),
        }
    }

    fn of(members: Map<String, Value>) -> Self {
        Self {
            members,
            known: Vec::new(),
            issues: Vec::new(),
        }
    }

    /// The raw members, for the summary of the admin audit record (names only).
    pub(crate) const fn members(&self) -> &Map<String, Value> {
        &self.members
    }

    /// Whether the member was sent at all, `null` included.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    /// Whether none of the members read so far was sent.
    pub(crate) fn is_without_known_members(&self) -> bool {
        !self.known.iter().any(|name| self.members.contains_key(*name))
    }

    /// A text that must be there, with a length in characters.
    pub(crate) fn required_text(&mut self, name: &'static str, length: RangeInclusive<usize>) -> String {
        self.require(name);
        self.optional_text(name, length).unwrap_or_default()
    }

    /// A text that may be missing but not `null`, with a length in characters.
    pub(crate) fn optional_text(
        &mut self,
        name: &'static str,
        length: RangeInclusive<usize>,
    ) -> Option<String> {
        let text = self.text(name)?;
        self.sized(name, text, &length)
    }

    /// As [`Body::optional_text`], without surrounding white space.
    pub(crate) fn optional_trimmed(
        &mut self,
        name: &'static str,
        length: RangeInclusive<usize>,
    ) -> Option<String> {
        let text = self.text(name)?.trim().to_owned();
        self.sized(name, text, &length)
    }

    /// As [`Body::required_text`], without surrounding white space.
    pub(crate) fn required_trimmed(&mut self, name: &'static str, length: RangeInclusive<usize>) -> String {
        self.require(name);
        self.optional_trimmed(name, length).unwrap_or_default()
    }

    /// A text that may also be `null`: `None` = not sent, `Some(None)` = `null`.
    #[expect(
        clippy::option_option,
        reason = "not sent and null mean different things in a PATCH"
    )]
    pub(crate) fn nullable_text(
        &mut self,
        name: &'static str,
        length: RangeInclusive<usize>,
    ) -> Option<Option<String>> {
        if self.members.get(name).is_some_and(Value::is_null) {
            self.known.push(name);
            return Some(None);
        }
        self.optional_text(name, length).map(Some)
    }

    /// A boolean that may be missing.
    pub(crate) fn optional_boolean(&mut self, name: &'static str) -> Option<bool> {
        let value = self.take(name)?;
        let read = value.as_bool();
        if read.is_none() {
            self.problem(&[name], "Expected boolean");
        }
        read
    }

    /// One of a fixed set of words.
    pub(crate) fn optional_word(
        &mut self,
        name: &'static str,
        words: &[&'static str],
    ) -> Option<&'static str> {
        let text = self.text(name)?;
        let found = words.iter().copied().find(|word| *word == text);
        if found.is_none() {
            self.problem(&[name], &format!("Expected one of: {}", words.join(", ")));
        }
        found
    }

    /// A list of texts, with a number of entries and a length in characters for each.
    pub(crate) fn optional_texts(
        &mut self,
        name: &'static str,
        count: RangeInclusive<usize>,
        length: &RangeInclusive<usize>,
    ) -> Option<Vec<String>> {
        let entries = self.entries(name, &count)?;
        let mut texts = Vec::with_capacity(entries.len());
        for (at, entry) in entries.iter().enumerate() {
            match entry.as_str() {
                Some(text) if length.contains(&text.chars().count()) => texts.push(text.to_owned()),
                Some(_) => self.problem_at(name, at, &wrong_length(length)),
                None => self.problem_at(name, at, "Expected string"),
            }
        }
        Some(texts)
    }

    /// A list of objects; each entry is read by its own [`Body`], whose problems come back here.
    pub(crate) fn optional_objects<T>(
        &mut self,
        name: &'static str,
        count: RangeInclusive<usize>,
        mut read: impl FnMut(&mut Body) -> T,
    ) -> Option<Vec<T>> {
        let entries = self.entries(name, &count)?;
        let mut values = Vec::with_capacity(entries.len());
        for (at, entry) in entries.into_iter().enumerate() {
            let Value::Object(members) = entry else {
                self.problem_at(name, at, "Expected object");
                continue;
            };
            let mut inner = Self::of(members);
            values.push(read(&mut inner));
            for issue in inner.issues {
                let mut path = vec![json!(name), json!(at)];
                path.extend(issue.path);
                self.issues.push(Issue {
                    path,
                    message: issue.message,
                });
            }
        }
        Some(values)
    }

    /// An object member, taken as it is.
    pub(crate) fn optional_object(&mut self, name: &'static str) -> Option<Map<String, Value>> {
        if let Value::Object(members) = self.take(name)? {
            return Some(members);
        }
        self.problem(&[name], "Expected object");
        None
    }

    /// Adds a problem with a member that only the caller can judge.
    pub(crate) fn problem(&mut self, path: &[&str], message: &str) {
        let path = path.iter().map(|part| json!(part)).collect();
        self.issues.push(Issue {
            path,
            message: message.to_owned(),
        });
    }

    /// Ends the reading of an object in which unknown members are an error.
    ///
    /// # Errors
    /// `code` with every problem found.
    pub(crate) fn finish_strict(&mut self, code: Code) -> Result<(), Refusal> {
        self.note_unknown();
        self.finish(code)
    }

    /// Adds a problem for every member that was not read, in an object within another.
    pub(crate) fn note_unknown(&mut self) {
        let unknown: Vec<String> = self
            .members
            .keys()
            .filter(|name| !self.known.contains(&name.as_str()))
            .cloned()
            .collect();
        for name in unknown {
            self.problem(&[], &format!("Unrecognized key: \"{name}\""));
        }
    }

    /// Ends the reading of an object in which unknown members are ignored.
    ///
    /// # Errors
    /// `code` with every problem found.
    pub(crate) fn finish(&mut self, code: Code) -> Result<(), Refusal> {
        if self.issues.is_empty() {
            return Ok(());
        }
        let issues: Vec<Value> = self
            .issues
            .iter()
            .map(|issue| json!({ "path": issue.path, "message": issue.message }))
            .collect();
        Err(Refusal::because(code, "Request body failed validation")
            .with_details(json!({ "issues": issues })))
    }

    fn require(&mut self, name: &'static str) {
        if !self.members.contains_key(name) {
            self.problem(&[name], "Required");
        }
    }

    fn take(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.members.get(name).cloned()
    }

    fn text(&mut self, name: &'static str) -> Option<String> {
        if let Value::String(text) = self.take(name)? {
            return Some(text);
        }
        self.problem(&[name], "Expected string");
        None
    }

    fn sized(&mut self, name: &'static str, text: String, length: &RangeInclusive<usize>) -> Option<String> {
        // PostgreSQL text cannot hold U+0000; refusing it here keeps a 400 from becoming a 500.
        if text.contains('\0') {
            self.problem(&[name], "Must not contain U+0000");
            return None;
        }
        if !length.contains(&text.chars().count()) {
            self.problem(&[name], &wrong_length(length));
            return None;
        }
        Some(text)
    }

    fn entries(&mut self, name: &'static str, count: &RangeInclusive<usize>) -> Option<Vec<Value>> {
        let Value::Array(entries) = self.take(name)? else {
            self.problem(&[name], "Expected array");
            return None;
        };
        if !count.contains(&entries.len()) {
            self.problem(
                &[name],
                &format!("Expected {} to {} entries", count.start(), count.end()),
            );
            return None;
        }
        Some(entries)
    }

    fn problem_at(&mut self, name: &str, at: usize, message: &str) {
        self.issues.push(Issue {
            path: vec![json!(name), json!(at)],
            message: message.to_owned(),
        });
    }
}

fn wrong_length(length: &RangeInclusive<usize>) -> String {
    format!("Expected {} to {} characters", length.start(), length.end())
}

fn not_an_object(message: &str) -> Refusal {
    Refusal::because(Code::InvalidBody, "Request body failed validation")
        .with_details(json!({ "issues": [{ "path": [], "message": message }] }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(value: &Value) -> Body {
        Body::parse(value.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn every_problem_is_reported_with_its_path() {
        let mut body = body(&json!({ "scopes": ["a", 3], "operations": [{ "method": 1 }], "extra": true }));
        body.required_text("name", 1..=3);
        body.optional_texts("scopes", 1..=4, &(1..=10));
        body.optional_objects("operations", 0..=4, |entry| entry.required_text("method", 1..=4));
        let refusal = body.finish_strict(Code::InvalidResource).unwrap_err();
        let answer = refusal.body("r");
        let paths: Vec<&Value> = answer["details"]["issues"]
            .as_array()
            .unwrap()
            .iter()
            .map(|issue| &issue["path"])
            .collect();
        assert_eq!(
            paths,
            vec![
                &json!(["name"]),
                &json!(["scopes", 1]),
                &json!(["operations", 0, "method"]),
                &json!([])
            ]
        );
    }

    #[test]
    fn null_is_a_value_only_where_it_may_be() {
        let mut body = body(&json!({ "a": null, "b": null }));
        assert_eq!(body.nullable_text("a", 1..=3), Some(None));
        assert_eq!(body.optional_text("b", 1..=3), None);
        assert!(
            body.finish(Code::InvalidBody).is_err(),
            "null in place of a text must be refused"
        );
    }

    #[test]
    fn text_that_the_database_cannot_hold_is_refused() {
        let mut body = body(&json!({ "name": "a\u{0}b" }));
        body.required_text("name", 1..=10);
        assert!(body.finish(Code::InvalidBody).is_err());
    }

    #[test]
    fn only_objects_are_bodies() {
        for bytes in [&b"[]"[..], b"1", b"{", b"\xff"] {
            assert!(Body::parse(bytes).is_err());
        }
        assert!(Body::parse(b"").unwrap().members().is_empty());
    }
}
