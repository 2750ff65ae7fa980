//! What would another version of the policy have decided? Compared and recorded, never enforced.

use caracal_policy::Decision;

use super::authorize;
use super::resources::Basis;
use crate::zone::Resource;

/// What a version on trial decided differently.
#[derive(Debug, Clone)]
pub(crate) struct Difference {
    /// The version.
    pub(crate) version_id: String,
    /// Hash of its manifest in hex.
    pub(crate) manifest_sha256: String,
    /// What it decided; `None` when it could not.
    pub(crate) decision: Option<Decision>,
}

/// Asks the version on trial, if the zone has one, about what was `enforced`. Tables only: about a microsecond.
pub(super) fn compare(basis: &Basis<'_>, resource: &Resource, enforced: &Decision) -> Option<Difference> {
    let zone = basis.caller.zone();
    let shadow = zone.policy.shadow()?;
    let count = |outcome: &str| {
        basis
            .sts
            .metrics
            .policy_shadow
            .with_label_values(&[outcome])
            .inc();
    };
    let difference = |decision| Difference {
        version_id: shadow.version_id.to_string(),
        manifest_sha256: shadow.manifest_sha256.clone(),
        decision,
    };
    let input = authorize::input(basis, resource);
    match caracal_policy::decide(&shadow.bundle, &input, zone.regime) {
        Ok(decision) if decision == *enforced => {
            count("same");
            None
        }
        Ok(decision) => {
            count("different");
            Some(difference(Some(decision)))
        }
        Err(error) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "a policy on trial cannot decide"
            );
            count("failed");
            Some(difference(None))
        }
    }
}
