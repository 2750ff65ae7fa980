//! How does an event become a link of its zone's chain? By docs/contract/audit-events.md, "The chain".

use std::borrow::Cow;

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
#[derive(Debug)]
pub(crate) struct Event<'e> {
    pub(crate) id: Cow<'e, str>,
    pub(crate) kind: Cow<'e, str>,
    pub(crate) request_id: Option<Cow<'e, str>>,
    pub(crate) decision: Option<Cow<'e, str>>,
    pub(crate) policy_set_id: Option<Cow<'e, str>>,
    pub(crate) policy_set_version_id: Option<Cow<'e, str>>,
    pub(crate) manifest_sha: Option<Cow<'e, str>>,
    pub(crate) evaluation_status: Option<Cow<'e, str>>,
    pub(crate) documents: Documents,
    /// Whether the database will give the documents back as they stand here; otherwise it has to be asked how.
    pub(crate) is_normal: bool,
    pub(crate) occurred_at: UnixMicros,
    pub(crate) signature: Option<&'e str>,
    /// What the producer signed.
    pub(crate) data: &'e str,
}

impl Event<'_> {
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
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hashed<'e> {
    pub(crate) event: &'e Event<'e>,
    /// The documents as the database will give them back.
    pub(crate) documents: &'e Documents,
    pub(crate) content: &'e str,
}

/// Puts events after `head`, in order.
pub(crate) fn link<'e>(head: &'e ChainHead, keys: &AuditKeys, events: &[Hashed<'e>]) -> Vec<NewLink<'e>> {
    let mut seq = head.seq;
    let mut previous = head.content_sha256.as_deref();
    events
        .iter()
        .map(|hashed| {
            seq += 1;
            let prev_content_sha256 = previous.replace(hashed.content);
            new_link(*hashed, prev_content_sha256, keys, seq)
        })
        .collect()
}

fn new_link<'e>(
    hashed: Hashed<'e>,
    prev_content_sha256: Option<&'e str>,
    keys: &AuditKeys,
    chain_seq: i64,
) -> NewLink<'e> {
    let Hashed {
        event,
        documents,
        content,
    } = hashed;
    NewLink {
        id: &event.id,
        event_type: &event.kind,
        request_id: event.request_id.as_deref(),
        decision: event.decision.as_deref(),
        policy_set_id: event.policy_set_id.as_deref(),
        policy_set_version_id: event.policy_set_version_id.as_deref(),
        manifest_sha: event.manifest_sha.as_deref(),
        evaluation_status: event.evaluation_status.as_deref(),
        documents,
        occurred_at: instant(event.occurred_at),
        content_sha256: content,
        prev_content_sha256,
        chain_hmac: keys.seal(content, prev_content_sha256),
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
