//! What may stand in the ledger (`docs/contract/audit-events.md`, "Events"). Every event that any test reads is held to it.

use serde_json::Value;

/// Reasons of a refused `token_exchange`.
const REASONS: [&str; 25] = [
    "complete",
    "resource_not_found",
    "scope_mismatch",
    "resource_outside_delegation",
    "operation_not_permitted",
    "rate_limited",
    "control_resource_requires_control_key",
    "provider_unavailable",
    "credential_not_provisioned",
    "credential_refresh_failed",
    "policy_eval_failed",
    "exchange_denied",
    "approval_invalid",
    "approval_already_consumed",
    "approval_rejected",
    "approval_expired",
    "approval_class_conflict",
    "challenge_invalid",
    "challenge_cooldown",
    "credential_injection_denied",
    "provider_credential_unavailable",
    "subject_federation_invalid",
    "subject_federation_rejected",
    "reference_refused",
    "subject_token_invalid",
];

/// Event type, decision, and the statuses that go with them.
const TRIPLES: [(&str, &str, &[&str]); 14] = [
    ("token_exchange", "allow", &["complete"]),
    ("token_exchange", "pending", &["complete"]),
    ("token_exchange", "deny", &REASONS),
    ("step_up_issued", "pending", &["complete"]),
    ("step_up_decided", "approved", &["complete"]),
    ("step_up_decided", "rejected", &["complete"]),
    ("step_up_consumed", "consumed", &["complete"]),
    ("run_launch", "allow", &["complete"]),
    ("run_launch", "deny", &["workload_auth_failed"]),
    ("client_authentication", "deny", &["client_auth_failed"]),
    ("policy_question", "allow", &["complete"]),
    ("policy_question", "deny", &["complete", "policy_eval_failed"]),
    ("token_revoked", "allow", &["complete"]),
    ("signing_key_rotated", "allow", &["complete"]),
];

/// Fails unless `event` says one of the things an event of the service may say, in the form of the contract.
#[track_caller]
pub(crate) fn hold_to_the_contract(event: &Value) {
    let text = |member: &str| event[member].as_str().unwrap_or_default();
    let said = (text("event_type"), text("decision"), text("evaluation_status"));
    let is_known = TRIPLES.iter().any(|(event_type, decision, statuses)| {
        (*event_type, *decision) == (said.0, said.1) && statuses.contains(&said.2)
    });
    assert!(is_known, "{said:?} is nothing the contract knows: {event}");
    for member in ["id", "zone_id", "occurred_at"] {
        assert!(!text(member).is_empty(), "{member} of {event}");
    }
    for member in ["determining_policies_json", "diagnostics_json"] {
        assert!(event[member].is_array(), "{member} of {event}");
    }
    let is_empty = |member: &str| event[member].as_array().is_none_or(Vec::is_empty);
    if (said.1, said.2) == ("deny", "complete") {
        let is_silent = is_empty("determining_policies_json") && is_empty("diagnostics_json");
        assert!(!is_silent, "what a policy refuses, it says why: {event}");
    }
}
