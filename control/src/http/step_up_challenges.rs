//! `/v1/zones/{zone}/step-up-challenges`: approvals in the words of the earlier topology.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use caracal_model::{ApprovalId, ZoneId};
use caracal_storage::ZoneScope;
use caracal_storage::approval::{self as rows, Approval, Filter, Verdict};
use caracal_wire::approval::HUMAN_APPROVAL;
use serde_json::{Value, json};

use super::answer::{list as list_answer, ok};
use super::extract::{Ids, Query};
use super::view::position;
use crate::approval::{self, Decision};
use crate::body::Body;
use crate::caller::Caller;
use crate::control::Control;
use crate::refusal::{Code, Refusal};
use crate::timestamp::Timestamp;

fn view(approval: &Approval) -> Value {
    json!({
        "id": approval.id,
        "zone_id": approval.zone_id,
        "session_id": approval.session_id,
        "challenge_type": HUMAN_APPROVAL,
        "metadata_json": approval.metadata_json,
        "created_at": Timestamp(approval.created_at),
        "expires_at": Timestamp(approval.expires_at),
        "satisfied_at": approval.satisfied_at.map(Timestamp),
    })
}

pub(super) async fn list(
    State(control): State<Arc<Control>>,
    Ids(zone): Ids<ZoneId>,
    query: Query,
) -> Result<Response, Refusal> {
    let page = query.list_page()?;
    let mut tx = control.database.read_in(ZoneScope::Zone(&zone)).await?;
    let listed = rows::list(&mut tx, &zone, &Filter::default(), &page).await?;
    Ok(list_answer(
        &listed,
        &page,
        |listed| position(listed.approval.created_at, &listed.approval.id),
        |listed| view(&listed.approval),
    ))
}

pub(super) async fn find(
    State(control): State<Arc<Control>>,
    Ids((zone, id)): Ids<(ZoneId, ApprovalId)>,
) -> Result<Response, Refusal> {
    let found = approval::find(&control, &zone, &id)
        .await
        .map_err(|refusal| in_older_words(refusal, Code::ChallengeNotFound))?;
    Ok(ok(view(&found.approval)))
}

pub(super) async fn satisfy(
    State(control): State<Arc<Control>>,
    caller: Caller,
    Ids((zone, id)): Ids<(ZoneId, ApprovalId)>,
    body: Body,
) -> Result<Response, Refusal> {
    let decision = Decision {
        verdict: Verdict::Approved,
        reason: None,
        members: body.members(),
    };
    let decided = approval::decide(&control, &caller, &zone, &id, decision)
        .await
        .map_err(|refusal| in_older_words(refusal, Code::ChallengeNotFoundOrExpired))?;
    Ok(ok(json!({
        "id": decided.id,
        "satisfied_at": decided.satisfied_at.map(Timestamp),
    })))
}

fn in_older_words(refusal: Refusal, code: Code) -> Refusal {
    match refusal.code() {
        Code::ApprovalNotFound | Code::ApprovalNotDecidable => code.into(),
        _ => refusal,
    }
}
