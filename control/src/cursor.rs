//! Where does the next page of a list begin?
//!
//! A cursor is base64url of `{"ts": time, "id": id}` (`docs/contract/admin-api.md` section 3.2). The time has microseconds,
//! as the database has: with fewer, rows of one millisecond would be skipped.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use caracal_storage::page::Position;
use serde_json::{Value, json};

use crate::timestamp::Timestamp;

/// Longest cursor read, in characters: of a subject of which every character is escaped.
pub(crate) const CURSOR_CHARACTERS_MAX: usize = 1_536;
/// Longest id in a cursor, in bytes: a subject.
const ID_BYTES_MAX: usize = 512;

/// Writes the cursor that continues after `position`.
pub(crate) fn encode(position: &Position) -> String {
    let text = json!({ "ts": Timestamp(position.at).microseconds(), "id": position.id }).to_string();
    URL_SAFE_NO_PAD.encode(text)
}

/// Reads a cursor; `None` for anything that is not one.
pub(crate) fn decode(text: &str) -> Option<Position> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let value: Value = serde_json::from_slice(&bytes).ok()?;
    let id = value.get("id")?.as_str()?;
    let at = Timestamp::parse(value.get("ts")?.as_str()?)?;
    let is_id = !id.is_empty() && id.len() <= ID_BYTES_MAX && !id.contains('\0');
    is_id.then(|| Position {
        at: at.0,
        id: id.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_with_its_microseconds() {
        let position = Position {
            at: Timestamp::parse("2026-01-02T03:04:05.123456Z").unwrap().0,
            id: "id-1".to_owned(),
        };
        assert_eq!(decode(&encode(&position)), Some(position));
    }

    #[test]
    fn the_longest_subject_fits_into_a_cursor() {
        let position = Position {
            at: Timestamp::parse("2026-01-02T03:04:05.123456Z").unwrap().0,
            id: "\"".repeat(ID_BYTES_MAX),
        };
        let cursor = encode(&position);
        assert!(cursor.len() <= CURSOR_CHARACTERS_MAX, "{}", cursor.len());
        assert_eq!(decode(&cursor), Some(position));
    }

    #[test]
    fn anything_else_is_no_cursor() {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        for text in [
            String::new(),
            "!!".to_owned(),
            encode("{}"),
            encode("[]"),
            encode(r#"{"ts":"x","id":"a"}"#),
            encode(r#"{"ts":"2026-01-02T03:04:05Z"}"#),
            encode(r#"{"ts":"2026-01-02T03:04:05Z","id":""}"#),
            encode(r#"{"ts":"2026-01-02T03:04:05Z","id":"a\u0000"}"#),
        ] {
            assert_eq!(decode(&text), None, "{text}");
        }
    }
}
