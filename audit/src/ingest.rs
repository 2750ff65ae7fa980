//! What becomes of a batch of stream entries? Checked, grouped by zone, linked and stored; each zone in one transaction.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::error::Error as _;
use std::time::Duration;

use async_trait::async_trait;
use caracal_bus::Entry;
use caracal_bus::consumer::{DeadLetter, Delivery, Handler, Outcome};
use caracal_chassis::Clock;
use caracal_chassis::backoff::Backoff;
use caracal_model::ZoneId;
use caracal_storage::audit_event::{self, Documents};
use caracal_storage::{Database, StorageError, ZoneScope};
use caracal_wire::audit::ReceivedEvent;
use caracal_wire::stream::{self, Fields};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::chain::{self, AuditKeys, Event, Hashed};
use crate::metrics::Metrics;

/// How often a batch is tried while the database is away, before it is left pending for a later delivery.
const ATTEMPTS_MAX: u32 = 8;

/// The work of the consumer group.
pub(crate) struct Ingest {
    database: Database,
    keys: AuditKeys,
    clock: Clock,
    metrics: Metrics,
}

/// One event of a batch that passed the checks.
#[derive(Clone)]
struct Checked {
    /// Its place in the batch.
    index: usize,
    zone: ZoneId,
    event: Event,
}

/// Why an entry can never become evidence.
type Refusal = String;

impl Ingest {
    pub(crate) fn new(database: Database, keys: AuditKeys, clock: Clock, metrics: Metrics) -> Self {
        Self {
            database,
            keys,
            clock,
            metrics,
        }
    }

    /// Signature, shape and size; without reading the database.
    fn check(&self, index: usize, entry: &Entry) -> Result<Checked, Refusal> {
        let data = entry.fields.get("data").ok_or("missing_data_field")?;
        let signature = entry.fields.get("sig").cloned();
        if !self.keys.accepts(data.as_bytes(), signature.as_deref()) {
            self.metrics.hmac_failures.inc();
            return Err("hmac_verify_failed".to_owned());
        }
        let unreadable = |error: &dyn std::fmt::Display| {
            self.metrics.parse_errors.inc();
            format!("json_parse_error:{error}")
        };
        let received = ReceivedEvent::parse(data.as_bytes()).map_err(|error| unreadable(&error))?;
        let zone = without_nul(&received.zone_id)
            .parse()
            .map_err(|error: caracal_model::IdError| unreadable(&error))?;
        let event = storable(&received, signature, data);
        if event.id.is_empty() {
            return Err(unreadable(&"an id without a visible character"));
        }
        Ok(Checked { index, zone, event })
    }

    /// Stores one zone's events; while the database is away, tries again for a while. None when it stays away.
    async fn store_zone(&self, zone: &ZoneId, events: &[Checked]) -> Option<Vec<(usize, Outcome)>> {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        loop {
            match self.store(zone, events).await {
                Ok(outcomes) => return Some(outcomes),
                Err(error) if error.is_unavailable() || error.is_contention() => {
                    self.metrics.retries.inc();
                    if backoff.attempts() >= ATTEMPTS_MAX {
                        tracing::warn!(zone.id = zone.as_str(), %error, "the ledger cannot be written now");
                        return None;
                    }
                    backoff.wait().await;
                }
                Err(error) => return self.store_one_by_one(zone, events, &error).await,
            }
        }
    }

    /// After a refusal of a whole batch: the event at fault is put aside, the others are stored.
    async fn store_one_by_one(
        &self,
        zone: &ZoneId,
        events: &[Checked],
        error: &StorageError,
    ) -> Option<Vec<(usize, Outcome)>> {
        if let [only] = events {
            tracing::error!(zone.id = zone.as_str(), %error, cause = ?error.source(), "an event cannot be stored");
            return Some(vec![(
                only.index,
                Outcome::Dead(format!("pg_permanent_error:{error}")),
            )]);
        }
        let mut outcomes = Vec::with_capacity(events.len());
        for event in events {
            // Those that were stored already are found as known when they come again.
            outcomes.extend(Box::pin(self.store_zone(zone, std::slice::from_ref(event))).await?);
        }
        Some(outcomes)
    }

    /// One transaction: lock the head, normalise, drop what is stored already, link, append.
    async fn store(&self, zone: &ZoneId, events: &[Checked]) -> Result<Vec<(usize, Outcome)>, StorageError> {
        let mut tx = self.database.write(ZoneScope::Zone(zone)).await?;
        let head = audit_event::lock_head(&mut tx, zone).await?;
        let documents: Vec<Documents> = events
            .iter()
            .map(|checked| checked.event.documents.clone())
            .collect();
        let normalised = audit_event::normalise(&mut tx, &documents).await?;
        let ids: Vec<String> = events.iter().map(|checked| checked.event.id.clone()).collect();
        let mut known: HashMap<String, String> = audit_event::stored_hashes(&mut tx, zone, &ids)
            .await?
            .into_iter()
            .collect();
        let mut outcomes = Vec::with_capacity(events.len());
        let mut fresh = Vec::with_capacity(events.len());
        for (checked, documents) in events.iter().zip(normalised) {
            let content = checked.event.content(zone.as_str(), &documents);
            match known.get(&checked.event.id) {
                Some(stored) if *stored == content => outcomes.push((checked.index, Outcome::Done)),
                Some(stored) => {
                    let detail = format!("stored={stored} incoming={content}");
                    audit_event::alert(
                        &mut tx,
                        zone,
                        &checked.event.id,
                        "content_mismatch_on_replay",
                        &detail,
                    )
                    .await?;
                    self.metrics.tamper_replay.inc();
                    outcomes.push((checked.index, Outcome::Dead("tamper_on_replay".to_owned())));
                }
                None => {
                    known.insert(checked.event.id.clone(), content.clone());
                    outcomes.push((checked.index, Outcome::Done));
                    fresh.push(Hashed {
                        event: checked.event.clone(),
                        documents,
                        content,
                    });
                }
            }
        }
        let links = chain::link(&head, &self.keys, fresh);
        audit_event::append(&mut tx, zone, &links).await?;
        tx.commit().await?;
        self.metrics.inserts.inc_by(links.len() as u64);
        Ok(outcomes)
    }
}

#[async_trait]
impl Handler for Ingest {
    async fn handle(&mut self, batch: &[Delivery]) -> Vec<Outcome> {
        let mut outcomes = vec![Outcome::Retry; batch.len()];
        let mut zones: BTreeMap<ZoneId, Vec<Checked>> = BTreeMap::new();
        for (index, (delivery, outcome)) in batch.iter().zip(outcomes.iter_mut()).enumerate() {
            match self.check(index, &delivery.entry) {
                Ok(checked) => zones.entry(checked.zone.clone()).or_default().push(checked),
                Err(reason) => *outcome = Outcome::Dead(reason),
            }
        }
        for (zone, events) in zones {
            // While the database is away, the other zones need not wait for it as well: all of them come again.
            let Some(stored) = self.store_zone(&zone, &events).await else {
                break;
            };
            for (index, became) in stored {
                if let Some(outcome) = outcomes.get_mut(index) {
                    *outcome = became;
                }
            }
        }
        let dead = outcomes
            .iter()
            .filter(|outcome| matches!(outcome, Outcome::Dead(_)))
            .count();
        self.metrics.dead_letters.inc_by(dead as u64);
        outcomes
    }

    /// docs/contract/audit-events.md, "Dead letters".
    fn dead_letter(&self, _stream: &str, entry: &Entry, reason: &str) -> DeadLetter {
        let mut fields = Fields::from([
            (
                "reason".to_owned(),
                reason
                    .chars()
                    .filter(|character| !character.is_control())
                    .collect(),
            ),
            ("src_id".to_owned(), entry.id.to_string()),
            ("received_at".to_owned(), self.clock.unix_millis().to_string()),
        ]);
        fields.extend(
            entry
                .fields
                .iter()
                .map(|(name, value)| (format!("src_{name}"), value.clone())),
        );
        DeadLetter {
            stream: stream::AUDIT_EVENTS_DLQ.to_owned(),
            fields,
        }
    }
}

/// The event as the database can store it: it keeps no NUL character, so none is hashed either.
fn storable(received: &ReceivedEvent<'_>, signature: Option<String>, data: &str) -> Event {
    let text = |value: &Option<Cow<'_, str>>| value.as_deref().map(without_nul);
    let document = |value: Option<&RawValue>| value.map(|document| document_without_nul(document.get()));
    Event {
        id: without_nul(&received.id),
        kind: text(&received.event_type).unwrap_or_default(),
        request_id: text(&received.request_id),
        decision: text(&received.decision),
        policy_set_id: text(&received.policy_set_id),
        policy_set_version_id: text(&received.policy_set_version_id),
        manifest_sha: text(&received.manifest_sha),
        evaluation_status: text(&received.evaluation_status),
        documents: Documents {
            determining_policies: document(received.determining_policies_json),
            diagnostics: document(received.diagnostics_json),
            metadata: document(received.metadata_json),
        },
        occurred_at: received.occurred_at,
        signature,
        data: data.to_owned(),
    }
}

fn without_nul(text: &str) -> String {
    text.replace('\0', "")
}

/// A document is rewritten only when it can hold a NUL, because rewriting changes how numbers look.
fn document_without_nul(document: &str) -> String {
    if !document.contains("\\u0000") {
        return document.to_owned();
    }
    let Ok(mut value) = serde_json::from_str::<Value>(document) else {
        return document.to_owned();
    };
    strip_nul(&mut value);
    value.to_string()
}

fn strip_nul(value: &mut Value) {
    match value {
        Value::String(text) => text.retain(|character| character != '\0'),
        Value::Array(items) => items.iter_mut().for_each(strip_nul),
        Value::Object(members) => {
            if members.keys().any(|name| name.contains('\0')) {
                let renamed = std::mem::take(members)
                    .into_iter()
                    .map(|(name, value)| (name.replace('\0', ""), value));
                members.extend(renamed);
            }
            members.values_mut().for_each(strip_nul);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
