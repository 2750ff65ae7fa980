//! What can change in the in-process bus, and how is a change written down?

use caracal_wire::stream::Fields;
use serde::{Deserialize, Serialize};

use crate::entry::{Entry, EntryId};

/// One change. Applying the same changes in the same order gives the same state.
#[derive(Clone, Debug)]
pub(super) enum Record {
    /// A stream of which this many entries were removed already and this id was the last given out. In a compacted
    /// journal it comes before the stream's entries.
    Stream {
        stream: String,
        removed: u64,
        last: EntryId,
    },
    /// Entries were appended.
    Published { stream: String, entries: Vec<Entry> },
    /// A group begins after this entry.
    GroupCreated {
        stream: String,
        group: String,
        after: EntryId,
    },
    /// A consumer was given entries, for the first time or again. Without ids: the group has a consumer now.
    Delivered {
        stream: String,
        group: String,
        consumer: String,
        ids: Vec<EntryId>,
        at_ms: i64,
    },
    /// A pending entry as a compacted journal keeps it.
    Held {
        stream: String,
        group: String,
        consumer: String,
        id: EntryId,
        at_ms: i64,
        deliveries: u64,
    },
    /// Entries are no longer pending.
    Acknowledged {
        stream: String,
        group: String,
        ids: Vec<EntryId>,
    },
    /// Entries before this one were removed.
    Trimmed { stream: String, kept_from: EntryId },
}

/// The written form.
#[derive(Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
enum Raw {
    Stream {
        stream: String,
        removed: u64,
        last: String,
    },
    Published {
        stream: String,
        entries: Vec<(String, Fields)>,
    },
    GroupCreated {
        stream: String,
        group: String,
        after: String,
    },
    Delivered {
        stream: String,
        group: String,
        consumer: String,
        ids: Vec<String>,
        at_ms: i64,
    },
    Held {
        stream: String,
        group: String,
        consumer: String,
        id: String,
        at_ms: i64,
        deliveries: u64,
    },
    Acknowledged {
        stream: String,
        group: String,
        ids: Vec<String>,
    },
    Trimmed {
        stream: String,
        kept_from: String,
    },
}

impl Record {
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        let texts = |ids: &[EntryId]| ids.iter().map(EntryId::to_string).collect();
        let raw = match self.clone() {
            Self::Stream {
                stream,
                removed,
                last,
            } => Raw::Stream {
                stream,
                removed,
                last: last.to_string(),
            },
            Self::Published { stream, entries } => Raw::Published {
                stream,
                entries: entries
                    .into_iter()
                    .map(|entry| (entry.id.to_string(), entry.fields))
                    .collect(),
            },
            Self::GroupCreated { stream, group, after } => Raw::GroupCreated {
                stream,
                group,
                after: after.to_string(),
            },
            Self::Delivered {
                stream,
                group,
                consumer,
                ids,
                at_ms,
            } => Raw::Delivered {
                stream,
                group,
                consumer,
                ids: texts(&ids),
                at_ms,
            },
            Self::Held {
                stream,
                group,
                consumer,
                id,
                at_ms,
                deliveries,
            } => Raw::Held {
                stream,
                group,
                consumer,
                id: id.to_string(),
                at_ms,
                deliveries,
            },
            Self::Acknowledged { stream, group, ids } => Raw::Acknowledged {
                stream,
                group,
                ids: texts(&ids),
            },
            Self::Trimmed { stream, kept_from } => Raw::Trimmed {
                stream,
                kept_from: kept_from.to_string(),
            },
        };
        serde_json::to_vec(&raw)
    }

    /// `None` when the bytes are not a change this version knows.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let parsed = |ids: Vec<String>| {
            ids.iter()
                .map(|id| id.parse().ok())
                .collect::<Option<Vec<EntryId>>>()
        };
        Some(match serde_json::from_slice(bytes).ok()? {
            Raw::Stream {
                stream,
                removed,
                last,
            } => Self::Stream {
                stream,
                removed,
                last: last.parse().ok()?,
            },
            Raw::Published { stream, entries } => {
                let entries = entries.into_iter();
                let entries = entries.map(|(id, fields)| {
                    Some(Entry {
                        id: id.parse().ok()?,
                        fields,
                    })
                });
                Self::Published {
                    stream,
                    entries: entries.collect::<Option<_>>()?,
                }
            }
            Raw::GroupCreated { stream, group, after } => Self::GroupCreated {
                stream,
                group,
                after: after.parse().ok()?,
            },
            Raw::Delivered {
                stream,
                group,
                consumer,
                ids,
                at_ms,
            } => Self::Delivered {
                stream,
                group,
                consumer,
                ids: parsed(ids)?,
                at_ms,
            },
            Raw::Held {
                stream,
                group,
                consumer,
                id,
                at_ms,
                deliveries,
            } => Self::Held {
                stream,
                group,
                consumer,
                id: id.parse().ok()?,
                at_ms,
                deliveries,
            },
            Raw::Acknowledged { stream, group, ids } => Self::Acknowledged {
                stream,
                group,
                ids: parsed(ids)?,
            },
            Raw::Trimmed { stream, kept_from } => Self::Trimmed {
                stream,
                kept_from: kept_from.parse().ok()?,
            },
        })
    }
}
