//! What does the ledger say about a client that could not prove itself at a management endpoint?

use std::net::IpAddr;

use bytes::Bytes;
use caracal_model::{EventId, UnixMicros};
use caracal_wire::audit::{AuditEvent, decision};
use serde_json::json;

use super::zone_id_of;
use crate::exchange::evidence::printable;
use crate::exchange::refusal::Refusal;
use crate::limit::denial_budget::Account;
use crate::state::Sts;
use crate::unique_id::unique_id;

/// Who tried what.
pub(in crate::http) struct Attempt<'a> {
    /// Text of the zone's id in the address.
    pub(in crate::http) zone: &'a str,
    /// Who he says he is.
    pub(in crate::http) application_id: &'a str,
    pub(in crate::http) source: IpAddr,
    pub(in crate::http) request_id: &'a str,
    pub(in crate::http) endpoint: &'static str,
}

/// Appends the refusal, if there is a ledger for it: the zone exists. Anybody can cause these, so each source has a limit. The
/// refusal stands whether or not it can be recorded.
pub(in crate::http) async fn record_failure(sts: &Sts, attempt: &Attempt<'_>, refusal: &Refusal) {
    let Some(status) = refusal.evaluation_status() else {
        return;
    };
    let Some(zone) = zone_id_of(attempt.zone).and_then(|zone| sts.zones.known(&zone)) else {
        return;
    };
    let Some(suppressed) = sts
        .denials
        .take(Account::Source(attempt.source), sts.clock.unix_micros())
    else {
        return sts.metrics.denial_events_suppressed.inc();
    };
    let id = unique_id(sts.clock.unix_millis())
        .ok()
        .and_then(|id| EventId::try_from(id).ok());
    let Some(id) = id else { return };
    let occurred_at = UnixMicros(sts.clock.unix_micros());
    let mut event = AuditEvent::new(id, zone.id.clone(), refusal.event_type(), occurred_at);
    event.request_id = Some(attempt.request_id.to_owned());
    decision::DENY.clone_into(&mut event.decision);
    status.clone_into(&mut event.evaluation_status);
    event.diagnostics_json = json!([{ "reason": refusal.answer().description }]);
    let mut metadata = json!({
        "application_id": printable(attempt.application_id),
        "endpoint": attempt.endpoint,
        "source": attempt.source,
    });
    if let (true, Some(members)) = (suppressed > 0, metadata.as_object_mut()) {
        members.insert("suppressed_events".to_owned(), json!(suppressed));
    }
    event.metadata_json = metadata;
    let appended = match event.to_json() {
        Ok(line) => sts.spool.append(Bytes::from(line)).await.is_ok(),
        Err(_) => false,
    };
    if !appended {
        sts.metrics.audit_sink_errors.inc();
        tracing::error!(refusal = refusal.label(), "a refusal could not be recorded");
    }
}
