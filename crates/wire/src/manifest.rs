//! Which policy versions does this policy set version hold?
//!
//! The hash of the list names the decision basis in every audit event and approval
//! (`docs/contract/wire-formats.md`, "Policy manifest").

use caracal_model::id::PolicyVersionId;

use crate::digest::sha256_hex;

/// The hash of the ordered list of policy versions, as 64 lower-case hex digits.
pub fn sha256(version_ids: &[PolicyVersionId]) -> String {
    sha256_hex(&[to_json(version_ids).as_bytes()])
}

/// The manifest as the JSON text that is hashed: a list of objects with the one member `policy_version_id`, without white space.
pub fn to_json(version_ids: &[PolicyVersionId]) -> String {
    // Ids never need escaping; see `caracal_model::id`.
    let entries: Vec<String> = version_ids
        .iter()
        .map(|id| format!(r#"{{"policy_version_id":"{id}"}}"#))
        .collect();
    format!("[{}]", entries.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(texts: &[&str]) -> Vec<PolicyVersionId> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_published_manifest_holds() {
        assert_eq!(
            sha256(&ids(&["pv-1", "pv-2"])),
            "e7388625e7afa28ca7927662b2decb5077ef39c5ff1ab43f1847845232968087"
        );
    }

    #[test]
    fn the_order_of_policies_counts() {
        assert_ne!(sha256(&ids(&["pv-1", "pv-2"])), sha256(&ids(&["pv-2", "pv-1"])));
        assert_eq!(to_json(&[]), "[]");
    }
}
