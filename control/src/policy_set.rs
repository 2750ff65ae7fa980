//! Which policies decide in a zone?
//!
//! A version of a policy set names texts of policies. It is compiled here, with the same code that will decide, before it
//! is stored and again before it is activated; so a set that cannot decide is never put in force.

mod manifest;
mod opa_bundle;
mod simulate;
mod status;

use caracal_model::{PolicySetId, PolicySetVersionId, PolicyVersionId, ZoneId};
use caracal_storage::page::Page;
use caracal_storage::policy_set::{self, NewPolicySetVersion, PolicySet, PolicySetVersion};
use caracal_storage::{StorageError, ZoneScope, outbox, zone};
use caracal_wire::event::PolicyInvalidate;
use caracal_wire::stream;
use serde_json::{Map, Value};

use crate::caller::Caller;
use crate::change::{Change, Done, Kind};
use crate::control::Control;
use crate::ids;
use crate::policy::SCHEMA_VERSION;
use crate::refusal::{Code, Refusal};

pub(crate) use manifest::{ENTRIES_MAX, policy_versions};
pub(crate) use opa_bundle::{Imported, import};
pub(crate) use simulate::{Simulation, simulate};
pub(crate) use status::activation_status;

const NAME_KEY: &str = "policy_sets_zone_id_name_key";

/// Sets of a zone.
pub(crate) async fn list(control: &Control, zone: &ZoneId, page: &Page) -> Result<Vec<PolicySet>, Refusal> {
    let mut tx = control.database.read_in(ZoneScope::Zone(zone)).await?;
    Ok(policy_set::list(&mut tx, zone, page).await?)
}

/// One set that is not archived.
pub(crate) async fn find(control: &Control, zone: &ZoneId, id: &PolicySetId) -> Result<PolicySet, Refusal> {
    let mut tx = control.database.read_in(ZoneScope::Zone(zone)).await?;
    policy_set::find(&mut tx, zone, id)
        .await?
        .ok_or_else(|| Code::PolicySetNotFound.into())
}

/// Makes a set without any version.
pub(crate) async fn create(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    name: &str,
    description: Option<&str>,
    members: &Map<String, Value>,
) -> Result<PolicySet, Refusal> {
    let id: PolicySetId = ids::new()?;
    let mut change = Change::in_zone(control, caller, zone).await?;
    if !zone::hold(change.tx(), zone).await? {
        return Err(Code::ZoneNotFound.into());
    }
    let made = policy_set::insert(change.tx(), zone, &id, name, description, caller.by())
        .await
        .map_err(name_conflict)?;
    change
        .commit(done(zone, &id, 201, Kind::Create, Some(members)))
        .await?;
    Ok(made)
}

/// Archives a set. If it was in force, nothing decides any more and everything is denied.
pub(crate) async fn archive(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    id: &PolicySetId,
) -> Result<(), Refusal> {
    let mut change = Change::in_zone(control, caller, zone).await?;
    let was_active = policy_set::archive(change.tx(), zone, id, caller.by()).await?;
    if was_active.ok_or(Code::PolicySetNotFound)? {
        announce(&mut change, caller, zone, id, None).await?;
    }
    change.commit(done(zone, id, 204, Kind::Delete, None)).await
}

/// Versions of a set.
pub(crate) async fn versions(
    control: &Control,
    zone: &ZoneId,
    id: &PolicySetId,
    page: &Page,
) -> Result<Vec<PolicySetVersion>, Refusal> {
    let mut tx = control.database.read_in(ZoneScope::Zone(zone)).await?;
    policy_set::find(&mut tx, zone, id)
        .await?
        .ok_or(Code::PolicySetNotFound)?;
    Ok(policy_set::versions(&mut tx, id, page).await?)
}

/// One version of a set.
pub(crate) async fn find_version(
    control: &Control,
    zone: &ZoneId,
    id: &PolicySetId,
    version: &PolicySetVersionId,
) -> Result<PolicySetVersion, Refusal> {
    let mut tx = control.database.read_in(ZoneScope::Zone(zone)).await?;
    policy_set::find(&mut tx, zone, id)
        .await?
        .ok_or(Code::PolicySetNotFound)?;
    let found = policy_set::find_version(&mut tx, id, version).await?;
    found.ok_or_else(|| Code::PolicySetVersionNotFound.into())
}

/// Adds a version after compiling it.
pub(crate) async fn add_version(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    id: &PolicySetId,
    entries: &[PolicyVersionId],
    members: &Map<String, Value>,
) -> Result<PolicySetVersion, Refusal> {
    manifest::check_entries(entries)?;
    let documents = manifest::load(control, zone, entries).await?;
    manifest::check(zone, entries, &documents)?;
    manifest::compile(control, entries, documents).await?;
    let version_id: PolicySetVersionId = ids::new()?;
    let new = NewPolicySetVersion {
        id: &version_id,
        manifest: &manifest::to_json(entries),
        manifest_sha256: &caracal_wire::manifest::sha256(entries),
        schema_version: SCHEMA_VERSION,
    };
    let mut change = Change::in_zone(control, caller, zone).await?;
    if !policy_set::lock(change.tx(), zone, id).await? {
        return Err(Code::PolicySetNotFound.into());
    }
    let added = policy_set::insert_version(change.tx(), id, &new, caller.by()).await?;
    change
        .commit(done(zone, id, 201, Kind::Action, Some(members)))
        .await?;
    Ok(added)
}

/// Puts a version in force; answers the id of the message that announces it.
pub(crate) async fn activate(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    id: &PolicySetId,
    version_id: &PolicySetVersionId,
    members: &Map<String, Value>,
) -> Result<String, Refusal> {
    let version = match find_version(control, zone, id, version_id).await {
        Err(refusal) if refusal.code() == Code::PolicySetVersionNotFound => {
            return Err(Code::VersionNotFound.into());
        }
        answer => answer?,
    };
    let entries = policy_versions(&version)?;
    let documents = manifest::load(control, zone, &entries).await?;
    if documents.len() < entries.len() {
        return Err(Code::ReferencedPolicyVersionMissing.into());
    }
    manifest::check(zone, &entries, &documents)?;
    manifest::compile(control, &entries, documents).await?;
    let mut change = Change::in_zone(control, caller, zone).await?;
    if !zone::hold(change.tx(), zone).await? {
        return Err(Code::ZoneNotFound.into());
    }
    if !policy_set::lock(change.tx(), zone, id).await? {
        return Err(Code::PolicySetNotFound.into());
    }
    policy_set::activate(change.tx(), zone, id, version_id).await?;
    let outbox_id = announce(&mut change, caller, zone, id, Some(version_id)).await?;
    change
        .commit(done(zone, id, 202, Kind::Action, Some(members)))
        .await?;
    Ok(outbox_id)
}

/// Puts a version on trial, in place of any other of the zone, or ends the trial of this set.
pub(crate) async fn shadow(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    id: &PolicySetId,
    version_id: Option<&PolicySetVersionId>,
    members: &Map<String, Value>,
) -> Result<(), Refusal> {
    if let Some(version_id) = version_id {
        let version = match find_version(control, zone, id, version_id).await {
            Err(refusal) if refusal.code() == Code::PolicySetVersionNotFound => {
                return Err(Code::VersionNotFound.into());
            }
            answer => answer?,
        };
        let entries = policy_versions(&version)?;
        let documents = manifest::load(control, zone, &entries).await?;
        manifest::check(zone, &entries, &documents)?;
        if manifest::compile(control, &entries, documents)
            .await?
            .reads_input()
        {
            let sentence = "A version whose documents read input cannot be on trial";
            return Err(Refusal::because(Code::InvalidPolicyBundle, sentence));
        }
    }
    let mut change = Change::in_zone(control, caller, zone).await?;
    if !policy_set::lock(change.tx(), zone, id).await? {
        return Err(Code::PolicySetNotFound.into());
    }
    policy_set::shadow(change.tx(), zone, id, version_id).await?;
    change
        .commit(done(zone, id, 200, Kind::Action, Some(members)))
        .await
}

async fn announce(
    change: &mut Change<'_>,
    caller: &Caller,
    zone: &ZoneId,
    id: &PolicySetId,
    version: Option<&PolicySetVersionId>,
) -> Result<String, Refusal> {
    let message = PolicyInvalidate {
        zone_id: zone.clone(),
        policy_set_id: Some(id.clone()),
        policy_set_version_id: version.cloned(),
    };
    let request = Some(caller.request_id.as_str());
    let fields = message.to_fields();
    Ok(outbox::enqueue_for_request(change.tx(), stream::POLICY_INVALIDATE, &fields, request).await?)
}

fn done<'a>(
    zone: &'a ZoneId,
    id: &'a PolicySetId,
    status: u16,
    kind: Kind,
    members: Option<&'a Map<String, Value>>,
) -> Done<'a> {
    Done {
        status,
        kind,
        entity: ("policy-sets", id.as_str()),
        zone,
        members,
    }
}

fn name_conflict(error: StorageError) -> Refusal {
    match error.conflict() {
        Some(NAME_KEY) => Code::PolicySetNameConflict.into(),
        _ => error.into(),
    }
}
