//! Who hears of what ended? Each announcement names only what it is about (`docs/contract/database.md` section 4).

use caracal_model::ZoneId;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Ended, EndedSession, Root};
use crate::error::StorageError;
use crate::outbox::Producer;
use crate::tx::WriteTx;

/// Stream of revoked anchors.
const REVOKE: &str = "caracal.sessions.revoke";
/// Stream of session changes.
const LIFECYCLE: &str = "caracal.agents.lifecycle";
/// Stream of delegation changes.
const INVALIDATE: &str = "caracal.delegations.invalidate";

/// What is to be announced, one element of each list for each message.
#[derive(Default)]
pub(super) struct Messages {
    ids: Vec<String>,
    topics: Vec<&'static str>,
    keys: Vec<String>,
    payloads: Vec<Value>,
}

impl Messages {
    fn push(&mut self, topic: &'static str, key: String, payload: Value) {
        self.ids.push(Uuid::now_v7().to_string());
        self.topics.push(topic);
        self.keys.push(key);
        self.payloads.push(payload);
    }
}

/// Promises what ended to the streams.
pub(super) async fn announce(
    tx: &mut WriteTx,
    producer: Producer,
    messages: Messages,
) -> Result<(), StorageError> {
    if messages.ids.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "INSERT INTO caracal_outbox (id, producer, topic, dedupe_key, payload_json)
         SELECT m.id, $1, m.topic, m.key, m.payload
         FROM unnest($2::text[], $3::text[], $4::text[], $5::jsonb[]) WITH ORDINALITY AS m(id, topic, key, payload, at)
         ORDER BY m.at
         ON CONFLICT (producer, topic, dedupe_key) DO NOTHING",
    )
    .bind(producer_name(producer))
    .bind(messages.ids)
    .bind(messages.topics)
    .bind(messages.keys)
    .bind(messages.payloads)
    .execute(tx)
    .await?;
    Ok(())
}

/// Absent members are left out of a payload; every value is text, as on the wire.
pub(super) fn messages(
    zone: &ZoneId,
    root: Root<'_>,
    reason: &str,
    ended: &Ended,
    epoch: Option<i64>,
) -> Messages {
    let zone = zone.as_str();
    let mut messages = Messages::default();
    for id in &ended.records {
        let payload = match root {
            Root::Grant { id: grant, .. } => {
                json!({ "zone_id": zone, "session_id": id, "reason": reason, "grant_id": grant })
            }
            _ => json!({ "zone_id": zone, "session_id": id, "reason": reason }),
        };
        messages.push(REVOKE, format!("record:{id}"), payload);
    }
    for EndedSession {
        id,
        parent_id,
        application_id,
    } in &ended.sessions
    {
        let payload = json!({
            "event": "terminate", "zone_id": zone, "agent_session_id": id, "parent_id": parent_id,
            "application_id": application_id, "reason": reason,
        });
        messages.push(LIFECYCLE, format!("terminate:{id}"), payload);
        let payload = json!({ "zone_id": zone, "agent_session_id": id, "reason": reason });
        messages.push(REVOKE, format!("agent_terminate:{id}"), payload);
    }
    let epoch = epoch.map(|epoch| epoch.to_string());
    for id in &ended.delegations {
        let payload = json!({ "zone_id": zone, "delegation_edge_id": id, "reason": reason });
        messages.push(REVOKE, format!("delegation:{id}"), payload);
        let payload = json!({ "event": "edge_revoke", "zone_id": zone, "edge_id": id, "reason": reason, "epoch": epoch });
        messages.push(INVALIDATE, format!("edge_revoke:{id}"), payload);
    }
    messages
}

const fn producer_name(producer: Producer) -> &'static str {
    match producer {
        Producer::Api => "api",
        Producer::Coordinator => "coordinator",
    }
}

/// A reason is text on a stream, which takes no control character.
pub(super) fn check_reason(reason: &str) -> Result<(), StorageError> {
    if reason.chars().any(char::is_control) {
        return Err(StorageError::Message {
            stream: REVOKE.to_owned(),
            field: "reason".to_owned(),
            problem: "holds a control character",
        });
    }
    Ok(())
}
