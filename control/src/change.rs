//! How does a change become durable together with the record of who made it?
//!
//! A [`Change`] is the only transaction use cases write in, and its only way to commit takes what is to be recorded: a
//! change without a record does not compile.

use caracal_model::ZoneId;
use caracal_storage::admin_audit::{self, Record};
use caracal_storage::{WriteTx, ZoneScope};
use serde::Serialize;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::admin_token::{Actor, Reach};
use crate::caller::Caller;
use crate::control::Control;
use crate::refusal::Refusal;

/// Members whose presence is recorded as a change of a secret.
const SECRET_MEMBERS: [&str; 10] = [
    "client_secret",
    "secret",
    "password",
    "token",
    "private_key",
    "api_key",
    "assertion",
    "bearer_token",
    "access_token",
    "refresh_token",
];
/// How deep and how many member names are recorded.
const FIELD_DEPTH_MAX: usize = 3;
const FIELDS_MAX: usize = 64;

/// A transaction in which a caller changes something.
#[derive(Debug)]
pub(crate) struct Change<'c> {
    control: &'c Control,
    caller: &'c Caller,
    tx: WriteTx,
}

/// What kind of change it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Create,
    Update,
    SecretRotation,
    Delete,
    Action,
}

/// What to record about a change.
#[derive(Debug)]
pub(crate) struct Done<'a> {
    /// HTTP status that will be answered.
    pub(crate) status: u16,
    /// Kind of change.
    pub(crate) kind: Kind,
    /// Collection the changed thing is in, and its id.
    pub(crate) entity: (&'static str, &'a str),
    /// Zone whose chain the record belongs to.
    pub(crate) zone: &'a ZoneId,
    /// Members that were sent; their names are recorded, never their values.
    pub(crate) members: Option<&'a Map<String, Value>>,
}

impl<'c> Change<'c> {
    /// Begins a change in one zone: no row of another zone can be seen or touched in it.
    ///
    /// # Errors
    /// A refusal when the database is out of reach.
    pub(crate) async fn in_zone(
        control: &'c Control,
        caller: &'c Caller,
        zone: &ZoneId,
    ) -> Result<Self, Refusal> {
        let tx = control.database.write(ZoneScope::Zone(zone)).await?;
        Ok(Self { control, caller, tx })
    }

    /// Begins a change that makes a zone, and so must see all of them.
    ///
    /// # Errors
    /// A refusal when the database is out of reach.
    pub(crate) async fn across_zones(control: &'c Control, caller: &'c Caller) -> Result<Self, Refusal> {
        let tx = control.database.write(ZoneScope::All).await?;
        Ok(Self { control, caller, tx })
    }

    /// The transaction.
    pub(crate) const fn tx(&mut self) -> &mut WriteTx {
        &mut self.tx
    }

    /// Makes the change and its record durable.
    ///
    /// # Errors
    /// A refusal when the database is out of reach; then neither the change nor the record exists.
    pub(crate) async fn commit(mut self, done: Done<'_>) -> Result<(), Refusal> {
        let payload = payload(self.caller, &done);
        append(
            self.control,
            &mut self.tx,
            self.caller,
            done.zone,
            &done,
            &payload,
        )
        .await?;
        self.tx.commit().await?;
        Ok(())
    }
}

async fn append(
    control: &Control,
    tx: &mut WriteTx,
    caller: &Caller,
    zone: &ZoneId,
    done: &Done<'_>,
    payload: &str,
) -> Result<(), Refusal> {
    let id = Uuid::now_v7().to_string();
    let action = format!("{} {}", caller.method, caller.path);
    let record = Record {
        id: &id,
        request_id: &caller.request_id,
        actor_id: Some(caller.actor.id.as_str()),
        actor_name: Some(&caller.actor.name),
        actor_scope: Some(caller.actor.scope()),
        action: &action,
        method: &caller.method,
        path: &caller.path,
        zone_id: Some(zone),
        entity_type: Some(done.entity.0),
        entity_id: Some(done.entity.1),
        status_code: done.status,
        payload: Some(payload),
        occurred_at: OffsetDateTime::from(control.clock.now()),
    };
    admin_audit::append(tx, control.audit_key(), &record).await?;
    Ok(())
}

/// A request that no administrator makes: a browser that comes back from a provider.
#[derive(Debug)]
pub(crate) struct Unattended<'a> {
    /// Id of the request.
    pub(crate) request_id: &'a str,
    /// Its method.
    pub(crate) method: &'a str,
    /// Its path, without the query.
    pub(crate) path: &'a str,
}

/// Adds the record of a change that no administrator made to the transaction that makes it.
///
/// # Errors
/// A refusal when the database is out of reach.
pub(crate) async fn append_unattended(
    control: &Control,
    tx: &mut WriteTx,
    request: &Unattended<'_>,
    done: &Done<'_>,
) -> Result<(), Refusal> {
    let id = Uuid::now_v7().to_string();
    let action = format!("{} {}", request.method, request.path);
    let payload = write(&Payload {
        rls_mode: "zone_scoped",
        rls_zone_guc: done.zone.as_str(),
        operator: None,
        change_kind: Some(done.kind.as_str()),
        changed_fields: Vec::new(),
        secret_rotated: false,
    });
    let record = Record {
        id: &id,
        request_id: request.request_id,
        actor_id: None,
        actor_name: None,
        actor_scope: None,
        action: &action,
        method: request.method,
        path: request.path,
        zone_id: Some(done.zone),
        entity_type: Some(done.entity.0),
        entity_id: Some(done.entity.1),
        status_code: done.status,
        payload: Some(&payload),
        occurred_at: OffsetDateTime::from(control.clock.now()),
    };
    admin_audit::append(tx, control.audit_key(), &record).await?;
    Ok(())
}

/// What is recorded beside the request itself; the order of the members is part of what is hashed.
#[derive(Serialize)]
struct Payload<'a> {
    rls_mode: &'static str,
    rls_zone_guc: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    operator: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    change_kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    changed_fields: Vec<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    secret_rotated: bool,
}

fn payload(caller: &Caller, done: &Done<'_>) -> String {
    let mut fields = Vec::new();
    if let Some(members) = done.members {
        names(members, "", 1, &mut fields);
    }
    let secret_rotated = done.kind == Kind::SecretRotation || fields.iter().any(|field| is_secret(field));
    fields.sort_unstable();
    fields.truncate(FIELDS_MAX);
    let kind = match done.kind {
        Kind::Update if secret_rotated => Some(Kind::SecretRotation),
        Kind::Update if fields.is_empty() => None,
        kind => Some(kind),
    };
    write(&Payload {
        operator: caller.account_id(),
        change_kind: kind.map(Kind::as_str),
        changed_fields: fields,
        secret_rotated,
        ..Payload::of(&caller.actor)
    })
}

/// The payload of a request that was refused.
pub(crate) fn failure_payload(actor: &Actor) -> String {
    write(&Payload::of(actor))
}

impl<'a> Payload<'a> {
    fn of(actor: &'a Actor) -> Self {
        let (rls_mode, rls_zone_guc) = match &actor.reach {
            Reach::Zone(zone) => ("zone_scoped", zone.as_str()),
            Reach::Global => ("control_plane_wildcard", "*"),
        };
        Self {
            rls_mode,
            rls_zone_guc,
            operator: None,
            change_kind: None,
            changed_fields: Vec::new(),
            secret_rotated: false,
        }
    }
}

fn write(payload: &Payload<'_>) -> String {
    // A struct of texts and booleans always has a JSON form.
    serde_json::to_string(payload).unwrap_or_default()
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::SecretRotation => "secret_rotation",
            Self::Delete => "delete",
            Self::Action => "action",
        }
    }
}

fn names(members: &Map<String, Value>, prefix: &str, depth: usize, found: &mut Vec<String>) {
    for (name, value) in members {
        // A client may send a name of any length; one that long says nothing to a reader of the record.
        let name: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
        let path = if prefix.is_empty() {
            name
        } else {
            format!("{prefix}.{name}")
        };
        match value {
            Value::Object(inner) if depth < FIELD_DEPTH_MAX && !inner.is_empty() => {
                names(inner, &path, depth + 1, found);
            }
            _ => found.push(path),
        }
    }
}

fn is_secret(path: &str) -> bool {
    path.rsplit('.')
        .next()
        .is_some_and(|name| SECRET_MEMBERS.contains(&name))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::admin_token::{Actor, Capability, Origin};
    use crate::caller::RequestFacts;

    fn recorded(kind: Kind, members: &Value) -> Value {
        let actor = Actor {
            id: "t".parse().unwrap(),
            name: "t".to_owned(),
            reach: Reach::Zone("z1".parse().unwrap()),
            capability: Capability::Write,
            origin: Origin::Issued("admin:x".to_owned()),
        };
        let request = RequestFacts {
            request_id: "r",
            method: "PATCH",
            path: "/v1/zones/z1",
            authorized_by: None,
            via_operator: false,
        };
        let caller = Caller::new(Arc::new(actor), None, &request);
        let zone = "z1".parse().unwrap();
        let done = Done {
            status: 200,
            kind,
            entity: ("zones", "z1"),
            zone: &zone,
            members: members.as_object(),
        };
        serde_json::from_str(&payload(&caller, &done)).unwrap()
    }

    #[test]
    fn names_are_recorded_and_values_never() {
        let payload = recorded(
            Kind::Update,
            &json!({ "name": "secret-sauce", "config_json": { "a": { "b": { "c": 1 } }, "scopes": [] } }),
        );
        assert_eq!(
            payload["changed_fields"],
            json!(["config_json.a.b", "config_json.scopes", "name"])
        );
        assert_eq!(payload["change_kind"], "update");
        assert_eq!(payload["rls_zone_guc"], "z1");
        assert!(!payload.to_string().contains("secret-sauce"));
        assert!(payload.get("secret_rotated").is_none());
    }

    #[test]
    fn a_secret_member_makes_it_a_rotation() {
        let payload = recorded(Kind::Update, &json!({ "config_json": { "api_key": "k" } }));
        assert_eq!(payload["change_kind"], "secret_rotation");
        assert_eq!(payload["secret_rotated"], true);
        let payload = recorded(Kind::Create, &json!({ "config_json": { "api_key": "k" } }));
        assert_eq!(payload["change_kind"], "create");
    }

    #[test]
    fn the_number_of_names_is_bounded() {
        let many: Map<String, Value> = (0..200).map(|n| (format!("m{n:03}"), Value::Null)).collect();
        let payload = recorded(Kind::Create, &Value::Object(many));
        assert_eq!(payload["changed_fields"].as_array().unwrap().len(), FIELDS_MAX);
    }
}
