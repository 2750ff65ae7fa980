//! `/v1/zones/{zone}/authority-records`

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use caracal_model::{AuthorityRecordId, ZoneId};
use caracal_storage::ZoneScope;
use caracal_storage::audit_read::{self, AuthorityRecord, AuthorityRecordFilter};
use serde_json::{Value, json};

use super::answer::{list as list_answer, ok};
use super::extract::{Ids, Query};
use super::view::position;
use crate::authority::{self, REASON_DEFAULT};
use crate::body::Body;
use crate::caller::Caller;
use crate::control::Control;
use crate::refusal::{Code, Refusal};
use crate::timestamp::Timestamp;

fn view(record: &AuthorityRecord) -> Value {
    json!({
        "authority_record_id": record.id,
        "zone_id": record.zone_id,
        "authority_record_type": record.session_type,
        "subject_id": record.subject_id,
        "federated_user_issuer": record.federated_user_issuer,
        "parent_authority_record_id": record.parent_id,
        "status": record.status,
        "expires_at": Timestamp(record.expires_at),
        "authenticated_at": Timestamp(record.authenticated_at),
        "created_at": Timestamp(record.created_at),
        "revoked_at": record.revoked_at.map(Timestamp),
        "revoked_reason": record.revoked_reason,
    })
}

pub(super) async fn list(
    State(control): State<Arc<Control>>,
    Ids(zone): Ids<ZoneId>,
    query: Query,
) -> Result<Response, Refusal> {
    let filter = AuthorityRecordFilter {
        authority_record_id: query.text("authority_record_id", 128)?,
        status: query.word("status", &["active", "revoked", "expired"])?,
        subject_id: query.text("subject_id", 512)?,
        kind: query.word("kind", &["user", "application"])?,
    };
    let page = query.event_page()?;
    let mut tx = control.database.read_in(ZoneScope::Zone(&zone)).await?;
    let records = audit_read::authority_records(&mut tx, &zone, &filter, &page).await?;
    Ok(list_answer(
        &records,
        &page,
        |record| position(record.created_at, &record.id),
        view,
    ))
}

pub(super) async fn revoke(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids((zone, id)): Ids<(ZoneId, AuthorityRecordId)>,
    mut body: Body,
) -> Result<Response, Refusal> {
    let reason = body.optional_trimmed("reason", 1..=256);
    if reason
        .as_deref()
        .is_some_and(|reason| reason.chars().any(char::is_control))
    {
        body.problem(&["reason"], "Must not contain control characters");
    }
    body.finish_strict(Code::InvalidAuthorityRecordRevoke)?;
    let reason = reason.as_deref().unwrap_or(REASON_DEFAULT);
    let revoked = authority::revoke(&control, &caller, &zone, &id, reason, body.members()).await?;
    Ok(ok(json!({
        "authority_record_id": id,
        "authority_records": revoked.authority_records.len(),
        "sessions": revoked.sessions.len(),
        "delegations": revoked.delegations.len(),
    })))
}
