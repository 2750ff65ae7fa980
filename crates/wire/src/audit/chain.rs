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

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Vec<u8> {
        hex::decode("00112233445566778899aabbccddeeff".repeat(2)).unwrap()
    }

    fn first() -> Content<'static> {
        Content {
            id: "evt-1",
            zone_id: "zone-a",
            event_type: "token_exchange",
            request_id: "req-1",
            decision: "allow",
            policy_set_id: "ps-1",
            policy_set_version_id: "psv-1",
            manifest_sha: "ab12",
            evaluation_status: "complete",
            determining_policies: Some(r#"[{"policy": "grants"}]"#),
            diagnostics: Some("[]"),
            metadata: Some(r#"{"scope": "a b", "resource": "resource://x"}"#),
            occurred_at: UnixMicros::parse_rfc3339("2026-01-02T03:04:05.123456Z").unwrap(),
        }
    }

    fn second() -> Content<'static> {
        Content {
            id: "evt-2",
            request_id: "req-2",
            decision: "deny",
            policy_set_id: "",
            policy_set_version_id: "",
            manifest_sha: "",
            determining_policies: Some("[]"),
            metadata: None,
            occurred_at: UnixMicros::parse_rfc3339("2026-01-02T03:04:05.124456Z").unwrap(),
            ..first()
        }
    }

    #[test]
    fn the_published_chain_of_two_records_holds() {
        let (content, next) = (content_hash(&first()), content_hash(&second()));
        assert_eq!(
            content,
            "60fe80ba0eef70a225e50f7d45635b6ed29e3b4bcd5f6f2c51e03823a4fa9cd4"
        );
        assert_eq!(
            chain_hmac(&key(), &content, None),
            "fda90d0fe03ac4aaee91eb8b814825b67e971db25fc1b8aca96df6c787a8f569"
        );
        assert_eq!(
            next,
            "79bd9a586e6c23529a70a9f2564e4c9397e12285cfc500140043d93bbae90b24"
        );
        let seal = chain_hmac(&key(), &next, Some(&content));
        assert_eq!(
            seal,
            "a35d1b7633870bc34cefbd0805013a98cb99f81039cafa710401e7d587a95d21"
        );
        assert!(verify_chain_hmac(&key(), &next, Some(&content), &seal));
        assert!(
            !verify_chain_hmac(&key(), &next, None, &seal),
            "a record cannot be moved to the front"
        );
        assert!(!verify_chain_hmac(b"other", &next, Some(&content), &seal));
        assert!(!verify_chain_hmac(&key(), &next, Some(&content), ""));
    }

    #[test]
    fn every_part_of_a_record_counts() {
        let base = first();
        let changed = [
            Content { id: "evt-9", ..base },
            Content {
                zone_id: "zone-b",
                ..base
            },
            Content {
                event_type: "x",
                ..base
            },
            Content {
                request_id: "",
                ..base
            },
            Content {
                decision: "deny",
                ..base
            },
            Content {
                policy_set_id: "",
                ..base
            },
            Content {
                policy_set_version_id: "",
                ..base
            },
            Content {
                manifest_sha: "",
                ..base
            },
            Content {
                evaluation_status: "",
                ..base
            },
            Content {
                determining_policies: None,
                ..base
            },
            Content {
                diagnostics: None,
                ..base
            },
            Content {
                metadata: Some("{}"),
                ..base
            },
            Content {
                occurred_at: UnixMicros(base.occurred_at.0 + 1),
                ..base
            },
        ];
        let hashes: std::collections::BTreeSet<String> =
            changed.iter().chain([&base]).map(content_hash).collect();
        assert_eq!(hashes.len(), 14);
    }
}
