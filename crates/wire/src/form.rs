//! What does this `application/x-www-form-urlencoded` body say?
//!
//! Reading is strict (`docs/contract/wire-formats.md`, "Forms"): a body that two parsers could understand differently is
//! refused, because the body is also covered by a signature and recorded as evidence. How large a body may be is the
//! caller's limit.

use std::collections::BTreeMap;
use std::fmt;

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
pub struct Form(BTreeMap<String, Vec<String>>);

impl Form {
    /// The first value of a field; `Some("")` when it is present and empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.first().map(String::as_str)
    }

    /// Every value of a field, in the order of the body.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.0
            .get(name)
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect()
    }

    /// Whether the field is present, even if empty.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

impl fmt::Debug for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Form")
            .field(&self.0.keys().collect::<Vec<_>>())
            .finish()
    }
}

/// Reads a body. Fields named in `repeatable` may appear several times, every other field once. Empty pairs (`a=1&&b=2`) are
/// skipped; a field without `=` has an empty value.
///
/// # Errors
/// [`FormError::Malformed`] when any part cannot be read; otherwise [`FormError::Duplicate`] for the first repeated field.
pub fn parse(body: &[u8], repeatable: &[&str]) -> Result<Form, FormError> {
    let pairs = body.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(parse_pair).collect::<Result<Vec<_>, _>>()?;
    let mut fields: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in pairs {
        if fields.contains_key(&name) && !repeatable.contains(&name.as_str()) {
            return Err(FormError::Duplicate(name));
        }
        fields.entry(name).or_default().push(value);
    }
    Ok(Form(fields))
}

fn parse_pair(pair: &[u8]) -> Result<(String, String), FormError> {
    let mut halves = pair.splitn(2, |byte| *byte == b'=');
    let name = decode(halves.next().unwrap_or_default())?;
    let value = decode(halves.next().unwrap_or_default())?;
    Ok((name, value))
}

/// Undoes the encoding of a name or a value: `+` is a space, `%XX` a byte.
fn decode(encoded: &[u8]) -> Result<String, FormError> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.iter();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => bytes.push(hex_pair(rest.next(), rest.next()).ok_or(FormError::Malformed)?),
            b';' => return Err(FormError::Malformed),
            other => bytes.push(*other),
        }
    }
    String::from_utf8(bytes).map_err(|_invalid| FormError::Malformed)
}

fn hex_pair(high: Option<&u8>, low: Option<&u8>) -> Option<u8> {
    let digit = |byte: Option<&u8>| {
        char::from(*byte?)
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

fn encode_into(body: &mut String, text: &str) {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
    ];
    let digit = |value: u8| DIGITS.get(usize::from(value)).copied().unwrap_or('0');
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                body.push(char::from(byte));
            }
            b' ' => body.push('+'),
            other => body.extend(['%', digit(other >> 4), digit(other & 0x0f)]),
        }
    }
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
            prop_assert_eq!(form.0.len(), fields.len());
        }

        #[test]
        fn no_body_makes_the_parser_fail_otherwise(body in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _outcome = parse(&body, &["a"]);
        }
    }
}
