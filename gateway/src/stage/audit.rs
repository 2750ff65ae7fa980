//! Stage 8: what stays of the request? The intent before it goes upstream, the outcome after, or the refusal.
//!
//! Events are appended to a local spool, never sent from here. Without the intent on record nothing is forwarded;
//! refusals are recorded as far as one source's share and everybody's go, and what was left out is counted.

mod budget;

use bytes::Bytes;
use caracal_bus::Spool;
use caracal_bus::spool::SpoolError;
use caracal_chassis::Clock;
use caracal_model::{EventId, UnixMicros, ZoneId};
use caracal_wire::audit::{AuditEvent, Details, decision, event_type, status};
use tokio::time::Duration;
use uuid::Uuid;

use super::exchange::Credential;
use super::forward::Reachable;
use super::revocation::Standing;
use crate::admit::Admission;
use crate::chance::Chance;
use crate::context::Observation;
use crate::denial::Denial;
use budget::DenialBudget;

/// The ledger of refusals whose zone is not proven: anybody could write any zone into a bearer that proves nothing.
const UNPROVEN_ZONE: &str = "unverified";

/// How often what was left out is recorded, and idle sources are forgotten.
pub(crate) const SUMMARY_EVERY: Duration = Duration::from_secs(10);

/// Proof that the ledger knows what is about to be done.
#[derive(Debug)]
pub struct Recorded(());

/// Writes the gateway's evidence.
#[derive(Debug)]
pub(crate) struct Evidence {
    spool: Spool,
    clock: Clock,
    budget: DenialBudget,
}

impl Evidence {
    /// Appends to `spool`.
    pub(crate) fn new(spool: Spool, clock: Clock) -> Self {
        Self {
            spool,
            clock,
            budget: DenialBudget::default(),
        }
    }

    /// The spool, for its state.
    pub(crate) fn spool(&self) -> &Spool {
        &self.spool
    }

    /// Records that a request is about to go upstream. One append, shared with other requests of the moment.
    ///
    /// # Errors
    /// [`Denial::Unrecorded`].
    pub(crate) async fn intent(
        &self,
        seen: &Observation,
        standing: &Standing,
        credential: &Credential,
        reachable: &Reachable,
    ) -> Result<Recorded, Denial> {
        let zone = standing.caller().claims().zone_id.clone();
        let mut metadata = about(seen);
        about_upstream(&mut metadata, credential, reachable);
        if let Some(keys) = &standing.caller().claims().cnf {
            metadata.put("token_confirmation", keys);
        }
        let event = self.event(zone, event_type::GATEWAY_RESOURCE_REQUEST, seen, Chance::intent);
        let event = event.map(|event| AuditEvent {
            decision: decision::ALLOW.into(),
            evaluation_status: status::FORWARDING.into(),
            ..event
        });
        self.append(event, &metadata)
            .await
            .map(Recorded)
            .map_err(|error| {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the evidence spool takes nothing"
                );
                Denial::Unrecorded
            })
    }

    /// Records how an admitted request went; `failure` is what ended it early. The answer was given already, so a
    /// full spool can only be reported.
    pub(crate) async fn outcome(&self, seen: &Observation, admission: &Admission, failure: Option<&Denial>) {
        let mut metadata = about(seen);
        about_upstream(&mut metadata, admission.credential(), admission.reachable());
        let is_cut = matches!(
            failure,
            Some(Denial::Revoked(_) | Denial::RevocationStale | Denial::ExpiredMeanwhile | Denial::Stopping)
        );
        metadata.put(
            "revocation_interrupted",
            &matches!(failure, Some(Denial::Revoked(_))),
        );
        metadata.put("response_bytes", &seen.response_bytes);
        metadata.put("request_bytes", &seen.request_bytes);
        if let Some(status) = seen.upstream_status {
            metadata.put("upstream_status", &status);
        }
        metadata.put("result_class", &result_class(seen.upstream_status));
        let gateway_status = match (failure, seen.upstream_status) {
            (Some(failure), None) => failure.face().status,
            (_, Some(upstream)) => upstream,
            (None, None) => 0,
        };
        metadata.put("gateway_status", &gateway_status);
        if let Some(failure) = failure {
            metadata.put("error_kind", &error_kind(failure, seen.upstream_status));
        }
        let zone = admission.standing().caller().claims().zone_id.clone();
        let event = self.event(zone, event_type::GATEWAY_RESOURCE_REQUEST, seen, Chance::end);
        let status = match failure {
            None => status::EXECUTED,
            Some(_) if is_cut => status::INTERRUPTED,
            Some(_) => status::UPSTREAM_ERROR,
        };
        let event = event.map(|event| AuditEvent {
            decision: decision::ALLOW.into(),
            evaluation_status: status.into(),
            ..event
        });
        self.append_or_report(event, &metadata).await;
    }

    /// Records a refusal, if the source's share and everybody's allow; whether it did.
    pub(crate) async fn denial(&self, seen: &Observation, denial: &Denial) -> bool {
        let Some(suppressed) = self.budget.take(seen.source) else {
            return false;
        };
        let face = denial.face();
        let mut metadata = about(seen);
        metadata.put("gateway_status", &face.status);
        metadata.put("error", &face.code);
        metadata.put("reason", &face.description);
        metadata.put("source", &seen.source);
        if let Some(detail) = denial.detail() {
            metadata.put("detail", &detail);
        }
        if let Denial::Revoked(anchor) = denial {
            metadata.put("revoked", &anchor.to_string());
        }
        if let Denial::OperationNotPermitted(path) = denial {
            // As the STS records it for the same refusal.
            metadata.put("path", path);
        }
        if suppressed > 0 {
            metadata.put("suppressed_before", &suppressed);
        }
        let zone = seen
            .caller
            .as_ref()
            .map(|caller| caller.zone.clone())
            .or_else(unproven_zone);
        let Some(zone) = zone else { return false };
        let is_replay = *denial == Denial::Replayed;
        let kind = if is_replay {
            event_type::REPLAY_DETECTED
        } else {
            event_type::GATEWAY_REQUEST_DENIED
        };
        if is_replay {
            let jti = seen.caller.as_ref().map(|caller| &caller.jti);
            metadata.put("jti", &jti);
            metadata.put("request_id", &seen.request_id.as_str());
            metadata.put(
                "client_id",
                &seen.caller.as_ref().map(|caller| caller.client.as_str()),
            );
            metadata.put("subject_fp", &seen.subject_fingerprint);
        }
        let status = if is_replay { status::ANOMALY } else { face.label };
        let event = self.event(zone, kind, seen, Chance::end);
        let event = event.map(|event| AuditEvent {
            decision: decision::DENY.into(),
            evaluation_status: status.into(),
            ..event
        });
        self.append_or_report(event, &metadata).await;
        true
    }

    /// Records how many refusals were left out lately, source by source.
    pub(crate) async fn summarise(&self) {
        for (source, suppressed) in self.budget.drain() {
            let Some(zone) = unproven_zone() else { return };
            let event = self
                .stamp(Chance::draw().map(|chance| chance.end()))
                .map(|(id, at)| AuditEvent {
                    decision: decision::DENY.into(),
                    evaluation_status: status::SUPPRESSED.into(),
                    ..AuditEvent::new(id, zone, event_type::GATEWAY_REQUEST_DENIED, at)
                });
            let mut metadata = Details::default();
            match source {
                Some(source) => metadata.put("source", &source),
                None => metadata.put("source", "others"),
            }
            metadata.put("suppressed", &suppressed);
            self.append_or_report(event, &metadata).await;
        }
    }

    fn event(
        &self,
        zone: ZoneId,
        kind: &str,
        seen: &Observation,
        random: fn(&Chance) -> [u8; 10],
    ) -> Result<AuditEvent, SpoolError> {
        let (id, at) = self.stamp(seen.chance.as_ref().map(random))?;
        let request_id = Some(seen.request_id.as_str().to_owned());
        Ok(AuditEvent {
            request_id,
            ..AuditEvent::new(id, zone, kind, at)
        })
    }

    /// An id that sorts by time (UUID version 7), and the time. Without randomness there is no id: two events of a millisecond
    /// would share one, and ingest keeps the first.
    fn stamp(&self, random: Option<[u8; 10]>) -> Result<(EventId, UnixMicros), SpoolError> {
        let micros = self.clock.unix_micros();
        let random = random.ok_or(SpoolError::NotAnEvent("no randomness for its id"))?;
        let millis = u64::try_from(micros / 1_000).unwrap_or(0);
        let id = uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid();
        let mut text = Uuid::encode_buffer();
        let id = EventId::try_from(&*id.hyphenated().encode_lower(&mut text));
        Ok((id.or(Err(SpoolError::NotAnEvent("its id")))?, UnixMicros(micros)))
    }

    async fn append(
        &self,
        event: Result<AuditEvent, SpoolError>,
        metadata: &Details,
    ) -> Result<(), SpoolError> {
        let text = event?
            .to_json_with(metadata)
            .map_err(|_error| SpoolError::NotAnEvent("its metadata"))?;
        self.spool.append(Bytes::from(text)).await
    }

    async fn append_or_report(&self, event: Result<AuditEvent, SpoolError>, metadata: &Details) {
        let id = event.as_ref().ok().map(|event| event.id.clone());
        if let Err(error) = self.append(event, metadata).await {
            let error = &error as &dyn std::error::Error;
            tracing::error!(
                event.id = id.as_ref().map(EventId::as_str),
                error,
                "an event could not be recorded"
            );
        }
    }
}

fn unproven_zone() -> Option<ZoneId> {
    UNPROVEN_ZONE.parse().ok()
}

/// What every event of a request tells. No path, query, header or body.
fn about(seen: &Observation) -> Details {
    let mut metadata = Details::default();
    if let Some(caller) = &seen.caller {
        metadata.put("application_id", &caller.client.as_str());
        metadata.put("subject_kind", &caller.subject_kind);
        metadata.put("session_id", &caller.anchors.sid.as_str());
        if let Some(session) = &caller.anchors.session {
            metadata.put("agent_session_id", &session.as_str());
        }
        if let Some(delegation) = &caller.anchors.delegation {
            metadata.put("delegation_edge_id", &delegation.as_str());
        }
    }
    if let Some(resource) = &seen.resource {
        metadata.put("resource", &resource);
    }
    if let Some(fingerprint) = &seen.subject_fingerprint {
        metadata.put("subject_fingerprint", &fingerprint);
    }
    if let Some(trace_id) = &seen.trace_id {
        metadata.put("trace_id", &trace_id);
    }
    metadata.put("method", &seen.method);
    metadata.put("latency_ms", &millis(seen.started.elapsed()));
    metadata
}

fn about_upstream(metadata: &mut Details, credential: &Credential, reachable: &Reachable) {
    let upstream = credential.upstream();
    metadata.put("upstream_host", &reachable.target().host());
    metadata.put("auth_mode", &upstream.auth_mode.as_str());
    if let Some(provider) = &upstream.provider_id {
        metadata.put("provider_id", &provider);
    }
    if let Some(connection) = &upstream.connection_id {
        metadata.put("connection_id", &connection);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn result_class(status: Option<u16>) -> &'static str {
    match status {
        Some(200..=299) => "success",
        Some(300..=399) => "redirect",
        Some(400..=499) => "client_error",
        Some(500..=599) => "server_error",
        _ => "unknown",
    }
}

fn error_kind(failure: &Denial, upstream_status: Option<u16>) -> &'static str {
    match failure {
        Denial::Revoked(_) | Denial::RevocationStale | Denial::ExpiredMeanwhile => "authority_ended",
        Denial::BodyTooLarge => "request_too_large",
        Denial::ClientGone => "client_cancelled",
        Denial::Stopping => "gateway_stopped",
        _ if upstream_status.is_some() => "response_copy_failed",
        _ => "transport_error",
    }
}
