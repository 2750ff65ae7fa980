//! How does a session start? docs/contract/sessions-and-delegations.md, "Start a session".

use axum::http::StatusCode;
use caracal_model::{ApplicationId, AuthorityRecordId, SessionId, UnixSeconds, ZoneId};
use caracal_storage::outbox::{self, Producer};
use caracal_storage::session::{self, NewSession, Session};
use caracal_storage::{WriteTx, ZoneScope, revocation_cascade};
use caracal_wire::event::{AgentsLifecycle, LifecycleEvent};
use caracal_wire::stream::AGENTS_LIFECYCLE;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{inherit, view};
use crate::auth::{Caller, prove};
use crate::http::{Answer, new_id};
use crate::idempotency::{Guard, Key};
use crate::record::{self, Change};
use crate::refusal::Refusal;
use crate::state::Coordinator;

/// Longest life of a task, and its life when nothing is said, in seconds.
const TTL_SECONDS_MAX: i32 = 86_400;
const TTL_SECONDS_DEFAULT: i32 = 3_600;
/// Sessions below one another at most; a root has depth 0.
const DEPTH_MAX: i32 = 10;
const LABELS_MAX: usize = 32;
const LABEL_CHARS_MAX: usize = 64;

/// The body. Unknown members are ignored.
#[derive(Debug, Deserialize)]
pub(crate) struct Body {
    application_id: String,
    #[serde(alias = "session_sid")]
    subject_session_id: Option<String>,
    subject_token: Option<String>,
    parent_id: Option<String>,
    lifecycle: Option<String>,
    #[serde(default, alias = "capabilities")]
    labels: Vec<String>,
    ttl_seconds: Option<i32>,
    parent_authority: Option<String>,
    inherit_parent_edge_id: Option<String>,
    metadata: Option<Value>,
}

/// A body that keeps the rules of form.
#[derive(Debug)]
struct Wanted {
    application: ApplicationId,
    subject_record: Option<AuthorityRecordId>,
    subject_token: Option<String>,
    parent: Option<SessionId>,
    is_service: bool,
    labels: Vec<String>,
    ttl_seconds: Option<i32>,
    inherits: bool,
    inherited_edge: Option<String>,
    metadata: Value,
}

impl Body {
    fn check(self) -> Result<Wanted, Refusal> {
        let is_service = match self.lifecycle.as_deref() {
            None | Some("task") => false,
            Some("service") => true,
            Some(_) => return Err(Refusal::invalid_body("lifecycle is task or service")),
        };
        let ttl_seconds = match (is_service, self.ttl_seconds) {
            (true, None) => None,
            (true, Some(_)) => return Err(Refusal::invalid_body("a service has no ttl_seconds")),
            (false, None) => Some(TTL_SECONDS_DEFAULT),
            (false, Some(ttl)) if (1..=TTL_SECONDS_MAX).contains(&ttl) => Some(ttl),
            (false, Some(_)) => return Err(Refusal::invalid_body("ttl_seconds is 1 to 86400")),
        };
        let inherits = match self.parent_authority.as_deref() {
            None | Some("inherit") => true,
            Some("none") => false,
            Some(_) => return Err(Refusal::invalid_body("parent_authority is inherit or none")),
        };
        let metadata = self.metadata.unwrap_or_else(|| json!({}));
        if !metadata.is_object() || holds_nul(&metadata) {
            return Err(Refusal::invalid_body(
                "metadata is an object without NUL characters",
            ));
        }
        Ok(Wanted {
            application: self
                .application_id
                .parse()
                .map_err(|_invalid| Refusal::invalid_body("application_id is not an id"))?,
            subject_record: optional_id(
                self.subject_session_id.as_deref(),
                "subject_session_id is not an id",
            )?,
            subject_token: self.subject_token,
            parent: optional_id(self.parent_id.as_deref(), "parent_id is not an id")?,
            is_service,
            labels: checked_labels(&self.labels)?,
            ttl_seconds,
            inherits,
            inherited_edge: self.inherit_parent_edge_id,
            metadata,
        })
    }
}

/// The database keeps no text with the character NUL.
fn holds_nul(document: &Value) -> bool {
    match document {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(holds_nul),
        Value::Object(members) => members
            .iter()
            .any(|(name, value)| name.contains('\0') || holds_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn optional_id<T: std::str::FromStr>(text: Option<&str>, problem: &str) -> Result<Option<T>, Refusal> {
    text.map(|text| text.parse().map_err(|_invalid| Refusal::invalid_body(problem)))
        .transpose()
}

fn checked_labels(labels: &[String]) -> Result<Vec<String>, Refusal> {
    let labels: Vec<String> = labels.iter().map(|label| label.trim().to_owned()).collect();
    let fits = |label: &String| {
        (1..=LABEL_CHARS_MAX).contains(&label.chars().count()) && !label.chars().any(char::is_control)
    };
    if labels.len() > LABELS_MAX || !labels.iter().all(fits) {
        return Err(Refusal::invalid_body(
            "labels are at most 32 of 1 to 64 characters",
        ));
    }
    Ok(labels)
}

/// Starts a session.
///
/// # Errors
/// As the contract lists them; nothing is stored then.
pub(crate) async fn start(
    coordinator: &Coordinator,
    caller: &Caller,
    zone: &ZoneId,
    body: Body,
    key: Option<Key>,
    request_id: &str,
) -> Result<Answer, Refusal> {
    let wanted = body.check()?;
    if !caller.may_act_for(wanted.application.as_str(), "coordinator.spawn_for") {
        return Err(Refusal::forbidden("application_ownership_required"));
    }
    let record = subject_record(coordinator, caller, zone, &wanted).await?;
    let digest = request_digest(caller, &wanted);
    let guard = key.map(|key| {
        Guard::new(
            &coordinator.idempotency,
            "session.start.v2",
            zone,
            wanted.application.as_str(),
            &key,
            &digest,
        )
    });
    let mut tx = coordinator.database.write(ZoneScope::Zone(zone)).await?;
    if let Some(guard) = &guard
        && let Some(receipt) = guard.enter(&mut tx, coordinator.idempotency.receipts_max).await?
    {
        return replay(&mut tx, zone, &receipt.resource_id, receipt.response_json.clone()).await;
    }
    session::lock_zone(&mut tx, zone).await?;
    revocation_cascade::hold_off(&mut tx, zone).await?;
    let parent = check_place(coordinator, caller, &mut tx, zone, &wanted, &record).await?;
    let started = insert(coordinator, &mut tx, zone, &wanted, &record, parent.as_ref()).await?;
    let edge = match &parent {
        Some(parent) if wanted.inherits => {
            let now = UnixSeconds(coordinator.clock.unix_seconds());
            inherit::copy_to_child(
                &mut tx,
                zone,
                parent,
                &started,
                wanted.inherited_edge.as_deref(),
                now,
            )
            .await?
        }
        _ => None,
    };
    announce(&mut tx, zone, &started).await?;
    let body = view::started(&started, edge.as_ref().map(caracal_model::DelegationId::as_str));
    if let Some(guard) = &guard {
        guard.leave(&mut tx, "session", &started.id, &body).await?;
    }
    let change = Change {
        zone,
        request_id,
        method: "POST",
        path: format!("/zones/{zone}/agents"),
        entity_type: "sessions",
        entity_id: &started.id,
        status: 201,
    };
    record::append(coordinator, &mut tx, caller, &change).await?;
    tx.commit().await?;
    Ok(Answer::new(StatusCode::CREATED, body))
}

/// The record the session will rest on: the caller's own, or one the caller has proven.
async fn subject_record(
    coordinator: &Coordinator,
    caller: &Caller,
    zone: &ZoneId,
    wanted: &Wanted,
) -> Result<AuthorityRecordId, Refusal> {
    let Some(asked) = &wanted.subject_record else {
        return caller
            .record
            .clone()
            .ok_or_else(|| Refusal::bad_request("subject_session_id_required"));
    };
    if caller.record.as_ref() == Some(asked) {
        return Ok(asked.clone());
    }
    // Another record needs the mandate that goes with it: knowing its id proves nothing.
    let Some(token) = &wanted.subject_token else {
        return Err(Refusal::forbidden("subject_proof_required"));
    };
    let claims = prove(coordinator, token).await.map_err(|refused| match refused {
        Refusal::Client { .. } => Refusal::forbidden("subject_proof_required"),
        Refusal::Unavailable(_) | Refusal::Internal(_) => refused,
    })?;
    let is_held = claims
        .cnf
        .as_ref()
        .is_none_or(|asked| asked.is_met_by(&caller.shown));
    if is_held && claims.zone_id == *zone && claims.sid == *asked && claims.client_id == wanted.application {
        return Ok(asked.clone());
    }
    Err(Refusal::forbidden("subject_proof_required"))
}

/// What makes two requests the same. The caller's record is left out: a retry may carry a fresh mandate.
fn request_digest(caller: &Caller, wanted: &Wanted) -> Value {
    json!({
        "client_id": caller.client_id,
        "subject": caller.subject,
        "application_id": wanted.application.as_str(),
        "subject_session_id": wanted.subject_record.as_ref().map(AuthorityRecordId::as_str),
        "parent_id": wanted.parent.as_ref().map(SessionId::as_str),
        "service": wanted.is_service,
        "labels": wanted.labels,
        "ttl_seconds": wanted.ttl_seconds,
        "inherits": wanted.inherits,
        "inherit_parent_edge_id": wanted.inherited_edge,
        "metadata": wanted.metadata,
    })
}

/// The first answer again, while what it made is still there.
async fn replay(tx: &mut WriteTx, zone: &ZoneId, id: &str, body: Value) -> Result<Answer, Refusal> {
    match session::lock_live(tx, zone, id).await? {
        Some(_live) => Ok(Answer::replayed(StatusCode::CREATED, body)),
        None => Err(Refusal::conflict("idempotency_result_inactive")),
    }
}

/// Everything that can forbid the session: application, subject, room, parent. Gives the parent, locked.
async fn check_place(
    coordinator: &Coordinator,
    caller: &Caller,
    tx: &mut WriteTx,
    zone: &ZoneId,
    wanted: &Wanted,
    record: &AuthorityRecordId,
) -> Result<Option<Session>, Refusal> {
    let application = wanted.application.as_str();
    let applicant = session::applicant(tx, zone, application)
        .await?
        .ok_or_else(|| Refusal::not_found("application_not_found"))?;
    let is_dynamic = applicant.registration_method == "dcr";
    if is_dynamic && wanted.is_service {
        return Err(Refusal::conflict("dcr_application_cannot_host_service"));
    }
    if is_dynamic && wanted.parent.is_some() {
        return Err(Refusal::conflict("dcr_application_cannot_be_child"));
    }
    if session::subject_record(tx, zone, record.as_str())
        .await?
        .is_none()
    {
        return Err(Refusal::not_found("session_not_found"));
    }
    let (in_zone, of_application) = session::live_counts(tx, zone, application).await?;
    if in_zone >= coordinator.limits.per_zone {
        return Err(Refusal::too_many("session_zone_limit_exceeded"));
    }
    if is_dynamic && of_application > 0 {
        return Err(Refusal::conflict("dcr_application_already_bound"));
    }
    if of_application >= coordinator.limits.per_application {
        return Err(Refusal::too_many("session_limit_exceeded"));
    }
    match &wanted.parent {
        Some(parent) => check_parent(caller, tx, zone, wanted, parent).await.map(Some),
        None => Ok(None),
    }
}

async fn check_parent(
    caller: &Caller,
    tx: &mut WriteTx,
    zone: &ZoneId,
    wanted: &Wanted,
    parent: &SessionId,
) -> Result<Session, Refusal> {
    let parent = session::lock_live(tx, zone, parent.as_str())
        .await?
        .ok_or_else(|| Refusal::not_found("parent_not_found"))?;
    if parent.lifecycle == "task" && wanted.is_service {
        return Err(Refusal::conflict("task_session_cannot_start_service"));
    }
    if parent.application_id != wanted.application.as_str()
        && !caller.may_act_for(&parent.application_id, "coordinator.spawn_under")
    {
        return Err(Refusal::forbidden("parent_ownership_required"));
    }
    if parent.child_count >= parent.max_children {
        return Err(Refusal::too_many("session_children_limit_exceeded"));
    }
    if parent.depth >= DEPTH_MAX {
        return Err(Refusal::too_many("session_depth_limit_exceeded"));
    }
    Ok(parent)
}

async fn insert(
    coordinator: &Coordinator,
    tx: &mut WriteTx,
    zone: &ZoneId,
    wanted: &Wanted,
    record: &AuthorityRecordId,
    parent: Option<&Session>,
) -> Result<Session, Refusal> {
    let id = new_id::<SessionId>()?;
    let new = NewSession {
        id: &id,
        zone_id: zone,
        application_id: &wanted.application,
        parent_id: wanted.parent.as_ref(),
        subject_authority_record_id: record,
        lifecycle: if wanted.is_service { "service" } else { "task" },
        labels: &wanted.labels,
        depth: parent.map_or(0, |parent| parent.depth + 1),
        ttl_seconds: wanted.ttl_seconds,
        lease_seconds: wanted.is_service.then_some(coordinator.limits.lease_seconds),
        metadata: &wanted.metadata,
    };
    Ok(session::insert(tx, &new).await?)
}

async fn announce(tx: &mut WriteTx, zone: &ZoneId, session: &Session) -> Result<(), Refusal> {
    let event = AgentsLifecycle {
        event: LifecycleEvent::Spawn,
        zone_id: zone.clone(),
        agent_session_id: session
            .id
            .parse()
            .map_err(|error| Refusal::Internal(Box::new(error)))?,
        parent_id: session.parent_id.as_deref().and_then(|id| id.parse().ok()),
        application_id: session.application_id.parse().ok(),
        reason: None,
    };
    let key = format!("spawn:{}", session.id);
    outbox::enqueue_once(
        tx,
        Producer::Coordinator,
        AGENTS_LIFECYCLE,
        &key,
        &event.to_fields(),
    )
    .await?;
    Ok(())
}
