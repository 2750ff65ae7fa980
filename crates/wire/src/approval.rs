//! How does the STS say "ask a human first", and what exactly was asked?
//!
//! `docs/contract/wire-formats.md`, "Approvals".

use serde::{Deserialize, Serialize};

pub use caracal_model::ApprovalState;

use crate::digest::sha256_hex;
use crate::error::{ErrorCode, is_blank};

/// The only type of approval.
pub const HUMAN_APPROVAL: &str = "human_approval";

/// Everything an approval is bound to. A request that differs in any of it needs another approval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Binding<'a> {
    /// The resources asked for, as sent.
    pub resources: &'a [&'a str],
    /// The scopes asked for.
    pub scopes: &'a [&'a str],
    /// The token's subject, or the application.
    pub principal: &'a str,
    /// The authority record, or empty.
    pub authority_record: &'a str,
    /// The governed session, or empty.
    pub session: &'a str,
    /// The delegation, or empty.
    pub delegation: &'a str,
    /// The application.
    pub application: &'a str,
    /// The active policy set version.
    pub policy_set_version: &'a str,
    /// The hash of its manifest.
    pub policy_manifest: &'a str,
    /// The version of the decision contract.
    pub decision_contract_version: &'a str,
    /// The hash of the decision contract.
    pub decision_contract_sha: &'a str,
}

/// The hash of a binding, as 64 lower-case hex digits.
///
/// Resources are trimmed, lower-cased, sorted and made unique; scopes are trimmed, sorted and made unique.
pub fn binding_hash(binding: &Binding<'_>) -> String {
    let resources = joined(
        binding
            .resources
            .iter()
            .map(|resource| resource.trim().to_lowercase()),
    );
    let scopes = joined(binding.scopes.iter().map(|scope| scope.trim().to_owned()));
    let parts = [
        "resources",
        &resources,
        "scopes",
        &scopes,
        "principal",
        binding.principal,
        "authority_record",
        binding.authority_record,
        "session",
        binding.session,
        "delegation",
        binding.delegation,
        "application",
        binding.application,
        "policy_set_version",
        binding.policy_set_version,
        "policy_manifest",
        binding.policy_manifest,
        "decision_contract_version",
        binding.decision_contract_version,
        "decision_contract_sha",
        binding.decision_contract_sha,
    ];
    sha256_hex(&[parts.join("\0").as_bytes()])
}

fn joined(items: impl Iterator<Item = String>) -> String {
    let mut items: Vec<String> = items.collect();
    items.sort_unstable();
    items.dedup();
    items.join("\n")
}

/// The name under which an approver is stored who must be told apart but not known:
/// `subject:pseudonym:` and 16 hex digits.
pub fn pseudonym(zone_id: &str, subject: &str) -> String {
    let digest = sha256_hex(&[zone_id.as_bytes(), b"\0", subject.as_bytes()]);
    format!("subject:pseudonym:{}", digest.get(..16).unwrap_or(&digest))
}

/// The 401 body that tells a client to wait for an approval.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldBody {
    /// Always [`ErrorCode::InteractionRequired`].
    pub error: ErrorCode,
    /// A sentence for people.
    #[serde(default, skip_serializing_if = "is_blank")]
    pub error_description: Option<String>,
    /// The approval to wait for and to present.
    pub approval_id: String,
    /// Always [`HUMAN_APPROVAL`].
    pub approval_type: String,
    /// Where it is in its life.
    pub state: ApprovalState,
    /// The tiers that asked for it, sorted and separated by commas.
    #[serde(default, skip_serializing_if = "is_blank")]
    pub tier: Option<String>,
    /// The [`binding_hash`] of the request.
    pub binding: String,
    /// Until when it can be decided and used, RFC 3339.
    pub approval_expires_at: String,
    /// The same id under the name that clients of the step-up routes read.
    #[serde(default, skip_serializing_if = "is_blank")]
    pub challenge_id: Option<String>,
    /// The same type under that name.
    #[serde(default, skip_serializing_if = "is_blank")]
    pub challenge_type: Option<String>,
    /// Proves who raised the approval; only in the answer that raised it.
    #[serde(default, skip_serializing_if = "is_blank")]
    pub challenge_secret: Option<String>,
    /// The same time under that name.
    #[serde(default, skip_serializing_if = "is_blank")]
    pub challenge_expires_at: Option<String>,
    /// The value of the response header `X-Request-Id`.
    #[serde(rename = "requestId", default, skip_serializing_if = "is_blank")]
    pub request_id: Option<String>,
}

impl std::fmt::Debug for HoldBody {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("HoldBody")
            .field("approval_id", &self.approval_id)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// What `GET /approvals/{id}` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalStatus {
    /// Until when it can be decided and used, RFC 3339.
    pub expires_at: String,
    /// Its id.
    pub id: String,
    /// Where it is in its life.
    pub state: ApprovalState,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding() -> Binding<'static> {
        Binding {
            resources: &["resource://Pipernet"],
            scopes: &["pipernet:refund"],
            principal: "app-1",
            session: "sess-2",
            delegation: "edge-1",
            application: "app-1",
            policy_set_version: "psv-1",
            policy_manifest: "e7388625e7afa28ca7927662b2decb5077ef39c5ff1ab43f1847845232968087",
            decision_contract_version: "2026-07-12",
            decision_contract_sha: "0000000000000000000000000000000000000000000000000000000000000000",
            ..Binding::default()
        }
    }

    #[test]
    fn the_published_binding_holds() {
        assert_eq!(
            binding_hash(&binding()),
            "ddab07fe693c1629455f491f5ba504ca1b28cdb4485620c7cbc7582fdd06c07b"
        );
    }

    #[test]
    fn order_and_repetition_do_not_change_a_binding() {
        let once = Binding {
            resources: &["resource://a", "resource://b"],
            scopes: &["x", "y"],
            ..binding()
        };
        let again = Binding {
            resources: &["resource://B", " resource://a ", "resource://b"],
            scopes: &["y", "x", "x"],
            ..binding()
        };
        assert_eq!(binding_hash(&once), binding_hash(&again));
    }

    #[test]
    fn every_part_of_a_binding_counts() {
        let changed = [
            Binding {
                resources: &["resource://other"],
                ..binding()
            },
            Binding {
                scopes: &["Pipernet:refund"],
                ..binding()
            },
            Binding {
                principal: "user-1",
                ..binding()
            },
            Binding {
                authority_record: "a1",
                ..binding()
            },
            Binding {
                session: "sess-3",
                ..binding()
            },
            Binding {
                delegation: "",
                ..binding()
            },
            Binding {
                application: "app-2",
                ..binding()
            },
            Binding {
                policy_set_version: "psv-2",
                ..binding()
            },
            Binding {
                policy_manifest: "",
                ..binding()
            },
            Binding {
                decision_contract_version: "",
                ..binding()
            },
            Binding {
                decision_contract_sha: "",
                ..binding()
            },
        ];
        let hashes: std::collections::BTreeSet<String> =
            changed.iter().chain([&binding()]).map(binding_hash).collect();
        assert_eq!(hashes.len(), 12);
    }

    #[test]
    fn the_published_pseudonym_holds() {
        assert_eq!(
            pseudonym("zone-1", "user-1"),
            "subject:pseudonym:5522eb4bfa40b0c3"
        );
    }

    #[test]
    fn a_hold_without_tier_leaves_it_out() {
        let hold = HoldBody {
            error: ErrorCode::InteractionRequired,
            error_description: Some("Human approval required for this request".to_owned()),
            approval_id: "7d3c".to_owned(),
            approval_type: HUMAN_APPROVAL.to_owned(),
            state: ApprovalState::Pending,
            tier: None,
            binding: "ab".to_owned(),
            approval_expires_at: "2026-01-02T03:04:05Z".to_owned(),
            challenge_id: None,
            challenge_type: None,
            challenge_secret: None,
            challenge_expires_at: None,
            request_id: Some("req-1".to_owned()),
        };
        let text = serde_json::to_string(&hold).unwrap();
        assert_eq!(
            text,
            r#"{"error":"interaction_required","error_description":"Human approval required for this request","approval_id":"7d3c","approval_type":"human_approval","state":"pending","binding":"ab","approval_expires_at":"2026-01-02T03:04:05Z","requestId":"req-1"}"#
        );
        assert_eq!(serde_json::from_str::<HoldBody>(&text).unwrap(), hold);
    }
}
