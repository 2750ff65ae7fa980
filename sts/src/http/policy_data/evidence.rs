//! What does the ledger say about a question?

use caracal_model::{EventId, UnixMicros};
use caracal_policy::DataAnswer;
use caracal_wire::audit::{AuditEvent, decision, event_type, status};
use serde_json::json;

use super::{Asked, Problem};
use crate::exchange::client::Caller;
use crate::exchange::evidence::{append, printable, put_decision, put_policy};
use crate::state::Sts;
use crate::unique_id::unique_id;

/// Records the question and how it was answered (`None`: not at all), and gives the id of the event.
///
/// # Errors
/// [`Problem`]: the answer must not be given.
pub(super) async fn record(
    sts: &Sts,
    request_id: &str,
    caller: &Caller,
    asked: &Asked,
    answer: Option<&DataAnswer>,
) -> Result<String, Problem> {
    let id = unique_id(sts.clock.unix_millis()).or(Err(Problem::internal()))?;
    let event_id = EventId::try_from(id.as_str()).or(Err(Problem::internal()))?;
    let zone = caller.zone();
    let occurred_at = UnixMicros(sts.clock.unix_micros());
    let mut event = AuditEvent::new(
        event_id,
        zone.id.clone(),
        event_type::POLICY_QUESTION,
        occurred_at,
    );
    event.request_id = Some(request_id.to_owned());
    let decided = answer.and_then(|answer| answer.decision.as_ref());
    match decided {
        Some(decided) => put_decision(&mut event, zone, decided),
        None => put_policy(&mut event, zone),
    }
    let (word, status) = match answer {
        None => (decision::DENY, status::POLICY_EVAL_FAILED),
        Some(_) if decided.is_some_and(|decided| !decided.allow()) => (decision::DENY, status::COMPLETE),
        Some(_) => (decision::ALLOW, status::COMPLETE),
    };
    word.clone_into(&mut event.decision);
    status.clone_into(&mut event.evaluation_status);
    let application = caller.application();
    event.metadata_json = json!({
        "application_id": application.id,
        "application_name": application.name,
        "asked": printable(&format!("data.{}", asked.path.join("."))),
        "defined": answer.is_some_and(|answer| answer.value.is_some()),
    });
    append(sts, vec![Some(event)])
        .await
        .map(|()| id)
        .or(Err(Problem::unavailable()))
}
