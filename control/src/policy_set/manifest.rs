//! Do these texts make a set that can decide?

use std::collections::HashSet;

use caracal_model::{PolicyVersionId, ZoneId};
use caracal_policy::{Bundle, document};
use caracal_storage::policy::{self, ManifestDocument};
use caracal_storage::policy_set::PolicySetVersion;
use caracal_storage::{StorageError, ZoneScope};
use serde_json::{Value, json};

use crate::control::Control;
use crate::policy::SCHEMA_VERSION;
use crate::refusal::{Code, Refusal};

/// Most texts in one set.
pub(crate) const ENTRIES_MAX: usize = 256;

/// The stored form of a manifest.
pub(super) fn to_json(entries: &[PolicyVersionId]) -> Value {
    entries
        .iter()
        .map(|id| json!({ "policy_version_id": id.as_str() }))
        .collect()
}

/// The texts a stored version names, in order.
pub(crate) fn policy_versions(version: &PolicySetVersion) -> Result<Vec<PolicyVersionId>, Refusal> {
    let read = |entry: &Value| entry.get("policy_version_id")?.as_str()?.parse().ok();
    let entries = version
        .manifest_json
        .as_array()
        .and_then(|entries| entries.iter().map(read).collect());
    entries.ok_or_else(|| {
        StorageError::inconsistent("policy_set_versions", "manifest_json", version.id.as_str()).into()
    })
}

/// Refuses an empty, too long or repetitive list before anything is looked up.
pub(super) fn check_entries(entries: &[PolicyVersionId]) -> Result<(), Refusal> {
    if entries.is_empty() || entries.len() > ENTRIES_MAX {
        return Err(contract("A manifest names 1 to 256 policy versions"));
    }
    let unique: HashSet<&PolicyVersionId> = entries.iter().collect();
    if unique.len() < entries.len() {
        return Err(contract("A manifest names each policy version once"));
    }
    Ok(())
}

/// The texts that exist, in any order.
pub(super) async fn load(
    control: &Control,
    zone: &ZoneId,
    entries: &[PolicyVersionId],
) -> Result<Vec<ManifestDocument>, Refusal> {
    let mut tx = control.database.read_in(ZoneScope::Zone(zone)).await?;
    Ok(policy::documents(&mut tx, entries).await?)
}

/// Checks that every text exists, belongs to the zone, and may be in a set.
pub(super) fn check(
    zone: &ZoneId,
    entries: &[PolicyVersionId],
    documents: &[ManifestDocument],
) -> Result<(), Refusal> {
    let is_own = |id: &PolicyVersionId| {
        documents
            .iter()
            .any(|found| found.id == *id && found.zone_id == *zone)
    };
    if let Some(missing) = entries.iter().find(|id| !is_own(id)) {
        return Err(contract(format!("The zone has no policy version {missing}")));
    }
    if let Some(other) = documents
        .iter()
        .find(|found| found.schema_version != SCHEMA_VERSION)
    {
        return Err(contract(format!(
            "Policy version {} is written for another schema version",
            other.id
        )));
    }
    for found in documents {
        document::validate(&found.content)
            .map_err(|fault| contract(format!("Policy version {}: {fault}", found.id)))?;
    }
    Ok(())
}

/// Compiles the set in the order of the manifest. Processor time bounded by the compiler, off the request threads.
pub(super) async fn compile(
    control: &Control,
    entries: &[PolicyVersionId],
    documents: Vec<ManifestDocument>,
) -> Result<Bundle, Refusal> {
    let mut modules: Vec<(String, String)> = Vec::with_capacity(entries.len());
    for id in entries {
        if let Some(found) = documents.iter().find(|found| found.id == *id) {
            modules.push((id.to_string(), found.content.clone()));
        }
    }
    compile_modules(control, modules).await
}

/// Compiles modules, given as (id, content), as those of a set.
pub(super) async fn compile_modules(
    control: &Control,
    modules: Vec<(String, String)>,
) -> Result<Bundle, Refusal> {
    let compiled = control.evaluations.run(move || {
        let modules: Vec<(&str, &str)> = modules
            .iter()
            .map(|(id, content)| (id.as_str(), content.as_str()))
            .collect();
        Bundle::check(&modules)
    });
    let compiled = compiled.await?;
    compiled.map_err(|findings| {
        let details = json!({ "diagnostics": findings.as_slice() });
        Refusal::because(Code::InvalidPolicyBundle, findings.to_string()).with_details(details)
    })
}

fn contract(sentence: impl Into<std::borrow::Cow<'static, str>>) -> Refusal {
    Refusal::because(Code::InvalidPolicyContract, sentence)
}
