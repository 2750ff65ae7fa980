//! What does the database make of a document?

/// Deepest nesting that is looked at.
const DEPTH_MAX: usize = 16;
/// Digits up to which an integer is written as it was read.
const DIGITS_MAX: usize = 18;

/// The text that PostgreSQL gives for `document::jsonb::text`; `None` where that is not plain to see, and the database has to be asked:
/// fractions and exponents, long numbers, escapes in texts, a name that stands twice in an object, deep nesting, or no JSON at all.
pub fn jsonb_text(document: &str) -> Option<String> {
    let mut reader = Reader { rest: document };
    let node = reader.node(DEPTH_MAX)?;
    if !reader.rest.trim_start_matches(SPACES).is_empty() {
        return None;
    }
    let mut text = String::with_capacity(document.len() + document.len() / 8);
    node.write(&mut text);
    Some(text)
}

/// White space of JSON (RFC 8259 section 2).
const SPACES: [char; 4] = [' ', '\t', '\n', '\r'];

/// A value that is written as it was read, but for space and order.
enum Node<'d> {
    /// A text in quotes, a number, `true`, `false` or `null`.
    Leaf(&'d str),
    Array(Vec<Node<'d>>),
    /// Names in quotes.
    Object(Vec<(&'d str, Node<'d>)>),
}

struct Reader<'d> {
    rest: &'d str,
}

impl<'d> Reader<'d> {
    fn node(&mut self, depth: usize) -> Option<Node<'d>> {
        self.rest = self.rest.trim_start_matches(SPACES);
        match self.rest.as_bytes().first()? {
            b'{' => self.object(depth.checked_sub(1)?),
            b'[' => self.array(depth.checked_sub(1)?),
            b'"' => self.text().map(Node::Leaf),
            b'-' | b'0'..=b'9' => self.integer().map(Node::Leaf),
            _ => ["true", "false", "null"]
                .into_iter()
                .find(|word| self.rest.starts_with(word))
                .and_then(|word| self.take(word.len()))
                .map(Node::Leaf),
        }
    }

    fn object(&mut self, depth: usize) -> Option<Node<'d>> {
        let mut members = Vec::new();
        self.take(1)?;
        if self.passes('}') {
            return Some(Node::Object(members));
        }
        loop {
            self.rest = self.rest.trim_start_matches(SPACES);
            // How long another name is depends on the encoding of the server.
            let name = self.text().filter(|name| name.is_ascii())?;
            if !self.passes(':') {
                return None;
            }
            members.push((name, self.node(depth)?));
            if self.passes('}') {
                break;
            }
            if !self.passes(',') {
                return None;
            }
        }
        // jsonb keeps names by length and then by bytes.
        members.sort_unstable_by(|(one, _), (other, _)| {
            (one.len(), one.as_bytes()).cmp(&(other.len(), other.as_bytes()))
        });
        let repeated = members
            .iter()
            .zip(members.iter().skip(1))
            .any(|((one, _), (next, _))| one == next);
        (!repeated).then_some(Node::Object(members))
    }

    fn array(&mut self, depth: usize) -> Option<Node<'d>> {
        let mut items = Vec::new();
        self.take(1)?;
        if self.passes(']') {
            return Some(Node::Array(items));
        }
        loop {
            items.push(self.node(depth)?);
            if self.passes(']') {
                return Some(Node::Array(items));
            }
            if !self.passes(',') {
                return None;
            }
        }
    }

    /// With its quotes.
    fn text(&mut self) -> Option<&'d str> {
        let inner = self.rest.strip_prefix('"')?;
        let end = inner
            .bytes()
            .position(|byte| matches!(byte, b'"' | b'\\') || byte < b' ')?;
        inner
            .as_bytes()
            .get(end)
            .filter(|byte| **byte == b'"')
            .and_then(|_quote| self.take(end + 2))
    }

    fn integer(&mut self) -> Option<&'d str> {
        let digits = self.rest.strip_prefix('-').unwrap_or(self.rest);
        let sign = self.rest.len() - digits.len();
        let length = digits
            .bytes()
            .position(|byte| !byte.is_ascii_digit())
            .unwrap_or(digits.len());
        let goes_on = matches!(digits.as_bytes().get(length), Some(b'.' | b'e' | b'E'));
        let is_zero = digits.starts_with('0');
        let is_plain =
            (1..=DIGITS_MAX).contains(&length) && !goes_on && (!is_zero || (length == 1 && sign == 0));
        is_plain.then(|| self.take(sign + length))?
    }

    fn passes(&mut self, expected: char) -> bool {
        let rest = self.rest.trim_start_matches(SPACES);
        let passed = rest.strip_prefix(expected);
        self.rest = passed.unwrap_or(rest);
        passed.is_some()
    }

    fn take(&mut self, bytes: usize) -> Option<&'d str> {
        let (taken, rest) = self.rest.split_at_checked(bytes)?;
        self.rest = rest;
        Some(taken)
    }
}

impl Node<'_> {
    fn write(&self, text: &mut String) {
        match self {
            Self::Leaf(leaf) => text.push_str(leaf),
            Self::Array(items) => {
                text.push('[');
                for (number, item) in items.iter().enumerate() {
                    text.push_str(if number == 0 { "" } else { ", " });
                    item.write(text);
                }
                text.push(']');
            }
            Self::Object(members) => {
                text.push('{');
                for (number, (name, value)) in members.iter().enumerate() {
                    text.push_str(if number == 0 { "" } else { ", " });
                    text.push_str(name);
                    text.push_str(": ");
                    value.write(text);
                }
                text.push('}');
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_ordered_and_spaced_as_jsonb_does() {
        for (document, text) in [
            (
                r#"{"bb":1,"a":[true,null,-7] , "c":{}}"#,
                r#"{"a": [true, null, -7], "c": {}, "bb": 1}"#,
            ),
            ("[]", "[]"),
            (" [ ] ", "[]"),
            (r#""é ü""#, r#""é ü""#),
            ("0", "0"),
            ("null", "null"),
        ] {
            assert_eq!(jsonb_text(document).as_deref(), Some(text), "{document}");
        }
    }

    #[test]
    fn what_is_not_plain_is_left_to_the_database() {
        let deep = format!("{}{}", "[".repeat(17), "]".repeat(17));
        for document in [
            "1.50",
            "1e3",
            "-0",
            "00",
            "1234567890123456789",
            r#""a\n""#,
            r#"{"a":1,"a":2}"#,
            r#"{"a\u0062":1}"#,
            r#"{"é":1,"zz":2}"#,
            "",
            "[1",
            "[1,]",
            "{1:2}",
            "nul",
            "1 2",
            r#"{"a" 1}"#,
            "\"\u{1}\"",
            r#"{"a":1"#,
            "\u{a0}1",
            "[1}",
            "-",
            &deep,
        ] {
            assert_eq!(jsonb_text(document), None, "{document}");
        }
    }
}
