//! How does a bundle of OPA become a version of a policy set (`docs/contract/policy-administration.md`, "Bundles of OPA")?
//!
//! Through the same checks as documents that come one by one. The same bundle again changes nothing.

use bytes::Bytes;
use caracal_model::{PolicySetId, PolicySetVersionId, PolicyVersionId, ZoneId};
use caracal_policy::document;
use caracal_policy::opa_bundle::{self, OpaBundle, OpaDocument};
use caracal_storage::policy_set::{self, NewPolicySetVersion, PolicySetVersion};
use caracal_storage::zone;

use super::{done, find, manifest};
use crate::caller::Caller;
use crate::change::{Change, Kind};
use crate::control::Control;
use crate::policy::{self, SCHEMA_VERSION};
use crate::refusal::{Code, Refusal};
use crate::{ids, reserved};

/// Longest name of a policy.
const NAME_CHARACTERS_MAX: usize = 200;

/// What a bundle became.
#[derive(Debug)]
pub(crate) struct Imported {
    pub(crate) version: PolicySetVersion,
    /// Whether the version was made now. The same bundle again finds the one before.
    pub(crate) is_new: bool,
    /// What the bundle's author calls it.
    pub(crate) revision: Option<String>,
    /// The names of the policies, with the texts that are in the version.
    pub(crate) policies: Vec<(String, PolicyVersionId)>,
}

/// Makes the policies of a bundle, and a version of the set that is exactly these. Puts nothing in force.
pub(crate) async fn import(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    id: &PolicySetId,
    archive: Bytes,
) -> Result<Imported, Refusal> {
    let set = find(control, zone, id).await?;
    let bundle = read(control, archive).await?;
    let named = named(caller, &set.name, &bundle)?;
    let modules = bundle.documents.iter();
    let modules = modules.map(|document| (document.name.clone(), document.content.clone()));
    manifest::compile_modules(control, modules.collect()).await?;

    let mut change = Change::in_zone(control, caller, zone).await?;
    if !zone::hold(change.tx(), zone).await? {
        return Err(Code::ZoneNotFound.into());
    }
    if !policy_set::lock(change.tx(), zone, id).await? {
        return Err(Code::PolicySetNotFound.into());
    }
    let mut policies = Vec::with_capacity(named.len());
    for (name, document) in named {
        let version = policy::put(&mut change, caller, zone, &name, &document.content).await?;
        policies.push((name, version));
    }
    let entries: Vec<PolicyVersionId> = policies.iter().map(|(_, version)| version.clone()).collect();
    let manifest_sha256 = caracal_wire::manifest::sha256(&entries);
    let newest = policy_set::newest_version(change.tx(), id).await?;
    if let Some(version) = newest.filter(|newest| newest.manifest_sha256 == manifest_sha256) {
        // Nothing was written, and nothing is recorded.
        return Ok(Imported {
            version,
            is_new: false,
            revision: bundle.revision,
            policies,
        });
    }
    let version_id: PolicySetVersionId = ids::new()?;
    let new = NewPolicySetVersion {
        id: &version_id,
        manifest: &manifest::to_json(&entries),
        manifest_sha256: &manifest_sha256,
        schema_version: SCHEMA_VERSION,
    };
    let version = policy_set::insert_version(change.tx(), id, &new, caller.by()).await?;
    change.commit(done(zone, id, 201, Kind::Action, None)).await?;
    Ok(Imported {
        version,
        is_new: true,
        revision: bundle.revision,
        policies,
    })
}

/// Reads the archive and looks at each text by itself. Off the request threads.
async fn read(control: &Control, archive: Bytes) -> Result<OpaBundle, Refusal> {
    let looked_at = control.evaluations.run(move || {
        let bundle = opa_bundle::read(&archive).map_err(|error| invalid(error.to_string()))?;
        for document in &bundle.documents {
            document::validate(&document.content).map_err(|fault| {
                Refusal::because(Code::InvalidRego, format!("{}: {fault}", document.name))
            })?;
        }
        Ok::<OpaBundle, Refusal>(bundle)
    });
    let bundle = looked_at.await??;
    if bundle.documents.is_empty() || bundle.documents.len() > manifest::ENTRIES_MAX {
        return Err(invalid("A bundle comes to 1 to 256 documents".to_owned()));
    }
    Ok(bundle)
}

/// The documents with the names their policies get: the set's, and the path in the bundle.
fn named<'b>(
    caller: &Caller,
    set: &str,
    bundle: &'b OpaBundle,
) -> Result<Vec<(String, &'b OpaDocument)>, Refusal> {
    if set.contains('/') {
        // Else two sets could mean one policy.
        return Err(invalid(
            "A set that takes bundles has no / in its name".to_owned(),
        ));
    }
    let name = |document: &'b OpaDocument| {
        let name = format!("{set}/{}", document.name);
        reserved::check_name(&caller.actor, &name)?;
        if name.chars().count() > NAME_CHARACTERS_MAX {
            return Err(invalid(format!("{}: the name is too long", document.name)));
        }
        Ok((name, document))
    };
    bundle.documents.iter().map(name).collect()
}

fn invalid(sentence: String) -> Refusal {
    Refusal::because(Code::InvalidOpaBundle, sentence)
}
