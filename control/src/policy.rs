//! Storing policies: data documents, checked before they are stored and never changed afterwards.

mod template;

use caracal_model::{PolicyId, PolicyVersionId, ZoneId};
use caracal_policy::{Bundle, Findings, document};
use caracal_storage::page::Page;
use caracal_storage::policy::{self, NewPolicyVersion, Policy, PolicyVersion};
use caracal_storage::{StorageError, ZoneScope, zone};
use serde_json::{Map, Value, json};

use crate::caller::Caller;
use crate::change::{Change, Done, Kind};
use crate::control::Control;
use crate::refusal::{Code, Refusal};
use crate::{ids, reserved};

pub(crate) use template::TEMPLATES;

/// Version of the input document that stored policies are written for.
pub(crate) const SCHEMA_VERSION: &str = caracal_policy::SCHEMA_VERSION;

const NAME_KEY: &str = "policies_zone_id_name_key";

/// What a caller asks for.
#[derive(Debug)]
pub(crate) struct CreatePolicy {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    pub(crate) content: String,
}

/// Checks a text before it is stored.
///
/// # Errors
/// [`Code::InvalidRego`] with the published error word.
pub(crate) fn check_content(content: &str) -> Result<(), Refusal> {
    document::validate(content).map_err(|fault| Refusal::because(Code::InvalidRego, fault.to_string()))
}

/// Policies of a zone.
pub(crate) async fn list(control: &Control, zone: &ZoneId, page: &Page) -> Result<Vec<Policy>, Refusal> {
    let mut tx = control.database.read_in(ZoneScope::Zone(zone)).await?;
    Ok(policy::list(&mut tx, zone, page).await?)
}

/// One policy with all its texts, newest first.
pub(crate) async fn find(
    control: &Control,
    zone: &ZoneId,
    id: &PolicyId,
) -> Result<(Policy, Vec<PolicyVersion>), Refusal> {
    let mut tx = control.database.read_in(ZoneScope::Zone(zone)).await?;
    let found = policy::find(&mut tx, zone, id)
        .await?
        .ok_or(Code::PolicyNotFound)?;
    let versions = policy::versions(&mut tx, id).await?;
    Ok((found, versions))
}

/// Makes a policy with its first text.
pub(crate) async fn create(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    request: &CreatePolicy,
    members: &Map<String, Value>,
) -> Result<(Policy, PolicyVersion), Refusal> {
    reserved::check_name(&caller.actor, &request.name)?;
    check_content(&request.content)?;
    let id: PolicyId = ids::new()?;
    let version_id: PolicyVersionId = ids::new()?;
    let sha256 = content_sha256(&request.content);
    let mut change = Change::in_zone(control, caller, zone).await?;
    if !zone::hold(change.tx(), zone).await? {
        return Err(Code::ZoneNotFound.into());
    }
    let description = request.description.as_deref();
    let made = policy::insert(change.tx(), zone, &id, &request.name, description, caller.by())
        .await
        .map_err(name_conflict)?;
    let new = new_version(&version_id, &request.content, &sha256);
    let version = policy::insert_version(change.tx(), &id, &new, caller.by()).await?;
    change
        .commit(done(zone, &id, 201, Kind::Create, Some(members)))
        .await?;
    Ok((made, version))
}

/// Adds a text.
pub(crate) async fn add_version(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    id: &PolicyId,
    content: &str,
    members: &Map<String, Value>,
) -> Result<PolicyVersion, Refusal> {
    check_content(content)?;
    let version_id: PolicyVersionId = ids::new()?;
    let sha256 = content_sha256(content);
    let mut change = Change::in_zone(control, caller, zone).await?;
    let new = new_version(&version_id, content, &sha256);
    let added = policy::add_version(change.tx(), zone, id, &new, caller.by()).await?;
    let added = added.ok_or(Code::PolicyNotFound)?;
    change
        .commit(done(zone, id, 201, Kind::Action, Some(members)))
        .await?;
    Ok(added)
}

/// The text of the policy with this name, within a change: its newest text if that is `content`, else a new one. Makes the
/// policy where there is none.
///
/// # Errors
/// A refusal when the name is reserved or the database is out of reach.
pub(crate) async fn put(
    change: &mut Change<'_>,
    caller: &Caller,
    zone: &ZoneId,
    name: &str,
    content: &str,
) -> Result<PolicyVersionId, Refusal> {
    let sha256 = content_sha256(content);
    let version_id: PolicyVersionId = ids::new()?;
    let new = new_version(&version_id, content, &sha256);
    match policy::newest(change.tx(), zone, name).await? {
        Some(newest) if newest.content_sha256 == sha256 => return Ok(newest.version_id),
        Some(newest) => {
            let added = policy::add_version(change.tx(), zone, &newest.policy_id, &new, caller.by()).await?;
            added.ok_or(Code::PolicyNotFound)?;
        }
        None => {
            let id: PolicyId = ids::new()?;
            policy::insert(change.tx(), zone, &id, name, None, caller.by())
                .await
                .map_err(name_conflict)?;
            policy::insert_version(change.tx(), &id, &new, caller.by()).await?;
        }
    }
    Ok(version_id)
}

/// Archives a policy; sets that use its texts go on working.
pub(crate) async fn archive(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    id: &PolicyId,
) -> Result<(), Refusal> {
    let mut change = Change::in_zone(control, caller, zone).await?;
    if !policy::archive(change.tx(), zone, id, caller.by()).await? {
        return Err(Code::PolicyNotFound.into());
    }
    change.commit(done(zone, id, 204, Kind::Delete, None)).await
}

/// What the answer of `POST /v1/policies/validate` says about a good text.
///
/// `diagnostics` are what would keep it from being put in force on its own. Other documents of a set may mend some of it, so they
/// do not make the text a bad one. Bounded processor time, off the request threads.
///
/// # Errors
/// [`Code::RateLimited`] and [`Code::InvalidPolicyBundle`] when it takes too long.
pub(crate) async fn describe(control: &Control, content: String) -> Result<Value, Refusal> {
    let looked_at = control.evaluations.run(move || {
        let found = Bundle::check(&[("policy", &content)]).err();
        (document::preview(&content), found)
    });
    let (preview, found) = looked_at.await?;
    Ok(json!({
        "valid": true,
        "schema_version": SCHEMA_VERSION,
        "input_schema_version": SCHEMA_VERSION,
        "output_contract": {
            "package": "caracal.authz",
            "rule": "result",
            "decision": ["allow", "deny"],
            "evaluation_status": ["complete"],
        },
        "preview": preview,
        "diagnostics": found.as_ref().map_or(&[][..], Findings::as_slice),
    }))
}

/// Lower-case hex SHA-256 of the text, as clients compute it to see whether a text changed.
fn content_sha256(content: &str) -> String {
    hex::encode(caracal_token::digest(content.as_bytes()))
}

const fn new_version<'a>(id: &'a PolicyVersionId, content: &'a str, sha256: &'a str) -> NewPolicyVersion<'a> {
    NewPolicyVersion {
        id,
        content,
        content_sha256: sha256,
        schema_version: SCHEMA_VERSION,
    }
}

fn done<'a>(
    zone: &'a ZoneId,
    id: &'a PolicyId,
    status: u16,
    kind: Kind,
    members: Option<&'a Map<String, Value>>,
) -> Done<'a> {
    Done {
        status,
        kind,
        entity: ("policies", id.as_str()),
        zone,
        members,
    }
}

fn name_conflict(error: StorageError) -> Refusal {
    match error.conflict() {
        Some(NAME_KEY) => Code::PolicyNameConflict.into(),
        _ => error.into(),
    }
}
