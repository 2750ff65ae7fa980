//! Policy documents and delegation constraints.

use std::io::Write as _;

use caracal_model::delegation::Constraints;
use caracal_policy::opa_bundle::{self, UNPACKED_BYTES_MAX};
use caracal_policy::{Bundle, document};
use flate2::Compression;
use flate2::write::GzEncoder;

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

/// A bundle that was read has bounded documents under plain paths; what the fuzzer writes is packed for it, since it would
/// hardly find the checksum of an archive. The first byte says how.
pub(crate) fn opa_bundle(bytes: &[u8]) {
    let Some((kind, content)) = bytes.split_first() else {
        return;
    };
    let read = match kind {
        // As it is.
        0x1f => opa_bundle::read(bytes),
        // A tar that is not compressed yet.
        b't' => opa_bundle::read(&gzip(content)),
        // One data file.
        b'd' => opa_bundle::read(&packed("data.json", content)),
        // One manifest.
        b'm' => opa_bundle::read(&packed(".manifest", content)),
        // One module.
        _ => opa_bundle::read(&packed("m.rego", content)),
    };
    let Ok(bundle) = read else { return };
    let mut length = 0;
    for document in &bundle.documents {
        length += document.content.len();
        assert!(
            !document.name.split('/').any(|segment| segment == ".."),
            "a path leads out"
        );
    }
    assert!(
        length <= 2 * UNPACKED_BYTES_MAX,
        "documents are no longer than what they are made of"
    );
    let modules: Vec<(&str, &str)> = bundle
        .documents
        .iter()
        .filter(|document| document::validate(&document.content).is_ok())
        .map(|document| (document.name.as_str(), document.content.as_str()))
        .collect();
    if length <= DOCUMENT_BYTES_MAX {
        let _checked_or_not = Bundle::check(&modules);
    }
}

/// A gzipped tar of one file.
fn packed(path: &str, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    let mut archive = tar::Builder::new(Vec::new());
    archive
        .append_data(&mut header, path, content)
        .expect("a tar in memory can be written");
    gzip(&archive.into_inner().expect("a tar in memory can be written"))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory can be written");
    encoder.finish().expect("memory can be written")
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
