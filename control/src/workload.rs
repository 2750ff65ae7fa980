//! Making, changing and ending workloads: identities that fetch what they are launched with.

use caracal_chassis::Secret;
use caracal_model::ZoneId;
use caracal_storage::page::Page;
use caracal_storage::workload::{self, Workload, WorkloadChange};
use caracal_storage::{StorageError, ZoneScope, zone};
use caracal_token::client_secret;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::caller::Caller;
use crate::change::{Change, Done, Kind};
use crate::control::Control;
use crate::refusal::{Code, Refusal};

const NAME_KEY: &str = "workloads_zone_name_key";
/// Variables that change what a process runs: a credential must not be put there, whatever the case of the name.
const FORBIDDEN_ENVS: [&str; 6] = [
    "NODE_OPTIONS",
    "BUN_OPTIONS",
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "DYLD_INSERT_LIBRARIES",
    "DYLD_LIBRARY_PATH",
];

/// One credential a workload is launched with.
#[derive(Debug)]
pub(crate) struct Binding {
    /// The environment variable.
    pub(crate) env: String,
    /// The resource whose credential it is.
    pub(crate) resource: String,
    pub(crate) scopes: Vec<String>,
    pub(crate) optional: bool,
    /// `warn` or `error`: what the launcher does when an optional one cannot be had.
    pub(crate) on_failure: &'static str,
}

/// Workloads of a zone.
pub(crate) async fn list(control: &Control, zone: &ZoneId, page: &Page) -> Result<Vec<Workload>, Refusal> {
    let mut tx = control.database.read_in(ZoneScope::Zone(zone)).await?;
    Ok(workload::list(&mut tx, zone, page).await?)
}

/// One workload.
pub(crate) async fn find(control: &Control, zone: &ZoneId, id: &str) -> Result<Workload, Refusal> {
    let mut tx = control.database.read_in(ZoneScope::Zone(zone)).await?;
    workload::find(&mut tx, zone, id)
        .await?
        .ok_or_else(|| Code::WorkloadNotFound.into())
}

/// Makes a workload; its secret is in the answer and nowhere else.
pub(crate) async fn create(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    name: &str,
    members: &Map<String, Value>,
) -> Result<(Workload, Secret), Refusal> {
    let secret = Secret::new(client_secret::generate("ws_"));
    let hash = control.hash_secret(&secret).await?;
    let id = Uuid::now_v7().to_string();
    let mut change = Change::in_zone(control, caller, zone).await?;
    if !zone::hold(change.tx(), zone).await? {
        return Err(Code::ZoneNotFound.into());
    }
    let made = workload::insert(change.tx(), &id, zone, name, &hash, caller.by())
        .await
        .map_err(name_conflict)?;
    change
        .commit(done(zone, &id, 201, Kind::Create, Some(members)))
        .await?;
    Ok((made, secret))
}

/// Changes a workload; bindings are replaced as a whole.
pub(crate) async fn put(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    id: &str,
    (name, bindings): (Option<&str>, Option<&[Binding]>),
    members: &Map<String, Value>,
) -> Result<Workload, Refusal> {
    let stored = bindings.map(stored).transpose()?;
    let columns = WorkloadChange {
        name,
        bindings: stored.as_ref(),
        secret_hash: None,
    };
    let mut change = Change::in_zone(control, caller, zone).await?;
    let changed = workload::update(change.tx(), zone, id, &columns, caller.by())
        .await
        .map_err(name_conflict)?
        .ok_or(Code::WorkloadNotFound)?;
    change
        .commit(done(zone, id, 200, Kind::Update, Some(members)))
        .await?;
    Ok(changed)
}

/// Replaces the secret; the old one ends with the answer.
pub(crate) async fn rotate_secret(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    id: &str,
) -> Result<(Workload, Secret), Refusal> {
    // Looked up first, so that guessing ids does not buy hashes.
    find(control, zone, id).await?;
    let secret = Secret::new(client_secret::generate("ws_"));
    let hash = control.hash_secret(&secret).await?;
    let columns = WorkloadChange {
        secret_hash: Some(&hash),
        ..WorkloadChange::default()
    };
    let mut change = Change::in_zone(control, caller, zone).await?;
    let changed = workload::update(change.tx(), zone, id, &columns, caller.by())
        .await?
        .ok_or(Code::WorkloadNotFound)?;
    change
        .commit(done(zone, id, 200, Kind::SecretRotation, None))
        .await?;
    Ok((changed, secret))
}

/// Deletes a workload; its secret ends with the answer.
pub(crate) async fn delete(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    id: &str,
) -> Result<(), Refusal> {
    let mut change = Change::in_zone(control, caller, zone).await?;
    if !workload::delete(change.tx(), zone, id).await? {
        return Err(Code::WorkloadNotFound.into());
    }
    change.commit(done(zone, id, 204, Kind::Delete, None)).await
}

/// The stored form: no empty scopes, and what happens on failure only where a failure is allowed.
fn stored(bindings: &[Binding]) -> Result<Value, Refusal> {
    let mut seen: Vec<&str> = Vec::with_capacity(bindings.len());
    let mut entries = Vec::with_capacity(bindings.len());
    for binding in bindings {
        if !is_env(&binding.env) {
            return Err(about(Code::InvalidCredentialEnv, &binding.env));
        }
        if seen.contains(&binding.env.as_str()) {
            return Err(about(Code::DuplicateCredentialEnv, &binding.env));
        }
        seen.push(&binding.env);
        let mut entry = Map::new();
        let mut put = |name: &str, value: Value| drop(entry.insert(name.to_owned(), value));
        put("env", json!(binding.env));
        put("resource", json!(binding.resource));
        if !binding.scopes.is_empty() {
            put("scopes", json!(binding.scopes));
        }
        if binding.optional {
            put("optional", json!(true));
            put("on_failure", json!(binding.on_failure));
        }
        entries.push(Value::Object(entry));
    }
    Ok(Value::Array(entries))
}

/// A name a shell can export, that does not steer the process.
fn is_env(name: &str) -> bool {
    let begins = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    let continues = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let steers = FORBIDDEN_ENVS
        .iter()
        .any(|forbidden| forbidden.eq_ignore_ascii_case(name));
    begins && continues && !steers
}

fn about(code: Code, env: &str) -> Refusal {
    Refusal::new(code).with_details(json!({ "env": env }))
}

fn done<'a>(
    zone: &'a ZoneId,
    id: &'a str,
    status: u16,
    kind: Kind,
    members: Option<&'a Map<String, Value>>,
) -> Done<'a> {
    Done {
        status,
        kind,
        entity: ("workloads", id),
        zone,
        members,
    }
}

fn name_conflict(error: StorageError) -> Refusal {
    match error.conflict() {
        Some(NAME_KEY) => Code::WorkloadNameTaken.into(),
        _ => error.into(),
    }
}
