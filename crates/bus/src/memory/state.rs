//! What do the streams of the in-process bus hold, and what was given to whom?
//!
//! Questions take `&self`; every change is a [`Record`].

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use caracal_wire::stream::Fields;

use super::record::Record;
use crate::bus::{Extent, Pending};
use crate::entry::{Entry, EntryId};
use crate::error::BusError;
use crate::length::StreamLengths;

/// All streams.
#[derive(Debug)]
pub(super) struct State {
    streams: BTreeMap<String, Stream>,
    lengths: StreamLengths,
}

#[derive(Debug, Default)]
struct Stream {
    entries: BTreeMap<EntryId, Fields>,
    added: u64,
    last: EntryId,
    groups: BTreeMap<String, Group>,
}

#[derive(Debug, Default)]
struct Group {
    last_delivered: EntryId,
    used: bool,
    held: BTreeMap<EntryId, Held>,
}

#[derive(Debug)]
struct Held {
    consumer: String,
    at_ms: i64,
    deliveries: u64,
}

/// Pending entries that were idle long enough.
#[derive(Debug, Default)]
pub(super) struct Idle {
    /// Those still in the stream, with their deliveries so far.
    pub(super) held: Vec<(Entry, u64)>,
    /// Those that were trimmed away.
    pub(super) gone: Vec<EntryId>,
}

impl State {
    pub(super) fn new(lengths: StreamLengths) -> Self {
        Self {
            streams: BTreeMap::new(),
            lengths,
        }
    }

    /// Gives ids to a batch: the clock's, or the next ones when it stands still or went back.
    pub(super) fn number(&self, stream: &str, batch: &[Fields], now_ms: i64) -> Vec<Entry> {
        let mut last = self
            .streams
            .get(stream)
            .map_or(EntryId::ZERO, |stream| stream.last);
        let now = EntryId::new(u64::try_from(now_ms).unwrap_or(0), 0);
        let numbered = batch.iter().map(|fields| {
            last = now.max(last.next());
            Entry {
                id: last,
                fields: fields.clone(),
            }
        });
        numbered.collect()
    }

    pub(super) fn entries_after(&self, stream: &str, after: EntryId, count: usize) -> Vec<Entry> {
        let Some(stream) = self.streams.get(stream) else {
            return Vec::new();
        };
        let entries = stream
            .entries
            .range((Bound::Excluded(after), Bound::Unbounded))
            .take(count);
        entries
            .map(|(id, fields)| Entry {
                id: *id,
                fields: fields.clone(),
            })
            .collect()
    }

    pub(super) fn extent(&self, stream: &str) -> Extent {
        self.streams
            .get(stream)
            .map_or_else(Extent::default, |stream| Extent {
                added: stream.added,
                length: count(stream.entries.len()),
                first: stream.entries.keys().next().copied(),
                last: stream.last,
            })
    }

    pub(super) fn has_group(&self, stream: &str, group: &str) -> bool {
        self.group(stream, group).is_ok()
    }

    pub(super) fn is_used(&self, stream: &str, group: &str) -> bool {
        self.group(stream, group).is_ok_and(|group| group.used)
    }

    pub(super) fn undelivered(
        &self,
        stream: &str,
        group: &str,
        count: usize,
    ) -> Result<Vec<Entry>, BusError> {
        let after = self.group(stream, group)?.last_delivered;
        Ok(self.entries_after(stream, after, count))
    }

    pub(super) fn idle(
        &self,
        stream: &str,
        group: &str,
        min_idle: Duration,
        now_ms: i64,
        count: usize,
    ) -> Result<Idle, BusError> {
        let held = &self.group(stream, group)?.held;
        let idle = held
            .iter()
            .filter(|(_id, held)| held.idle(now_ms) >= min_idle)
            .take(count);
        let mut found = Idle::default();
        for (id, held) in idle {
            match self.streams.get(stream).and_then(|stream| stream.entries.get(id)) {
                Some(fields) => {
                    found.held.push((
                        Entry {
                            id: *id,
                            fields: fields.clone(),
                        },
                        held.deliveries,
                    ));
                }
                None => found.gone.push(*id),
            }
        }
        Ok(found)
    }

    pub(super) fn pending(&self, stream: &str, group: &str, now_ms: i64) -> Result<Pending, BusError> {
        let held = &self.group(stream, group)?.held;
        Ok(Pending {
            count: count(held.len()),
            oldest_idle: held.values().next().map(|held| held.idle(now_ms)),
        })
    }

    /// Entries before this one were acknowledged by every group with a consumer.
    pub(super) fn consumed_before(&self, stream: &str) -> Option<EntryId> {
        let groups = self
            .streams
            .get(stream)?
            .groups
            .values()
            .filter(|group| group.used);
        groups
            .map(|group| {
                group
                    .held
                    .keys()
                    .next()
                    .copied()
                    .unwrap_or_else(|| group.last_delivered.next())
            })
            .min()
    }

    pub(super) fn apply(&mut self, record: Record) {
        match record {
            Record::Stream {
                stream,
                removed,
                last,
            } => {
                let stream = self.streams.entry(stream).or_default();
                stream.added = removed;
                stream.last = last;
            }
            Record::Published { stream, entries } => {
                let kept = self.lengths.of(&stream);
                self.streams.entry(stream).or_default().append(entries, kept);
            }
            Record::GroupCreated { stream, group, after } => {
                let group = self
                    .streams
                    .entry(stream)
                    .or_default()
                    .groups
                    .entry(group)
                    .or_default();
                group.last_delivered = after;
            }
            Record::Delivered {
                stream,
                group,
                consumer,
                ids,
                at_ms,
            } => {
                if let Some(group) = self.group_mut(&stream, &group) {
                    group.deliver(&consumer, &ids, at_ms);
                }
            }
            Record::Held {
                stream,
                group,
                consumer,
                id,
                at_ms,
                deliveries,
            } => {
                if let Some(group) = self.group_mut(&stream, &group) {
                    group.held.insert(
                        id,
                        Held {
                            consumer,
                            at_ms,
                            deliveries,
                        },
                    );
                }
            }
            Record::Acknowledged { stream, group, ids } => {
                if let Some(group) = self.group_mut(&stream, &group) {
                    for id in &ids {
                        group.held.remove(id);
                    }
                }
            }
            Record::Trimmed { stream, kept_from } => {
                if let Some(stream) = self.streams.get_mut(&stream) {
                    stream.entries = stream.entries.split_off(&kept_from);
                }
            }
        }
    }

    /// The shortest list of changes that leads here.
    pub(super) fn to_records(&self) -> Vec<Record> {
        let mut records = Vec::new();
        for (name, stream) in &self.streams {
            records.push(Record::Stream {
                stream: name.clone(),
                removed: stream.added.saturating_sub(count(stream.entries.len())),
                last: stream.last,
            });
            for (id, fields) in &stream.entries {
                let entries = vec![Entry {
                    id: *id,
                    fields: fields.clone(),
                }];
                records.push(Record::Published {
                    stream: name.clone(),
                    entries,
                });
            }
            for (group_name, group) in &stream.groups {
                records.extend(group.to_records(name, group_name));
            }
        }
        records
    }

    fn group(&self, stream: &str, group: &str) -> Result<&Group, BusError> {
        self.streams
            .get(stream)
            .and_then(|stream| stream.groups.get(group))
            .ok_or_else(|| BusError::NoGroup {
                stream: stream.to_owned(),
                group: group.to_owned(),
            })
    }

    fn group_mut(&mut self, stream: &str, group: &str) -> Option<&mut Group> {
        self.streams.get_mut(stream)?.groups.get_mut(group)
    }
}

impl Stream {
    fn append(&mut self, entries: Vec<Entry>, kept: Option<usize>) {
        for entry in entries {
            self.added += 1;
            self.last = self.last.max(entry.id);
            self.entries.insert(entry.id, entry.fields);
        }
        while kept.is_some_and(|kept| self.entries.len() > kept) {
            self.entries.pop_first();
        }
    }
}

impl Group {
    fn deliver(&mut self, consumer: &str, ids: &[EntryId], at_ms: i64) {
        self.used = true;
        for id in ids {
            let held = self.held.entry(*id).or_insert_with(|| Held {
                consumer: String::new(),
                at_ms,
                deliveries: 0,
            });
            consumer.clone_into(&mut held.consumer);
            held.at_ms = at_ms;
            held.deliveries += 1;
            self.last_delivered = self.last_delivered.max(*id);
        }
    }

    fn to_records(&self, stream: &str, group: &str) -> Vec<Record> {
        let mut records = vec![Record::GroupCreated {
            stream: stream.to_owned(),
            group: group.to_owned(),
            after: self.last_delivered,
        }];
        if self.used {
            records.push(Record::Delivered {
                stream: stream.to_owned(),
                group: group.to_owned(),
                consumer: String::new(),
                ids: Vec::new(),
                at_ms: 0,
            });
        }
        records.extend(self.held.iter().map(|(id, held)| Record::Held {
            stream: stream.to_owned(),
            group: group.to_owned(),
            consumer: held.consumer.clone(),
            id: *id,
            at_ms: held.at_ms,
            deliveries: held.deliveries,
        }));
        records
    }
}

impl Held {
    fn idle(&self, now_ms: i64) -> Duration {
        Duration::from_millis(u64::try_from(now_ms.saturating_sub(self.at_ms)).unwrap_or(0))
    }
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
