//! What does the token service keep for gateways, and who of them may change it?
//! (`docs/contract/wire-formats.md`, "Documents of gateways")
//!
//! A document is whatever the gateways wrote; the token service reads nothing of it.

use serde::{Deserialize, Serialize};

/// Before the name of a document in its path; after the name follows nothing, or [`LEASE_SUFFIX`].
pub const DOCUMENTS_PATH: &str = "/internal/gateway/documents/";
/// After the name of a document: the path of its lease.
pub const LEASE_SUFFIX: &str = "/lease";
/// Longest document, in bytes.
pub const DOCUMENT_BYTES_MAX: usize = 256 << 10;
/// Longest lease, in seconds.
pub const LEASE_SECONDS_MAX: u32 = 600;

/// Form fields of the requests.
pub mod field {
    /// Who holds the lease: a name that no other replica has.
    pub const HOLDER: &str = "holder";
    /// For how many seconds; 0 gives the lease back.
    pub const SECONDS: &str = "seconds";
    /// The version that the writer has read.
    pub const VERSION: &str = "version";
    /// The document, base64url without padding.
    pub const DOCUMENT: &str = "document";
}

/// A document as it is now: the answer to all requests.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayDocument {
    /// Counts what was written; 0 when nothing was.
    pub version: i64,
    /// The document, base64url without padding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<String>,
    /// Whether somebody holds the lease.
    pub is_leased: bool,
}

impl std::fmt::Debug for GatewayDocument {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("GatewayDocument")
            .field("version", &self.version)
            .field("is_leased", &self.is_leased)
            .finish_non_exhaustive()
    }
}

/// Whether a document may have this name: 1 to 64 of `a-z 0-9 -`.
pub fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// Path of the document of this name.
pub fn path(name: &str) -> String {
    format!("{DOCUMENTS_PATH}{name}")
}

/// Path of its lease.
pub fn lease_path(name: &str) -> String {
    format!("{DOCUMENTS_PATH}{name}{LEASE_SUFFIX}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_need_no_escaping() {
        for good in ["a", "acme-0123456789abcdef", &"x".repeat(64)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "A", "a/b", "a.b", "a_b", "é", &"x".repeat(65)] {
            assert!(!is_name(bad), "{bad}");
        }
        assert_eq!(lease_path("a-1"), "/internal/gateway/documents/a-1/lease");
    }

    #[test]
    fn what_a_document_holds_is_not_printed() {
        let document = GatewayDocument {
            version: 1,
            document: Some("c2VjcmV0".to_owned()),
            is_leased: false,
        };
        assert!(!format!("{document:?}").contains("c2VjcmV0"));
    }
}
