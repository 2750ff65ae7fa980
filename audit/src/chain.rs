//! How does an event become a link of its zone's chain? By docs/contract/audit-events.md, "The chain".

use caracal_bus::HmacKey;
use caracal_model::UnixMicros;
use caracal_storage::audit_event::{ChainHead, Documents, Link, NewLink};
use caracal_wire::audit::{self, Content};
use time::OffsetDateTime;

/// The keys under which producers sign and the chain is sealed: new links use the current one, old ones may have used the previous one.
#[derive(Debug, Clone, Default)]
pub struct AuditKeys {
    current: Option<HmacKey>,
    previous: Option<HmacKey>,
}

impl AuditKeys {
    /// Keys as configured (`AUDIT_HMAC_KEY` and the key it replaced). Without a current key nothing is sealed, which only dev mode allows.
    pub fn new(current: Option<HmacKey>, previous: Option<HmacKey>) -> Self {
        Self { current, previous }
    }

    /// Whether `signature` is a producer's signature over `data`.
    pub(crate) fn accepts(&self, data: &[u8], signature: Option<&str>) -> bool {
        let Some(_required) = &self.current else {
            return true;
        };
        let Some(signature) = signature else { return false };
        [&self.current, &self.previous]
            .into_iter()
            .flatten()
            .any(|key| audit::verify_data(key.expose(), data, signature))
    }

    fn seal(&self, content: &str, previous: Option<&str>) -> String {
        self.current.as_ref().map_or_else(String::new, |key| {
            audit::chain_hmac(key.expose(), content, previous)
        })
    }

    /// Whether a stored link was sealed with one of the keys.
    pub(crate) fn sealed(&self, stored: &str, content: &str, previous: Option<&str>) -> bool {
        let keys: Vec<&HmacKey> = [&self.current, &self.previous].into_iter().flatten().collect();
        if keys.is_empty() {
            return true;
        }
        keys.into_iter()
            .any(|key| audit::verify_chain_hmac(key.expose(), content, previous, stored))
    }
}

/// An event that passed the checks, as it will be stored.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) request_id: Option<String>,
    pub(crate) decision: Option<String>,
    pub(crate) policy_set_id: Option<String>,
    pub(crate) policy_set_version_id: Option<String>,
    pub(crate) manifest_sha: Option<String>,
    pub(crate) evaluation_status: Option<String>,
    pub(crate) documents: Documents,
    pub(crate) occurred_at: UnixMicros,
    pub(crate) signature: Option<String>,
    /// What the producer signed.
    pub(crate) data: String,
}

impl Event {
    /// The hash of this event in `zone`, with the documents as the database will give them back.
    pub(crate) fn content(&self, zone: &str, documents: &Documents) -> String {
        audit::content_hash(&Content {
            id: &self.id,
            zone_id: zone,
            event_type: &self.kind,
            request_id: self.request_id.as_deref().unwrap_or_default(),
            decision: self.decision.as_deref().unwrap_or_default(),
            policy_set_id: self.policy_set_id.as_deref().unwrap_or_default(),
            policy_set_version_id: self.policy_set_version_id.as_deref().unwrap_or_default(),
            manifest_sha: self.manifest_sha.as_deref().unwrap_or_default(),
            evaluation_status: self.evaluation_status.as_deref().unwrap_or_default(),
            determining_policies: documents.determining_policies.as_deref(),
            diagnostics: documents.diagnostics.as_deref(),
            metadata: documents.metadata.as_deref(),
            occurred_at: self.occurred_at,
        })
    }
}

/// The hash of a link as it is stored.
pub(crate) fn content_of_link(link: &Link) -> String {
    audit::content_hash(&Content {
        id: &link.id,
        zone_id: &link.zone_id,
        event_type: &link.event_type,
        request_id: link.request_id.as_deref().unwrap_or_default(),
        decision: link.decision.as_deref().unwrap_or_default(),
        policy_set_id: link.policy_set_id.as_deref().unwrap_or_default(),
        policy_set_version_id: link.policy_set_version_id.as_deref().unwrap_or_default(),
        manifest_sha: link.manifest_sha.as_deref().unwrap_or_default(),
        evaluation_status: link.evaluation_status.as_deref().unwrap_or_default(),
        determining_policies: link.determining_policies.as_deref(),
        diagnostics: link.diagnostics.as_deref(),
        metadata: link.metadata.as_deref(),
        occurred_at: micros(link.occurred_at),
    })
}

/// An event with its hash, not yet at a place in the chain.
#[derive(Debug, Clone)]
pub(crate) struct Hashed {
    pub(crate) event: Event,
    /// The documents as the database will give them back.
    pub(crate) documents: Documents,
    pub(crate) content: String,
}

/// Puts events after `head`, in order.
pub(crate) fn link(head: &ChainHead, keys: &AuditKeys, events: Vec<Hashed>) -> Vec<NewLink> {
    let mut seq = head.seq;
    let mut previous = head.content_sha256.clone();
    events
        .into_iter()
        .map(|hashed| {
            seq += 1;
            let chain_hmac = keys.seal(&hashed.content, previous.as_deref());
            let prev_content_sha256 = previous.replace(hashed.content.clone());
            new_link(hashed, prev_content_sha256, chain_hmac, seq)
        })
        .collect()
}

fn new_link(
    hashed: Hashed,
    prev_content_sha256: Option<String>,
    chain_hmac: String,
    chain_seq: i64,
) -> NewLink {
    let Hashed {
        event,
        documents,
        content,
    } = hashed;
    NewLink {
        id: event.id,
        event_type: event.kind,
        request_id: event.request_id,
        decision: event.decision,
        policy_set_id: event.policy_set_id,
        policy_set_version_id: event.policy_set_version_id,
        manifest_sha: event.manifest_sha,
        evaluation_status: event.evaluation_status,
        documents,
        occurred_at: instant(event.occurred_at),
        content_sha256: content,
        prev_content_sha256,
        chain_hmac,
        chain_seq,
        ingest_signature: event.signature,
        signed_data: event.data,
    }
}

fn micros(at: OffsetDateTime) -> UnixMicros {
    // Years 1 to 9999 in microseconds fit easily.
    UnixMicros(i64::try_from(at.unix_timestamp_nanos() / 1_000).unwrap_or_default())
}

fn instant(at: UnixMicros) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.0) * 1_000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}
