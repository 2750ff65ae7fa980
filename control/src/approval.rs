//! What do operators decide, and how does everybody learn of it?

use caracal_model::{ApprovalId, ApprovalState, EventId, UnixMicros, ZoneId};
use caracal_storage::approval::{self, Approval, DecidedBy, Listed, Verdict};
use caracal_storage::{ZoneScope, outbox};
use caracal_wire::audit::{AuditEvent, event_type, status};
use caracal_wire::stream::AUDIT_EVENTS;
use serde_json::{Map, Value, json};

use crate::caller::Caller;
use crate::change::{Change, Done, Kind};
use crate::control::Control;
use crate::ids;
use crate::refusal::{Code, Refusal};

/// One approval.
pub(crate) async fn find(control: &Control, zone: &ZoneId, id: &ApprovalId) -> Result<Listed, Refusal> {
    let mut tx = control.database.read_in(ZoneScope::Zone(zone)).await?;
    let found = approval::find_listed(&mut tx, zone, id.as_str()).await?;
    found.ok_or_else(|| Code::ApprovalNotFound.into())
}

/// Decides an approval that is open to operators and that nobody has decided. The decision, its record, its evidence and
/// the word to those who wait are one transaction.
///
/// # Errors
/// [`Code::ApprovalNotFound`], [`Code::SubjectApprovalRequired`] when it is for the user to decide, and
/// [`Code::ApprovalNotDecidable`] with its state.
pub(crate) async fn decide(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    id: &ApprovalId,
    decision: Decision<'_>,
) -> Result<Approval, Refusal> {
    let name = match caller.account_id() {
        Some(account) => format!("console:{account}"),
        None => format!("admin:{}", caller.actor.id),
    };
    let by = DecidedBy {
        name: &name,
        session_id: None,
        class: "operator",
        reason: decision.reason,
    };
    let mut change = Change::in_zone(control, caller, zone).await?;
    let decided = approval::decide(change.tx(), zone, id.as_str(), decision.verdict, &by).await?;
    let Some(decided) = decided else {
        let found = approval::find(change.tx(), id.as_str()).await?;
        return Err(undecidable(found.as_ref()));
    };
    announce(control, caller, &mut change, &decided, decision.verdict).await?;
    let done = Done {
        status: 200,
        kind: Kind::Action,
        entity: ("approvals", id.as_str()),
        zone,
        members: Some(decision.members),
    };
    change.commit(done).await?;
    Ok(decided)
}

/// What an operator decides.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decision<'a> {
    pub(crate) verdict: Verdict,
    pub(crate) reason: Option<&'a str>,
    /// Members that were sent, for the record.
    pub(crate) members: &'a Map<String, Value>,
}

fn undecidable(found: Option<&Approval>) -> Refusal {
    let Some(found) = found else {
        return Code::ApprovalNotFound.into();
    };
    match found.state() {
        ApprovalState::Pending if found.approver_class == "subject" => Code::SubjectApprovalRequired.into(),
        state => Refusal::new(Code::ApprovalNotDecidable).with_member("state", json!(state)),
    }
}

/// The evidence goes to the ledger through the outbox, so that it exists if and only if the decision does.
async fn announce(
    control: &Control,
    caller: &Caller,
    change: &mut Change<'_>,
    decided: &Approval,
    verdict: Verdict,
) -> Result<(), Refusal> {
    let id: EventId = ids::new()?;
    let now = UnixMicros(control.clock.unix_micros());
    let mut event = AuditEvent::new(id, decided.zone_id.clone(), event_type::STEP_UP_DECIDED, now);
    event.request_id = Some(caller.request_id.clone());
    verdict.as_str().clone_into(&mut event.decision);
    status::COMPLETE.clone_into(&mut event.evaluation_status);
    event.metadata_json = Value::Object(about(decided));
    let text = event.to_json().map_err(Refusal::internal)?;
    let text = String::from_utf8(text).map_err(Refusal::internal)?;
    let fields = AuditEvent::fields(&event.id, &text, control.audit_key());
    outbox::enqueue_for_request(change.tx(), AUDIT_EVENTS, &fields, Some(&caller.request_id)).await?;
    Ok(())
}

fn about(decided: &Approval) -> Map<String, Value> {
    let labels = decided.metadata_json.get("agent_labels").cloned();
    let members = [
        ("challenge_id", Some(json!(decided.id))),
        ("tier", decided.tier.as_ref().map(|tier| json!(tier))),
        ("approver_class", Some(json!(decided.approver_class))),
        ("privacy_mode", Some(json!(decided.privacy_mode))),
        (
            "binding",
            decided
                .resource_set_hash
                .as_ref()
                .map(|hash| json!(hex::encode(hash))),
        ),
        ("session_id", decided.session_id.as_ref().map(|id| json!(id))),
        ("approver_plane", Some(json!("operator"))),
        (
            "approver_subject_id",
            decided.approver_subject_id.as_ref().map(|name| json!(name)),
        ),
        (
            "application_id",
            decided.application_id.as_ref().map(|id| json!(id)),
        ),
        (
            "subject_anchor",
            // Elsewhere the user is who decides: his name would say who did.
            (decided.privacy_mode == "identified")
                .then(|| decided.subject_anchor.as_ref().map(|subject| json!(subject)))
                .flatten(),
        ),
        (
            "reason",
            decided.decision_reason.as_ref().map(|reason| json!(reason)),
        ),
        ("agent_labels", labels.filter(|labels| *labels != json!([]))),
    ];
    members
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect()
}
