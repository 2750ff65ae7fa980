//! Is this value small enough to be walked, written out and dropped?
//!
//! A document may put a value into itself step by step: as deep as it has steps, or with more parts than there are bytes,
//! when parts are shared. Whatever follows a value to its ends must ask here first. Nothing here recurses.

use regorus::Value;

/// Most parts, greatest depth and most bytes of text.
#[derive(Debug)]
pub(crate) struct Bounds {
    parts: usize,
    depth: usize,
    text_bytes: usize,
}

/// What the documents of a root may come to: more than their longest text could write out.
pub(crate) const ROOT: Bounds = Bounds {
    parts: 4_000_000,
    depth: 128,
    text_bytes: 256 * 1024 * 1024,
};

/// What a decision policy may answer.
pub(crate) const ANSWER: Bounds = Bounds {
    parts: 10_000,
    depth: 32,
    text_bytes: 64 * 1024,
};

/// The literals of instructions that are kept between questions.
pub(crate) const KEPT: Bounds = Bounds {
    parts: 16_384,
    depth: 128,
    text_bytes: 256 * 1024,
};

/// A value is beyond its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TooLarge {
    #[error("a value has too many parts")]
    Parts,
    #[error("a value nests too deep")]
    Depth,
    #[error("a value has too much text")]
    Text,
}

/// Follows a value to its ends, or to its bounds.
pub(crate) fn check(value: &Value, bounds: &Bounds) -> Result<(), TooLarge> {
    let (mut parts, mut text_bytes) = (0_usize, 0_usize);
    let mut next = vec![(value, 0_usize)];
    while let Some((value, depth)) = next.pop() {
        parts += 1;
        if depth > bounds.depth {
            return Err(TooLarge::Depth);
        }
        match value {
            Value::Array(items) => next.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Set(items) => next.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(fields) => {
                let both = fields.iter().flat_map(|(key, value)| [key, value]);
                next.extend(both.map(|part| (part, depth + 1)));
            }
            Value::String(text) => text_bytes += text.len(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Undefined => {}
        }
        if parts + next.len() > bounds.parts {
            return Err(TooLarge::Parts);
        }
        if text_bytes > bounds.text_bytes {
            return Err(TooLarge::Text);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Value {
        Value::from_json_str(text).unwrap()
    }

    #[test]
    fn a_value_is_measured_up_to_its_bounds() {
        let bounds = Bounds {
            parts: 5,
            depth: 2,
            text_bytes: 4,
        };
        for (text, expected) in [
            (r#"["ab", "cd"]"#, Ok(())),
            (r#"{"a": [1]}"#, Ok(())),
            ("[[[1]]]", Err(TooLarge::Depth)),
            ("[1, 2, 3, 4, 5]", Err(TooLarge::Parts)),
            (r#"{"abc": "de"}"#, Err(TooLarge::Text)),
        ] {
            assert_eq!(check(&json(text), &bounds), expected, "{text}");
        }
    }

    #[test]
    fn a_value_that_shares_its_parts_is_given_up_on_and_not_written_out() {
        let mut value = Value::from("x");
        for _ in 0..60 {
            value = Value::from(vec![value.clone(), value]);
        }
        let bounds = Bounds { depth: 100, ..ANSWER };
        assert_eq!(check(&value, &bounds), Err(TooLarge::Parts));
    }
}
