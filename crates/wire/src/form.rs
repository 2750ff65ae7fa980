//! What does this `application/x-www-form-urlencoded` body say?
//!
//! Reading is strict (`docs/contract/wire-formats.md`, "Forms"): a body that two parsers could understand differently is
//! refused, because the body is also covered by a signature and recorded as evidence. How large a body may be is the
//! caller's limit.

use std::fmt;
use std::ops::Range;

use memchr::{memchr, memchr3};

/// Fields that most forms have at most.
const USUAL_FIELDS: usize = 16;

/// Why a body is not an acceptable form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// A percent sign without two hex digits, bytes that are not UTF-8, or a bare semicolon.
    #[error("malformed request body")]
    Malformed,
    /// A field appears more than once and may not. The name is the client's text.
    #[error("duplicate form field: {0}")]
    Duplicate(String),
}

/// The fields of a form. `Debug` shows their names only: the values hold secrets and tokens.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Form {
    /// Every name and value, decoded, one after the other.
    text: String,
    /// Sorted by name; those of one name in the order of the body.
    fields: Vec<Field>,
}

/// Where a field stands in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Field {
    name: Range<usize>,
    value: Range<usize>,
    /// Its place in the body.
    place: usize,
}

impl Form {
    /// The first value of a field; `Some("")` when it is present and empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.named(name).first().map(|field| self.text(&field.value))
    }

    /// Every value of a field, in the order of the body.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let fields = self.named(name).iter();
        fields.map(|field| self.text(&field.value)).collect()
    }

    /// Whether the field is present, even if empty.
    pub fn contains(&self, name: &str) -> bool {
        !self.named(name).is_empty()
    }

    fn named(&self, name: &str) -> &[Field] {
        let begin = self.fields.partition_point(|field| self.text(&field.name) < name);
        let rest = self.fields.get(begin..).unwrap_or_default();
        // Hardly ever more than one.
        let same = rest.iter().take_while(|field| self.text(&field.name) == name);
        rest.get(..same.count()).unwrap_or_default()
    }

    fn text(&self, range: &Range<usize>) -> &str {
        self.text.get(range.clone()).unwrap_or_default()
    }

    /// The name of the field that comes a second time first, and is not `repeatable`.
    fn duplicate(&self, repeatable: &[&str]) -> Option<&str> {
        let pairs = self.fields.iter().zip(self.fields.iter().skip(1));
        let repeated = pairs.filter(|(one, next)| {
            let name = self.text(&next.name);
            self.text(&one.name) == name && !repeatable.contains(&name)
        });
        let first = repeated.min_by_key(|(_, next)| next.place);
        first.map(|(_, field)| self.text(&field.name))
    }
}

impl fmt::Debug for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.fields.iter().map(|field| self.text(&field.name));
        f.debug_tuple("Form").field(&names.collect::<Vec<_>>()).finish()
    }
}

/// Reads a body. Fields named in `repeatable` may appear several times, every other field once. Empty pairs (`a=1&&b=2`) are
/// skipped; a field without `=` has an empty value. Costs two allocations, however many fields there are, and sorts them.
///
/// # Errors
/// [`FormError::Malformed`] when any part cannot be read; otherwise [`FormError::Duplicate`] for the first repeated field.
pub fn parse(body: &[u8], repeatable: &[&str]) -> Result<Form, FormError> {
    let mut text = Vec::with_capacity(body.len());
    let mut fields = Vec::with_capacity(USUAL_FIELDS);
    let mut rest = body;
    while !rest.is_empty() {
        let (pair, after) = halves(rest, b'&');
        rest = after;
        if pair.is_empty() {
            continue;
        }
        let (name, value) = halves(pair, b'=');
        fields.push(Field {
            name: decode(name, &mut text)?,
            value: decode(value, &mut text)?,
            place: fields.len(),
        });
    }
    let text = String::from_utf8(text).map_err(|_invalid| FormError::Malformed)?;
    // Each is text by itself: no character begins in one and ends in the next.
    let begins = |range: &Range<usize>| text.is_char_boundary(range.start);
    if !fields
        .iter()
        .all(|field| begins(&field.name) && begins(&field.value))
    {
        return Err(FormError::Malformed);
    }
    let mut form = Form {
        text,
        fields: Vec::new(),
    };
    fields.sort_by(|one, other| form.text(&one.name).cmp(form.text(&other.name)));
    form.fields = fields;
    match form.duplicate(repeatable) {
        Some(name) => Err(FormError::Duplicate(name.to_owned())),
        None => Ok(form),
    }
}

/// What comes before the first `separator` and what comes after it; everything and nothing without one.
fn halves(bytes: &[u8], separator: u8) -> (&[u8], &[u8]) {
    let end = memchr(separator, bytes).unwrap_or(bytes.len());
    let (before, after) = bytes.split_at(end);
    (before, after.get(1..).unwrap_or_default())
}

/// Undoes the encoding of a name or a value: `+` is a space, `%XX` a byte. Adds it to `text`. What stands for itself is copied
/// at once: tokens and names are hardly anything else.
fn decode(encoded: &[u8], text: &mut Vec<u8>) -> Result<Range<usize>, FormError> {
    let begin = text.len();
    let mut rest = encoded;
    while let Some(end) = memchr3(b'+', b'%', b';', rest) {
        let (plain, other) = rest.split_at(end);
        text.extend_from_slice(plain);
        rest = match other {
            [b'+', after @ ..] => {
                text.push(b' ');
                after
            }
            [b'%', high, low, after @ ..] => {
                text.push(hex_pair(*high, *low).ok_or(FormError::Malformed)?);
                after
            }
            // A percent sign that is cut short, or a semicolon.
            _ => return Err(FormError::Malformed),
        };
    }
    text.extend_from_slice(rest);
    Ok(begin..text.len())
}

fn hex_pair(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|value| u8::try_from(value).ok())
    };
    Some(digit(high)? << 4 | digit(low)?)
}

/// Writes a form: fields sorted by name, repeated ones in the order given, a space as `+`, everything but
/// `A-Z a-z 0-9 - _ . ~` as `%XX` with upper-case digits.
pub fn encode(fields: &[(&str, &str)]) -> String {
    let mut sorted: Vec<&(&str, &str)> = fields.iter().collect();
    sorted.sort_by_key(|(name, _)| *name);
    let mut body = String::with_capacity(
        fields
            .iter()
            .map(|(name, value)| name.len() + value.len() + 16)
            .sum(),
    );
    for (name, value) in sorted {
        if !body.is_empty() {
            body.push('&');
        }
        encode_into(&mut body, name);
        body.push('=');
        encode_into(&mut body, value);
    }
    body
}

/// Whole runs of bytes that stand for themselves are copied at once: tokens and names are hardly anything else.
fn encode_into(body: &mut String, text: &str) {
    let mut rest = text;
    while let Some(end) = rest.bytes().position(|byte| !stands_for_itself(byte)) {
        let (plain, others) = rest.split_at(end);
        body.push_str(plain);
        let Some(other) = others.chars().next() else {
            return;
        };
        let (other, after) = others.split_at(other.len_utf8());
        for byte in other.bytes() {
            escape(body, byte);
        }
        rest = after;
    }
    body.push_str(rest);
}

fn escape(body: &mut String, byte: u8) {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
    ];
    let digit = |value: u8| DIGITS.get(usize::from(value)).copied().unwrap_or('0');
    match byte {
        b' ' => body.push('+'),
        other => body.extend(['%', digit(other >> 4), digit(other & 0x0f)]),
    }
}

/// `A-Z a-z 0-9 - _ . ~`, by one look into a table.
fn stands_for_itself(byte: u8) -> bool {
    const PLAIN: [bool; 256] = {
        let mut plain = [false; 256];
        let mut byte: u8 = 0;
        while byte < u8::MAX {
            #[expect(clippy::indexing_slicing, reason = "a byte is below 256")]
            {
                plain[byte as usize] =
                    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
            }
            byte += 1;
        }
        plain
    };
    PLAIN.get(usize::from(byte)).copied().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_form_is_read_field_by_field() {
        let form = parse(
            b"scope=crm%3Aread+crm%3Awrite&&resource=b&resource=a&empty=&bare",
            &["resource"],
        )
        .unwrap();
        assert_eq!(form.get("scope"), Some("crm:read crm:write"));
        assert_eq!(form.all("resource"), ["b", "a"], "values keep their order");
        assert_eq!(form.get("empty"), Some(""));
        assert_eq!(form.get("bare"), Some(""));
        assert!(form.contains("bare") && !form.contains("absent"));
        assert_eq!(form.get("absent"), None);
        assert!(form.all("absent").is_empty());
    }

    #[test]
    fn a_repeated_field_is_refused_by_name() {
        assert_eq!(
            parse(b"a=1&b=2&a=1", &[]),
            Err(FormError::Duplicate("a".to_owned()))
        );
        assert_eq!(
            parse(b"a=1&%61=2", &[]),
            Err(FormError::Duplicate("a".to_owned())),
            "encoding hides nothing"
        );
        assert!(parse(b"a=1&a=2", &["a"]).is_ok());
        assert_eq!(
            parse(b"a=1&a=2&b=1&b=2", &["a"]),
            Err(FormError::Duplicate("b".to_owned())),
            "a field that may repeat is not the one at fault"
        );
        assert_eq!(
            parse(b"a=1&z=1&z=2&a=2", &[]),
            Err(FormError::Duplicate("z".to_owned())),
            "the one that repeats first"
        );
    }

    #[test]
    fn what_cannot_be_read_is_malformed() {
        for body in [
            &b"a=%"[..],
            b"a=%4",
            b"a=%zz",
            b"%=1",
            b"a=%ff",
            b"a=\xff",
            b"a=1;b=2",
            b"a=1&a=2&c=%",
            // Two halves of one character, in two places.
            b"%c3=%a9",
            b"a=%c3&%a9",
            b"a=%c3+%a9",
            b"a=1&b=%4&c=1",
            b"a=%c3&%a9=",
        ] {
            assert_eq!(
                parse(body, &[]),
                Err(FormError::Malformed),
                "{:?}",
                String::from_utf8_lossy(body)
            );
        }
    }

    #[test]
    fn an_empty_body_is_an_empty_form() {
        assert_eq!(parse(b"", &[]), Ok(Form::default()));
    }

    #[test]
    fn a_form_does_not_show_its_values() {
        let shown = format!("{:?}", parse(b"client_secret=hunter2", &[]).unwrap());
        assert!(shown.contains("client_secret") && !shown.contains("hunter2"));
    }

    #[test]
    fn only_unreserved_characters_stay_as_they_are() {
        assert_eq!(encode(&[("b", "~*/ é"), ("a", "")]), "a=&b=~%2A%2F+%C3%A9");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(fields in proptest::collection::btree_map(".{0,8}", ".{0,16}", 0..6)) {
            // A nameless, valueless field alone still needs its `=` to be seen.
            let pairs: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let form = parse(encode(&pairs).as_bytes(), &[]).unwrap();
            for (name, value) in &fields {
                prop_assert_eq!(form.get(name), Some(value.as_str()));
            }
            prop_assert_eq!(form.fields.len(), fields.len());
        }

        #[test]
        fn every_way_to_write_a_byte_reads_the_same(text in "[ -~é\u{20ac}]{0,40}", escaped in any::<u64>()) {
            let written: String = text
                .bytes()
                .enumerate()
                .map(|(place, byte)| {
                    let must = !byte.is_ascii() || b"+%;&=".contains(&byte);
                    if must || escaped >> (place % 64) & 1 == 1 {
                        format!("%{byte:02x}")
                    } else {
                        char::from(byte).to_string()
                    }
                })
                .collect();
            let form = parse(format!("a={written}").as_bytes(), &[]).unwrap();
            prop_assert_eq!(form.get("a"), Some(text.as_str()));
        }

        #[test]
        fn no_body_makes_the_parser_fail_otherwise(body in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _outcome = parse(&body, &["a"]);
        }
    }
}
