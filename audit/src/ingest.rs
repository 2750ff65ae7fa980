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
use caracal_storage::{Database, StorageError, WriteTx, ZoneScope};
use caracal_wire::audit::{ReceivedEvent, jsonb_text};
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
struct Checked<'e> {
    /// Its place in the batch.
    index: usize,
    zone: ZoneId,
    event: Event<'e>,
}

/// How much of events one transaction takes, roughly: one of them may be larger. The database takes a gigabyte at most in one message.
const TRANSACTION_BYTES: usize = 8 * 1024 * 1024;

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
    fn check<'e>(&self, index: usize, entry: &'e Entry) -> Result<Checked<'e>, Refusal> {
        let data = entry.fields.get("data").ok_or("missing_data_field")?;
        let signature = entry.fields.get("sig").map(String::as_str);
        if !self.keys.accepts(data.as_bytes(), signature) {
            self.metrics.hmac_failures.inc();
            return Err("hmac_verify_failed".to_owned());
        }
        let unreadable = |error: &dyn std::fmt::Display| {
            self.metrics.parse_errors.inc();
            format!("json_parse_error:{error}")
        };
        let received = ReceivedEvent::parse(data.as_bytes()).map_err(|error| unreadable(&error))?;
        let zone = without_nul(received.zone_id.clone())
            .parse()
            .map_err(|error: caracal_model::IdError| unreadable(&error))?;
        let event = storable(received, signature, data);
        if event.id.is_empty() {
            return Err(unreadable(&"an id without a visible character"));
        }
        Ok(Checked { index, zone, event })
    }

    /// Stores one zone's events; while the database is away, tries again for a while. None when it stays away.
    async fn store_zone(&self, zone: &ZoneId, events: &[Checked<'_>]) -> Option<Vec<(usize, Outcome)>> {
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
        events: &[Checked<'_>],
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

    /// One transaction: lock the head, drop what is stored already, link, append.
    async fn store(
        &self,
        zone: &ZoneId,
        events: &[Checked<'_>],
    ) -> Result<Vec<(usize, Outcome)>, StorageError> {
        let mut tx = self.database.write(ZoneScope::Zone(zone)).await?;
        let head = audit_event::lock_head(&mut tx, zone).await?;
        let documents = normalised(&mut tx, events).await?;
        let contents: Vec<String> = events
            .iter()
            .zip(&documents)
            .map(|(checked, documents)| checked.event.content(zone.as_str(), documents))
            .collect();
        let ids: Vec<&str> = events.iter().map(|checked| checked.event.id.as_ref()).collect();
        let stored = audit_event::stored_hashes(&mut tx, zone, &ids).await?;
        let mut known: HashMap<&str, &str> = stored
            .iter()
            .map(|(id, content)| (id.as_str(), content.as_str()))
            .collect();
        let mut outcomes = Vec::with_capacity(events.len());
        let mut fresh = Vec::with_capacity(events.len());
        for ((checked, documents), content) in events.iter().zip(&documents).zip(&contents) {
            let id = checked.event.id.as_ref();
            match known.get(id) {
                Some(stored) if stored == content => outcomes.push((checked.index, Outcome::Done)),
                Some(stored) => {
                    let detail = format!("stored={stored} incoming={content}");
                    audit_event::alert(&mut tx, zone, id, "content_mismatch_on_replay", &detail).await?;
                    self.metrics.tamper_replay.inc();
                    outcomes.push((checked.index, Outcome::Dead("tamper_on_replay".to_owned())));
                }
                None => {
                    known.insert(id, content);
                    outcomes.push((checked.index, Outcome::Done));
                    fresh.push(Hashed {
                        event: &checked.event,
                        documents,
                        content,
                    });
                }
            }
        }
        let links = chain::link(&head, &self.keys, &fresh);
        audit_event::append(&mut tx, zone, &links).await?;
        tx.commit().await?;
        self.metrics.inserts.inc_by(links.len() as u64);
        Ok(outcomes)
    }
}

/// The documents of each event as the database will give them back. Only where that is not plain is it asked.
async fn normalised<'e>(
    tx: &mut WriteTx,
    events: &'e [Checked<'_>],
) -> Result<Vec<Cow<'e, Documents>>, StorageError> {
    let unsure: Vec<&Documents> = events
        .iter()
        .filter(|checked| !checked.event.is_normal)
        .map(|checked| &checked.event.documents)
        .collect();
    let mut told = if unsure.is_empty() {
        Vec::new()
    } else {
        audit_event::normalise(tx, &unsure).await?
    }
    .into_iter();
    let documents = events.iter().map(|checked| match &checked.event {
        event if event.is_normal => Cow::Borrowed(&event.documents),
        _ => Cow::Owned(told.next().unwrap_or_default()),
    });
    Ok(documents.collect())
}

/// Events in parts that one transaction takes: many small ones, or few large ones, in their order.
fn parts<T>(events: &[T], length: impl Fn(&T) -> usize) -> impl Iterator<Item = &[T]> {
    let mut bytes = events.first().map_or(0, &length);
    events.chunk_by(move |_before, event| {
        let alone = length(event);
        bytes += alone;
        let fits = bytes <= TRANSACTION_BYTES;
        if !fits {
            bytes = alone;
        }
        fits
    })
}

#[async_trait]
impl Handler for Ingest {
    async fn handle(&mut self, batch: &[Delivery]) -> Vec<Outcome> {
        let mut outcomes = vec![Outcome::Retry; batch.len()];
        let mut zones: BTreeMap<ZoneId, Vec<Checked<'_>>> = BTreeMap::new();
        for (index, (delivery, outcome)) in batch.iter().zip(outcomes.iter_mut()).enumerate() {
            match self.check(index, &delivery.entry) {
                Ok(checked) => zones.entry(checked.zone.clone()).or_default().push(checked),
                Err(reason) => *outcome = Outcome::Dead(reason),
            }
        }
        'away: for (zone, events) in zones {
            for part in parts(&events, |checked| checked.event.data.len()) {
                // While the database is away, the other zones need not wait for it as well: all of them come again.
                let Some(stored) = self.store_zone(&zone, part).await else {
                    break 'away;
                };
                for (index, became) in stored {
                    if let Some(outcome) = outcomes.get_mut(index) {
                        *outcome = became;
                    }
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
fn storable<'e>(received: ReceivedEvent<'e>, signature: Option<&'e str>, data: &'e str) -> Event<'e> {
    let mut is_normal = true;
    let mut document = |value: Option<&RawValue>| -> Option<String> {
        let document = document_without_nul(value?.get());
        let normal = jsonb_text(&document);
        is_normal &= normal.is_some();
        Some(normal.unwrap_or_else(|| document.into_owned()))
    };
    let documents = Documents {
        determining_policies: document(received.determining_policies_json),
        diagnostics: document(received.diagnostics_json),
        metadata: document(received.metadata_json),
    };
    Event {
        id: without_nul(received.id),
        kind: received.event_type.map(without_nul).unwrap_or_default(),
        request_id: received.request_id.map(without_nul),
        decision: received.decision.map(without_nul),
        policy_set_id: received.policy_set_id.map(without_nul),
        policy_set_version_id: received.policy_set_version_id.map(without_nul),
        manifest_sha: received.manifest_sha.map(without_nul),
        evaluation_status: received.evaluation_status.map(without_nul),
        documents,
        is_normal,
        occurred_at: received.occurred_at,
        signature,
        data,
    }
}

fn without_nul(text: Cow<'_, str>) -> Cow<'_, str> {
    if text.contains('\0') {
        Cow::Owned(text.replace('\0', ""))
    } else {
        text
    }
}

/// A document is rewritten only when it can hold a NUL, because rewriting changes how numbers look.
fn document_without_nul(document: &str) -> Cow<'_, str> {
    if !document.contains("\\u0000") {
        return Cow::Borrowed(document);
    }
    let Ok(mut value) = serde_json::from_str::<Value>(document) else {
        return Cow::Borrowed(document);
    };
    strip_nul(&mut value);
    Cow::Owned(value.to_string())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_takes_many_small_events_or_few_large_ones_and_any_single_one() {
        const MIB: usize = 1024 * 1024;
        let lengths = |events: &[usize]| parts(events, |bytes| *bytes).map(<[_]>::len).collect::<Vec<_>>();
        assert_eq!(lengths(&[]), [] as [usize; 0]);
        assert_eq!(lengths(&[1_000; 500]), [500]);
        assert_eq!(lengths(&[MIB; 20]), [8, 8, 4]);
        assert_eq!(lengths(&[1, 9 * MIB, 1, 9 * MIB, 9 * MIB]), [1, 1, 1, 1, 1]);
        assert_eq!(lengths(&[7 * MIB, 2 * MIB, 6 * MIB, MIB]), [1, 2, 1]);
    }
}
