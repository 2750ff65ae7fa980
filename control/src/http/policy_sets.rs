//! `/v1/zones/{zone}/policy-sets`

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use caracal_model::{PolicySetId, PolicySetVersionId, PolicyVersionId, ZoneId};
use caracal_storage::policy_set::{PolicySet, PolicySetVersion};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::answer::{accepted, created, list as list_answer, no_content, ok};
use super::extract::{Ids, Query, Raw};
use super::view::{AttributionView, position};
use crate::body::Body;
use crate::caller::Caller;
use crate::control::Control;
use crate::policy::SCHEMA_VERSION;
use crate::policy_set::{self, ENTRIES_MAX, Imported, Simulation};
use crate::refusal::{Code, Refusal};
use crate::timestamp::Timestamp;

#[derive(Serialize)]
struct SetView<'a> {
    id: &'a PolicySetId,
    zone_id: &'a ZoneId,
    name: &'a str,
    description: Option<&'a str>,
    #[serde(flatten)]
    attribution: AttributionView<'a>,
    created_at: Timestamp,
    updated_at: Timestamp,
    active_version_id: Option<&'a str>,
    shadow_version_id: Option<&'a str>,
}

fn view(set: &PolicySet) -> SetView<'_> {
    SetView {
        id: &set.id,
        zone_id: &set.zone_id,
        name: &set.name,
        description: set.description.as_deref(),
        attribution: AttributionView::from(&set.attribution),
        created_at: Timestamp(set.created_at),
        updated_at: Timestamp(set.updated_at),
        active_version_id: set.active_version_id.as_deref(),
        shadow_version_id: set.shadow_version_id.as_deref(),
    }
}

fn version_view(version: &PolicySetVersion) -> Value {
    json!({
        "id": version.id,
        "policy_set_id": version.policy_set_id,
        "version": version.version,
        "manifest_sha256": version.manifest_sha256,
        "schema_version": version.schema_version,
        "created_by": version.created_by,
        "created_via_operator": version.created_via_operator,
        "created_at": Timestamp(version.created_at),
    })
}

pub(super) async fn list(
    State(control): State<Arc<Control>>,
    Ids(zone): Ids<ZoneId>,
    query: Query,
) -> Result<Response, Refusal> {
    let page = query.list_page()?;
    let sets = policy_set::list(&control, &zone, &page).await?;
    Ok(list_answer(
        &sets,
        &page,
        |set| position(set.created_at, &set.id),
        view,
    ))
}

pub(super) async fn find(
    State(control): State<Arc<Control>>,
    Ids((zone, id)): Ids<(ZoneId, PolicySetId)>,
) -> Result<Response, Refusal> {
    let found = policy_set::find(&control, &zone, &id).await?;
    Ok(ok(view(&found)))
}

pub(super) async fn create(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids(zone): Ids<ZoneId>,
    mut body: Body,
) -> Result<Response, Refusal> {
    let name = body.required_text("name", 1..=200);
    let description = body.nullable_text("description", 0..=2000).flatten();
    body.finish(Code::InvalidBody)?;
    let made = policy_set::create(
        &control,
        &caller,
        &zone,
        &name,
        description.as_deref(),
        body.members(),
    )
    .await?;
    Ok(created(view(&made)))
}

pub(super) async fn archive(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids((zone, id)): Ids<(ZoneId, PolicySetId)>,
) -> Result<Response, Refusal> {
    policy_set::archive(&control, &caller, &zone, &id).await?;
    Ok(no_content())
}

pub(super) async fn versions(
    State(control): State<Arc<Control>>,
    Ids((zone, id)): Ids<(ZoneId, PolicySetId)>,
    query: Query,
) -> Result<Response, Refusal> {
    let page = query.list_page()?;
    let versions = policy_set::versions(&control, &zone, &id, &page).await?;
    Ok(list_answer(
        &versions,
        &page,
        |version| position(version.created_at, &version.id),
        version_view,
    ))
}

pub(super) async fn find_version(
    State(control): State<Arc<Control>>,
    Ids((zone, id, version)): Ids<(ZoneId, PolicySetId, PolicySetVersionId)>,
) -> Result<Response, Refusal> {
    let found = policy_set::find_version(&control, &zone, &id, &version).await?;
    let policies = policy_set::policy_versions(&found)?;
    let mut answer = version_view(&found);
    if let Some(members) = answer.as_object_mut() {
        members.insert("manifest_json".to_owned(), found.manifest_json.clone());
        members.insert("policies".to_owned(), json!(policies));
    }
    Ok(ok(answer))
}

pub(super) async fn add_version(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids((zone, id)): Ids<(ZoneId, PolicySetId)>,
    mut body: Body,
) -> Result<Response, Refusal> {
    let entries = manifest(&mut body);
    body.finish(Code::InvalidPolicyContract)?;
    let added = policy_set::add_version(&control, &caller, &zone, &id, &entries, body.members()).await?;
    Ok(created(json!({
        "version_id": added.id,
        "id": added.id,
        "policy_set_id": added.policy_set_id,
        "version": added.version,
        "manifest_sha256": added.manifest_sha256,
        "schema_version": added.schema_version,
        "created_at": Timestamp(added.created_at),
    })))
}

fn manifest(body: &mut Body) -> Vec<PolicyVersionId> {
    let read = |entry: &mut Body| {
        let id = entry.required_text("policy_version_id", 1..=128).parse().ok();
        if id.is_none() {
            entry.problem(&["policy_version_id"], "Expected the id of a policy version");
        }
        id
    };
    let entries = body.optional_objects("manifest", 1..=ENTRIES_MAX, read);
    if entries.is_none() && !body.has("manifest") {
        body.problem(&["manifest"], "Required");
    }
    entries.unwrap_or_default().into_iter().flatten().collect()
}

/// The body is the archive. With `?activate=true` the version is put in force as well.
pub(super) async fn import(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids((zone, id)): Ids<(ZoneId, PolicySetId)>,
    query: Query,
    Raw(archive): Raw,
) -> Result<Response, Refusal> {
    let activates = query.word("activate", &["true", "false"])? == Some("true");
    let imported = policy_set::import(&control, &caller, &zone, &id, archive).await?;
    let mut answer = import_view(&imported);
    if activates {
        let version = &imported.version.id;
        let outbox_id = policy_set::activate(&control, &caller, &zone, &id, version, &Map::new()).await?;
        if let Some(members) = answer.as_object_mut() {
            members.insert("activated".to_owned(), json!(true));
            members.insert(
                "status_url".to_owned(),
                json!(status_url(&zone, &id, version, &outbox_id)),
            );
            members.insert("outbox_id".to_owned(), json!(outbox_id));
        }
    }
    Ok(if imported.is_new {
        created(answer)
    } else {
        ok(answer)
    })
}

fn import_view(imported: &Imported) -> Value {
    let policies = imported.policies.iter();
    let policies = policies.map(|(name, version)| json!({ "name": name, "policy_version_id": version }));
    json!({
        "version_id": imported.version.id,
        "policy_set_id": imported.version.policy_set_id,
        "version": imported.version.version,
        "manifest_sha256": imported.version.manifest_sha256,
        "schema_version": imported.version.schema_version,
        "created_at": Timestamp(imported.version.created_at),
        "revision": imported.revision,
        "policies": policies.collect::<Vec<_>>(),
        "activated": false,
    })
}

fn status_url(zone: &ZoneId, id: &PolicySetId, version: &PolicySetVersionId, outbox_id: &str) -> String {
    format!("/v1/zones/{zone}/policy-sets/{id}/activation-status?version_id={version}&outbox_id={outbox_id}")
}

pub(super) async fn activate(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids((zone, id)): Ids<(ZoneId, PolicySetId)>,
    mut body: Body,
) -> Result<Response, Refusal> {
    let version = version_id(&mut body)?;
    let outbox_id = policy_set::activate(&control, &caller, &zone, &id, &version, body.members()).await?;
    let status_url = status_url(&zone, &id, &version, &outbox_id);
    Ok(accepted(json!({
        "activated": true,
        "version_id": version,
        "outbox_id": outbox_id,
        "status_url": status_url,
    })))
}

pub(super) async fn shadow(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids((zone, id)): Ids<(ZoneId, PolicySetId)>,
    mut body: Body,
) -> Result<Response, Refusal> {
    let named = body.nullable_text("version_id", 1..=128);
    if named.is_none() && !body.has("version_id") {
        body.problem(&["version_id"], "Required");
    }
    let named = named.flatten();
    let version: Option<PolicySetVersionId> = named.as_deref().and_then(|text| text.parse().ok());
    if named.is_some() && version.is_none() {
        body.problem(&["version_id"], "Expected the id of a policy set version");
    }
    body.finish(Code::InvalidBody)?;
    policy_set::shadow(&control, &caller, &zone, &id, version.as_ref(), body.members()).await?;
    Ok(ok(json!({ "policy_set_id": id, "shadow_version_id": version })))
}

pub(super) async fn simulate(
    State(control): State<Arc<Control>>,
    Ids((zone, id)): Ids<(ZoneId, PolicySetId)>,
    mut body: Body,
) -> Result<Response, Refusal> {
    let input = body.optional_object("input");
    let version = version_id(&mut body)?;
    let simulation = policy_set::simulate(&control, &zone, &id, &version, input).await?;
    Ok(ok(simulation_view(&simulation)))
}

fn simulation_view(simulation: &Simulation) -> Value {
    let version = &simulation.version;
    let (evaluation, reason) = match &simulation.result {
        None => ("not_executed", "no input was given".to_owned()),
        Some(Ok(_)) => (
            "executed",
            "the version compiled and decided on the input".to_owned(),
        ),
        Some(Err(fault)) => ("failed", fault.clone()),
    };
    let explanation = simulation.explanation();
    let result = explanation.map(|explanation| &explanation.decision);
    json!({
        "dry_run": true,
        "would_activate": simulation.would_activate(),
        "policy_set_id": version.policy_set_id,
        "version_id": version.id,
        "schema_version": version.schema_version,
        "input_schema_version": SCHEMA_VERSION,
        "manifest_sha256": version.manifest_sha256,
        "policies": simulation.policies,
        "policy_mode": simulation.regime.as_str(),
        "warnings": simulation.warnings,
        "explanation": {
            "evaluation": evaluation,
            "decision": simulation.decision(),
            "policy_set_version_id": version.id,
            "manifest_sha256": version.manifest_sha256,
            "reason": reason,
            "shape": explanation.and_then(|explanation| explanation.shape),
            "gates": explanation.map(|explanation| &explanation.gates),
        },
        "result": result,
    })
}

pub(super) async fn activation_status(
    State(control): State<Arc<Control>>,
    Ids((zone, id)): Ids<(ZoneId, PolicySetId)>,
    query: Query,
) -> Result<Response, Refusal> {
    let version = query.text("version_id", 128)?;
    let outbox = query.text("outbox_id", 128)?;
    let status =
        policy_set::activation_status(&control, &zone, &id, version.as_deref(), outbox.as_deref()).await?;
    Ok(ok(status))
}

fn version_id(body: &mut Body) -> Result<PolicySetVersionId, Refusal> {
    let text = body.required_text("version_id", 1..=128);
    let version = text.parse().ok();
    if version.is_none() && !text.is_empty() {
        body.problem(&["version_id"], "Expected the id of a policy set version");
    }
    body.finish(Code::InvalidBody)?;
    version.ok_or_else(|| Code::InvalidBody.into())
}
