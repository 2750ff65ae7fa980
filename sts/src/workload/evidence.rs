//! What does the ledger say about a workload?

use caracal_model::{EventId, UnixMicros, ZoneId};
use caracal_policy::Decision;
use caracal_wire::audit::{AuditEvent, decision, event_type, status};
use serde_json::{Map, Value, json};

use super::Claim;
use super::refusal::RunRefusal;
use crate::exchange::evidence::{ApprovalFact, append, put_decision};
use crate::exchange::refusal::Refusal;
use crate::limit::denial_budget::Account;
use crate::state::Sts;
use crate::unique_id::unique_id;
use crate::zone::ZoneModel;

/// What became known in the course of one request for a credential.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) decided: Option<Decision>,
    pub(super) approval: Option<ApprovalFact>,
}

/// Records that a workload is told its bindings, before it is.
///
/// # Errors
/// [`RunRefusal::EvidenceUnavailable`]: then it must not.
pub(super) async fn launched(
    sts: &Sts,
    claim: &Claim,
    zone: &ZoneId,
    bindings: usize,
) -> Result<(), RunRefusal> {
    let mut about = Map::new();
    about.insert("binding_count".to_owned(), Value::from(bindings));
    let event = event(sts, claim, zone, event_type::RUN_LAUNCH, about).map(|mut event| {
        decision::ALLOW.clone_into(&mut event.decision);
        status::COMPLETE.clone_into(&mut event.evaluation_status);
        event
    });
    append(sts, vec![event])
        .await
        .or(Err(RunRefusal::EvidenceUnavailable))
}

/// Records that a workload did not prove itself. Anybody can cause this, so it is limited for each source.
pub(super) async fn not_authenticated(sts: &Sts, claim: &Claim, zone: &ZoneId) {
    let Some(suppressed) = sts
        .denials
        .take(Account::Source(claim.source), sts.clock.unix_micros())
    else {
        return sts.metrics.denial_events_suppressed.inc();
    };
    let mut about = Map::new();
    about.insert("source".to_owned(), json!(claim.source));
    if suppressed > 0 {
        about.insert("suppressed_events".to_owned(), Value::from(suppressed));
    }
    let event = event(sts, claim, zone, event_type::RUN_LAUNCH, about);
    deny(sts, claim, event, &RunRefusal::Workload, Vec::new()).await;
}

/// Records that a workload gets a credential, before it does.
///
/// # Errors
/// [`RunRefusal::EvidenceUnavailable`]: then it must not.
pub(super) async fn injected(
    sts: &Sts,
    claim: &Claim,
    zone: &ZoneModel,
    facts: &Facts,
    about: Map<String, Value>,
) -> Result<(), RunRefusal> {
    let event = credential_event(sts, claim, zone, facts, about.clone()).map(|mut event| {
        decision::ALLOW.clone_into(&mut event.decision);
        status::COMPLETE.clone_into(&mut event.evaluation_status);
        event
    });
    let approval = about_approval(sts, claim, zone, facts, about);
    let events = std::iter::once(event).chain(approval).collect();
    append(sts, events).await.or(Err(RunRefusal::EvidenceUnavailable))
}

/// Records that a workload does not get a credential. The refusal stands whether or not it can be recorded.
pub(super) async fn not_injected(
    sts: &Sts,
    claim: &Claim,
    zone: &ZoneModel,
    facts: &Facts,
    about: Map<String, Value>,
    refusal: &RunRefusal,
) {
    let event = credential_event(sts, claim, zone, facts, about.clone());
    let approval = about_approval(sts, claim, zone, facts, about);
    deny(sts, claim, event, refusal, approval).await;
}

async fn deny(
    sts: &Sts,
    claim: &Claim,
    event: Option<AuditEvent>,
    refusal: &RunRefusal,
    more: Vec<Option<AuditEvent>>,
) {
    let Some(status) = refusal.evaluation_status() else {
        return;
    };
    let event = event.map(|mut event| {
        let (verdict, reason) = match refusal {
            RunRefusal::Common(Refusal::Hold(_)) => (decision::PENDING, "approval_required".into()),
            other => (decision::DENY, other.answer().description),
        };
        verdict.clone_into(&mut event.decision);
        status.clone_into(&mut event.evaluation_status);
        if let Value::Array(diagnostics) = &mut event.diagnostics_json {
            diagnostics.push(json!({ "reason": reason }));
        }
        event
    });
    let events = std::iter::once(event).chain(more).collect();
    if append(sts, events).await.is_err() {
        tracing::error!(
            workload.id = claim.unverified_id,
            status,
            "a refusal could not be recorded"
        );
    }
}

fn credential_event(
    sts: &Sts,
    claim: &Claim,
    zone: &ZoneModel,
    facts: &Facts,
    about: Map<String, Value>,
) -> Option<AuditEvent> {
    let mut event = event(sts, claim, &zone.id, event_type::TOKEN_EXCHANGE, about)?;
    if let Some(decided) = &facts.decided {
        put_decision(&mut event, zone, decided);
    }
    Some(event)
}

/// The event about the approval, if something happened to one; `None` when it cannot be made.
fn about_approval(
    sts: &Sts,
    claim: &Claim,
    zone: &ZoneModel,
    facts: &Facts,
    mut about: Map<String, Value>,
) -> Vec<Option<AuditEvent>> {
    let Some(fact) = &facts.approval else {
        return Vec::new();
    };
    about.extend(fact.metadata.clone());
    let event = event(sts, claim, &zone.id, fact.event_type, about);
    let event = event.map(|mut event| {
        fact.decision.clone_into(&mut event.decision);
        status::COMPLETE.clone_into(&mut event.evaluation_status);
        event
    });
    vec![event]
}

fn event(
    sts: &Sts,
    claim: &Claim,
    zone: &ZoneId,
    event_type: &str,
    mut metadata: Map<String, Value>,
) -> Option<AuditEvent> {
    let id = EventId::try_from(unique_id(sts.clock.unix_millis()).ok()?).ok()?;
    let mut event = AuditEvent::new(id, zone.clone(), event_type, UnixMicros(sts.clock.unix_micros()));
    event.request_id = Some(claim.request_id.clone());
    metadata.insert("workload_id".to_owned(), json!(claim.unverified_id));
    if let Some(launch) = &claim.launch_id {
        metadata.insert("launch_id".to_owned(), json!(launch));
    }
    event.metadata_json = Value::Object(metadata);
    Some(event)
}
