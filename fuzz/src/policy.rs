//! Policy documents and delegation constraints.

use caracal_model::delegation::Constraints;
use caracal_policy::{Bundle, document};

/// Longest document looked at: the control plane's limit is larger, and compiling is slow.
const DOCUMENT_BYTES_MAX: usize = 16 << 10;

/// Reading and compiling a document ends, with a bundle or an error.
pub(crate) fn document(bytes: &[u8]) {
    let Some(text) = std::str::from_utf8(bytes)
        .ok()
        .filter(|text| text.len() <= DOCUMENT_BYTES_MAX)
    else {
        return;
    };
    let _read_or_not = document::preview(text);
    let _valid_or_not = document::validate(text);
    let _compiled_or_not = Bundle::compile(&[("document", text)]);
}

/// Constraints that were read say the same once they are written and read again.
pub(crate) fn constraints(bytes: &[u8]) {
    let Ok(value) = serde_json::from_slice(bytes) else {
        return;
    };
    let Ok(read) = Constraints::parse(&value) else {
        return;
    };
    let again = Constraints::parse(&read.to_json()).expect("what was written can be read");
    assert_eq!(again.to_json(), read.to_json());
}
