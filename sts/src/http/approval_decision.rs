//! `POST /approvals/{id}/decision`: a federated user decides what an application asks in the user's name.
//!
//! The order of checks is `docs/contract/approvals.md`, "Users".

use std::borrow::Cow;
use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use caracal_chassis::server::{Peer, RequestId, read_body};
use caracal_model::{EventId, UnixMicros, UnixSeconds};
use caracal_storage::approval::{self, Approval, DecidedBy, Verdict};
use caracal_storage::{StorageError, WriteTx, ZoneScope, authority_record, outbox};
use caracal_token::sender::SenderFault;
use caracal_token::{Claims, SubjectType, Use};
use caracal_wire::approval::pseudonym;
use caracal_wire::audit::{AuditEvent, event_type, status};
use caracal_wire::error::ErrorCode;
use caracal_wire::stream::AUDIT_EVENTS;
use http::{HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{NO_STORE, error};
use super::approvals::{self, NoApproval};
use super::sender::{NotCounted, Presented};
use crate::exchange::evidence;
use crate::introspection::genuine;
use crate::state::Sts;
use crate::unique_id::unique_id;
use crate::zone::{ZoneError, ZoneModel};

const BODY_BYTES_MAX: usize = 64 << 10;
const REASON_BYTES_MAX: usize = 500;
const PROOFS_UNDECIDED: &str = "proofs of possession cannot be checked now";

/// Why nothing was decided, in the order of the checks.
#[derive(Debug)]
enum NotDecided {
    NotFound,
    NoBearer,
    Body,
    Decision,
    Mandate,
    Sender(SenderFault),
    ProofsUndecided,
    NotAUser,
    NotAnApplications,
    NotLive,
    NotForUsers,
    AnotherUsers,
    OwnRequest,
    Binding,
    NotPending,
    Unavailable,
}

impl NotDecided {
    fn answer(&self) -> (u16, ErrorCode, Cow<'static, str>) {
        use ErrorCode::{AccessDenied, InvalidDpopProof, InvalidToken, ResourceNotFound, StsUnavailable};
        let (status, code, description) = match self {
            Self::Sender(fault @ SenderFault::Proof(_)) => {
                return (401, InvalidDpopProof, fault.to_string().into());
            }
            Self::Sender(fault) => return (401, InvalidToken, fault.to_string().into()),
            Self::NotFound => (404, ResourceNotFound, "approval not found"),
            Self::NoBearer => (401, InvalidToken, "a session mandate is required"),
            Self::Body => (400, InvalidToken, "malformed request body"),
            Self::Decision => (400, InvalidToken, "invalid decision"),
            Self::Mandate => (401, InvalidToken, "invalid session mandate"),
            Self::ProofsUndecided => (503, StsUnavailable, PROOFS_UNDECIDED),
            Self::NotAUser => (403, AccessDenied, "only a federated user may decide"),
            Self::NotAnApplications => (403, AccessDenied, "approval is reserved for operators"),
            Self::NotLive => (
                403,
                AccessDenied,
                "session mandate is not of this application or has ended",
            ),
            Self::NotForUsers => (403, AccessDenied, "approval requires an operator"),
            Self::AnotherUsers => (403, AccessDenied, "approval belongs to another subject"),
            Self::OwnRequest => (
                403,
                AccessDenied,
                "a request cannot be approved by its own authority",
            ),
            Self::Binding => (409, AccessDenied, "approval binding does not match"),
            Self::NotPending => (409, AccessDenied, "approval is not pending"),
            Self::Unavailable => (503, StsUnavailable, "approval store unavailable"),
        };
        (status, code, description.into())
    }

    /// `WWW-Authenticate` of a 401.
    fn challenge(&self) -> &'static str {
        match self {
            Self::Sender(fault) => fault.challenge(),
            _ => "Bearer realm=\"caracal-sts\"",
        }
    }
}

impl IntoResponse for NotDecided {
    fn into_response(self) -> Response {
        let (status, code, description) = self.answer();
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
        let mut response = error(status, code, &description, None);
        match status {
            StatusCode::UNAUTHORIZED => {
                let challenge = HeaderValue::from_static(self.challenge());
                response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                response
                    .headers_mut()
                    .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

impl From<NoApproval> for NotDecided {
    fn from(refused: NoApproval) -> Self {
        match refused {
            NoApproval::NotFound => Self::NotFound,
            NoApproval::Wait | NoApproval::Busy | NoApproval::Unavailable => Self::Unavailable,
        }
    }
}

impl From<NotCounted> for NotDecided {
    fn from(refused: NotCounted) -> Self {
        match refused {
            NotCounted::Sender(fault) => Self::Sender(fault),
            NotCounted::Undecided => Self::ProofsUndecided,
        }
    }
}

impl From<StorageError> for NotDecided {
    fn from(failure: StorageError) -> Self {
        tracing::warn!(
            error = &failure as &dyn std::error::Error,
            "a decision cannot be read or written"
        );
        Self::Unavailable
    }
}

#[derive(Debug, Deserialize)]
struct Body {
    #[serde(default)]
    decision: String,
    #[serde(default)]
    binding: String,
    #[serde(default)]
    reason: Option<String>,
}

/// The handler.
pub(super) async fn decide(
    State(sts): State<Arc<Sts>>,
    Path(id): Path<String>,
    peer: Peer,
    request_id: RequestId,
    request: Request,
) -> Response {
    match decided(&sts, (&id, peer), &request_id, request).await {
        Ok(decided) => (NO_STORE, axum::Json(approvals::view(&decided))).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

async fn decided(
    sts: &Sts,
    (id, peer): (&str, Peer),
    request_id: &RequestId,
    request: Request,
) -> Result<Approval, NotDecided> {
    let id = uuid::Uuid::parse_str(id).map_err(|_not_an_id| NotDecided::NotFound)?;
    let (parts, body) = request.into_parts();
    let presented = Presented::of(&parts, peer).ok_or(NotDecided::NoBearer)?;
    let body = read_body(body, BODY_BYTES_MAX)
        .await
        .map_err(|_unreadable| NotDecided::Body)?;
    let body: Body = serde_json::from_slice(&body).map_err(|_malformed| NotDecided::Body)?;
    let verdict = verdict(&body)?;
    let found = approvals::find(sts, &id.to_string()).await?;
    let zone = zone_of(sts, &found).await?;
    let now = UnixSeconds(sts.clock.unix_seconds());
    let claims = mandate(sts, &zone, presented.mandate, now).ok_or(NotDecided::Mandate)?;
    presented.check(sts, &claims, now).await?;
    // One transaction, in which the record the user decides with cannot end.
    let mut tx = sts.database.write(ZoneScope::Zone(&found.zone_id)).await?;
    may_decide(sts, &mut tx, (&zone, now), &found, &claims).await?;
    if found.resource_set_hash.as_deref().map(hex::encode).as_deref() != Some(body.binding.as_str()) {
        return Err(NotDecided::Binding);
    }
    let reason = body.reason.as_deref().filter(|reason| !reason.is_empty());
    let decided = write(sts, &mut tx, request_id, (&found, &claims), (verdict, reason)).await?;
    tx.commit().await?;
    Ok(decided)
}

fn verdict(body: &Body) -> Result<Verdict, NotDecided> {
    let reason = body.reason.as_deref().unwrap_or_default();
    if reason.len() > REASON_BYTES_MAX || reason.chars().any(char::is_control) {
        return Err(NotDecided::Decision);
    }
    match body.decision.as_str() {
        "approved" => Ok(Verdict::Approved),
        "rejected" => Ok(Verdict::Rejected),
        _ => Err(NotDecided::Decision),
    }
}

async fn zone_of(sts: &Sts, found: &Approval) -> Result<Arc<ZoneModel>, NotDecided> {
    if !sts.is_fresh() {
        return Err(NotDecided::Unavailable);
    }
    sts.zones
        .model(&found.zone_id)
        .await
        .map_err(|no_zone| match no_zone {
            ZoneError::Unknown => NotDecided::NotFound,
            ZoneError::Unavailable => NotDecided::Unavailable,
        })
}

/// The claims of a reusable mandate of the approval's zone, whoever sent it.
fn mandate(sts: &Sts, zone: &ZoneModel, bearer: &str, now: UnixSeconds) -> Option<Arc<Claims>> {
    genuine(sts, zone, bearer, now).filter(|claims| {
        claims.r#use == Use::Session && claims.exp > now.0 && claims.aud.contains(&sts.issuer)
    })
}

async fn may_decide(
    sts: &Sts,
    tx: &mut WriteTx,
    (zone, now): (&ZoneModel, UnixSeconds),
    found: &Approval,
    claims: &Claims,
) -> Result<(), NotDecided> {
    if claims.sub_type != SubjectType::User {
        return Err(NotDecided::NotAUser);
    }
    let Some(application) = &found.application_id else {
        return Err(NotDecided::NotAnApplications);
    };
    let is_live = sts.revocations.is_revoked(&claims.anchors()).is_none()
        && zone.application(&claims.client_id, now).is_some()
        && authority_record::hold_live(tx, &found.zone_id, &claims.sid, &claims.sub).await?;
    if !is_live || claims.client_id.as_str() != application {
        return Err(NotDecided::NotLive);
    }
    if !matches!(found.approver_class.as_str(), "subject" | "any") {
        return Err(NotDecided::NotForUsers);
    }
    let anchor = found.subject_anchor.as_deref().unwrap_or_default();
    if !anchor.is_empty() && anchor != claims.sub.as_str() {
        return Err(NotDecided::AnotherUsers);
    }
    if let Some(record) = &found.session_id
        && approval::share_ancestry(tx, &found.zone_id, claims.sid.as_str(), record).await?
    {
        return Err(NotDecided::OwnRequest);
    }
    Ok(())
}

/// The decision, its evidence and the word to those who wait.
async fn write(
    sts: &Sts,
    tx: &mut WriteTx,
    request_id: &RequestId,
    (found, claims): (&Approval, &Claims),
    (verdict, reason): (Verdict, Option<&str>),
) -> Result<Approval, NotDecided> {
    let name = approver(found, claims);
    let by = DecidedBy {
        name: &name,
        session_id: Some(claims.sid.as_str()),
        class: "subject",
        reason,
    };
    let decided = approval::decide(tx, &found.zone_id, &found.id, verdict, &by).await?;
    let decided = decided.ok_or(NotDecided::NotPending)?;
    let fields = evidence_of(sts, request_id, &decided, verdict).ok_or(NotDecided::Unavailable)?;
    outbox::enqueue_for_request(tx, AUDIT_EVENTS, &fields, Some(request_id.as_str())).await?;
    Ok(decided)
}

/// As much of the user as the approval allows to keep.
fn approver(found: &Approval, claims: &Claims) -> String {
    match found.privacy_mode.as_str() {
        "identified" => format!("subject:{}", claims.sub),
        "pseudonymous" => pseudonym(found.zone_id.as_str(), claims.sub.as_str()),
        _ => "subject:redacted".to_owned(),
    }
}

fn evidence_of(
    sts: &Sts,
    request_id: &RequestId,
    decided: &Approval,
    verdict: Verdict,
) -> Option<caracal_wire::stream::Fields> {
    let id = EventId::try_from(unique_id(sts.clock.unix_millis()).ok()?).ok()?;
    let now = UnixMicros(sts.clock.unix_micros());
    let mut event = AuditEvent::new(id, decided.zone_id.clone(), event_type::STEP_UP_DECIDED, now);
    event.request_id = Some(request_id.as_str().to_owned());
    verdict.as_str().clone_into(&mut event.decision);
    status::COMPLETE.clone_into(&mut event.evaluation_status);
    let mut metadata = evidence::about(decided);
    if decided.privacy_mode != "identified" {
        // It would say who decided.
        metadata.remove("subject_anchor");
    }
    metadata.insert("approver_plane".to_owned(), json!("subject"));
    let labels = decided.metadata_json.get("agent_labels");
    if let Some(labels) = labels.filter(|labels| **labels != json!([])) {
        metadata.insert("agent_labels".to_owned(), labels.clone());
    }
    metadata.insert(
        "approver_subject_id".to_owned(),
        json!(decided.approver_subject_id),
    );
    if let Some(reason) = &decided.decision_reason {
        metadata.insert("reason".to_owned(), json!(reason));
    }
    event.metadata_json = Value::Object(metadata);
    let text = String::from_utf8(event.to_json().ok()?).ok()?;
    let key = sts.audit_key.as_ref().map(caracal_bus::HmacKey::expose);
    Some(AuditEvent::fields(&event.id, &text, key))
}
