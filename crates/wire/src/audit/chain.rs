//! The links of a zone's hash chain.

use caracal_model::time::UnixMicros;

use crate::digest::{equal, hmac_hex, sha256_hex};

/// What the content hash of a record covers. Texts that are absent are empty.
///
/// The documents are the text the database gives for its `jsonb` columns, `None` for SQL `NULL`: one writer of that text means one
/// hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content<'a> {
    /// The id of the event.
    pub id: &'a str,
    /// The zone of the ledger.
    pub zone_id: &'a str,
    /// What kind of thing happened.
    pub event_type: &'a str,
    /// The request it happened in.
    pub request_id: &'a str,
    /// How it was decided.
    pub decision: &'a str,
    /// The policy set that decided.
    pub policy_set_id: &'a str,
    /// Its version.
    pub policy_set_version_id: &'a str,
    /// The hash of its manifest.
    pub manifest_sha: &'a str,
    /// How the decision was reached.
    pub evaluation_status: &'a str,
    /// `determining_policies_json::text`.
    pub determining_policies: Option<&'a str>,
    /// `diagnostics_json::text`.
    pub diagnostics: Option<&'a str>,
    /// `metadata_json::text`.
    pub metadata: Option<&'a str>,
    /// When it happened.
    pub occurred_at: UnixMicros,
}

/// The content hash of a record, as 64 lower-case hex digits: the twelve texts, each followed by the byte `0x1F`, and the
/// moment in nanoseconds.
pub fn content_hash(content: &Content<'_>) -> String {
    let occurred_at = content.occurred_at.nanoseconds().to_string();
    let texts = [
        content.id,
        content.zone_id,
        content.event_type,
        content.request_id,
        content.decision,
        content.policy_set_id,
        content.policy_set_version_id,
        content.manifest_sha,
        content.evaluation_status,
        content.determining_policies.unwrap_or("null"),
        content.diagnostics.unwrap_or("null"),
        content.metadata.unwrap_or("null"),
        &occurred_at,
    ];
    sha256_hex(&[texts.join("\u{1f}").as_bytes()])
}

/// The seal of a record, as 64 lower-case hex digits: it covers the record's content hash and that of the record before it
/// (`None` for the first of a zone).
pub fn chain_hmac(key: &[u8], content_sha256: &str, previous_content_sha256: Option<&str>) -> String {
    hmac_hex(
        key,
        &[
            content_sha256.as_bytes(),
            b"|",
            previous_content_sha256.unwrap_or_default().as_bytes(),
        ],
    )
}

/// Whether a stored seal is by this key. Constant time.
pub fn verify_chain_hmac(key: &[u8], content_sha256: &str, previous: Option<&str>, stored: &str) -> bool {
    equal(&chain_hmac(key, content_sha256, previous), stored)
}
