//! How is a text written as JSON, when there is hardly ever anything in it to be escaped?

/// Appends `text` in quotes. Texts of ids, tokens and names are copied at once.
pub(crate) fn write_text(line: &mut Vec<u8>, text: &str) -> Result<(), serde_json::Error> {
    if !is_plain(text) {
        return serde_json::to_writer(line, text);
    }
    line.push(b'"');
    line.extend_from_slice(text.as_bytes());
    line.push(b'"');
    Ok(())
}

/// Whether nothing in it needs an escape (RFC 8259 section 7). Looks at every byte, which is faster than to stop at the first.
fn is_plain(text: &str) -> bool {
    let needs_escape = |byte: u8| byte < b' ' || byte == b'"' || byte == b'\\';
    !text.bytes().fold(false, |found, byte| found | needs_escape(byte))
}

/// Appends `,"name":"text"`, or nothing when the text is empty. The name is one that needs no escape.
pub(crate) fn write_member(line: &mut Vec<u8>, name: &str, text: &str) -> Result<(), serde_json::Error> {
    if text.is_empty() {
        return Ok(());
    }
    begin_member(line, name);
    write_text(line, text)
}

/// Appends `,"name":`.
pub(crate) fn begin_member(line: &mut Vec<u8>, name: &str) {
    line.extend_from_slice(b",\"");
    line.extend_from_slice(name.as_bytes());
    line.extend_from_slice(b"\":");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_text_is_written_as_the_library_writes_it(text in any::<String>(), plain in "[ -~\\PC]{0,40}") {
            for text in [text, plain] {
                let mut line = Vec::new();
                write_text(&mut line, &text).unwrap();
                prop_assert_eq!(line, serde_json::to_vec(&text).unwrap());
            }
        }
    }

    #[test]
    fn every_character_that_needs_an_escape_gets_it() {
        for byte in 0..=127_u8 {
            let text = char::from(byte).to_string();
            let mut line = Vec::new();
            write_text(&mut line, &text).unwrap();
            assert_eq!(line, serde_json::to_vec(&text).unwrap(), "{byte}");
        }
    }
}
