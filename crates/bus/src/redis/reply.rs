//! What did Redis answer?
//!
//! Text that is not UTF-8 is read with replacement characters: such an entry fails its signature and is dropped by
//! whoever checks it, instead of stopping the stream for every reader.

use std::time::Duration;

use redis::Value;

use crate::bus::Extent;
use crate::entry::{Entry, EntryId};
use crate::error::BusError;

/// One entry of the pending list.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingEntry {
    pub(super) idle: Duration,
    pub(super) deliveries: u64,
}

/// A group as `XINFO GROUPS` describes it.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) name: String,
    pub(super) consumers: u64,
    pub(super) pending: u64,
    pub(super) last_delivered: EntryId,
}

/// An entry id.
pub(super) fn id(value: &Value) -> Result<EntryId, BusError> {
    let id = match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()),
        other => text(other).and_then(|text| text.parse().ok()),
    };
    id.ok_or(BusError::Unexpected("id of a stream entry"))
}

/// The answer of `XREAD` and `XREADGROUP`; nil when there is no news.
pub(super) fn streams(value: Value) -> Result<Vec<(String, Vec<Entry>)>, BusError> {
    let malformed = || BusError::Unexpected("entries of streams");
    let pairs = match value {
        Value::Nil => return Ok(Vec::new()),
        Value::Map(pairs) => pairs,
        Value::Array(streams) => streams
            .into_iter()
            .map(|stream| pair(stream).ok_or_else(malformed))
            .collect::<Result<_, _>>()?,
        _ => return Err(malformed()),
    };
    pairs
        .into_iter()
        .map(|(name, list)| Ok((text(&name).ok_or_else(malformed)?, entries(list)?)))
        .collect()
}

/// The answer of `XAUTOCLAIM`: where to go on, and the entries taken over.
pub(super) fn claimed(value: Value) -> Result<(String, Vec<Entry>), BusError> {
    let malformed = || BusError::Unexpected("entries taken over");
    let Value::Array(parts) = value else {
        return Err(malformed());
    };
    let mut parts = parts.into_iter();
    let next = parts.next().as_ref().and_then(text).ok_or_else(malformed)?;
    Ok((next, entries(parts.next().ok_or_else(malformed)?)?))
}

/// The answer of `XINFO STREAM`; a stream that does not exist has the default extent.
pub(super) fn extent(value: Value) -> Result<Extent, BusError> {
    if let Value::ServerError(error) = &value {
        // "ERR no such key"
        return if error
            .details()
            .is_some_and(|details| details.contains("no such key"))
        {
            Ok(Extent::default())
        } else {
            Err(super::link::classify(error.clone().into()))
        };
    }
    let mut extent = Extent::default();
    let mut counts_entries = false;
    for (name, value) in pairs(value).ok_or(BusError::Unexpected("description of a stream"))? {
        match text(&name).as_deref() {
            Some("length") => extent.length = number(&value).unwrap_or(0),
            Some("last-generated-id") => extent.last = id(&value)?,
            Some("entries-added") => {
                counts_entries = true;
                extent.added = number(&value).unwrap_or(0);
            }
            Some("first-entry") => extent.first = entry(value)?.map(|entry| entry.id),
            _ => {}
        }
    }
    if counts_entries {
        Ok(extent)
    } else {
        Err(BusError::Unexpected("Redis 7 or later is needed"))
    }
}

/// The `run_id` line of `INFO server`.
pub(super) fn run_id(value: &Value) -> Result<String, BusError> {
    let info = text(value).ok_or(BusError::Unexpected("description of the server"))?;
    let line = info.lines().find_map(|line| line.strip_prefix("run_id:"));
    line.map(|id| id.trim().to_owned())
        .ok_or(BusError::Unexpected("description of the server"))
}

/// The answer of `XPENDING` without a range: how many entries, and the lowest id among them.
pub(super) fn pending_summary(value: Option<Value>) -> Result<(u64, Option<EntryId>), BusError> {
    let malformed = || BusError::Unexpected("summary of pending entries");
    let Some(Value::Array(parts)) = value else {
        return Err(malformed());
    };
    let count = parts.first().and_then(number).ok_or_else(malformed)?;
    let lowest = match parts.get(1) {
        None | Some(Value::Nil) => None,
        Some(lowest) => Some(id(lowest)?),
    };
    Ok((count, lowest))
}

/// The first line of the answer of `XPENDING` with a range.
pub(super) fn pending_entry(value: Value) -> Option<PendingEntry> {
    let Value::Array(lines) = value else { return None };
    let Value::Array(line) = lines.into_iter().next()? else {
        return None;
    };
    let idle = Duration::from_millis(line.get(2).and_then(number)?);
    Some(PendingEntry {
        idle,
        deliveries: line.get(3).and_then(number)?,
    })
}

/// The answer of `XINFO GROUPS`.
pub(super) fn groups(value: Value) -> Result<Vec<Group>, BusError> {
    let malformed = || BusError::Unexpected("description of the groups");
    let Value::Array(groups) = value else {
        return Err(malformed());
    };
    groups
        .into_iter()
        .map(|group| {
            let (mut name, mut consumers, mut pending, mut last_delivered) = (None, 0, 0, EntryId::ZERO);
            for (key, value) in pairs(group).ok_or_else(malformed)? {
                match text(&key).as_deref() {
                    Some("name") => name = text(&value),
                    Some("consumers") => consumers = number(&value).unwrap_or(0),
                    Some("pending") => pending = number(&value).unwrap_or(0),
                    Some("last-delivered-id") => last_delivered = id(&value)?,
                    _ => {}
                }
            }
            Ok(Group {
                name: name.ok_or_else(malformed)?,
                consumers,
                pending,
                last_delivered,
            })
        })
        .collect()
}

/// A whole number.
pub(super) fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        other => text(other)?.parse().ok(),
    }
}

fn entries(value: Value) -> Result<Vec<Entry>, BusError> {
    let Value::Array(entries) = value else {
        return Err(BusError::Unexpected("list of entries"));
    };
    entries
        .into_iter()
        .filter_map(|value| entry(value).transpose())
        .collect()
}

/// An entry, or nothing when it was removed from the stream meanwhile.
fn entry(value: Value) -> Result<Option<Entry>, BusError> {
    let malformed = || BusError::Unexpected("entry of a stream");
    if matches!(value, Value::Nil) {
        return Ok(None);
    }
    let (position, fields) = pair(value).ok_or_else(malformed)?;
    if matches!(fields, Value::Nil) {
        return Ok(None);
    }
    let fields = pairs(fields).ok_or_else(malformed)?;
    let fields = fields
        .iter()
        .map(|(name, value)| text(name).zip(text(value)).ok_or_else(malformed))
        .collect::<Result<_, _>>()?;
    Ok(Some(Entry {
        id: id(&position)?,
        fields,
    }))
}

fn pair(value: Value) -> Option<(Value, Value)> {
    let Value::Array(parts) = value else { return None };
    let mut parts = parts.into_iter();
    Some((parts.next()?, parts.next()?))
}

fn pairs(value: Value) -> Option<Vec<(Value, Value)>> {
    match value {
        Value::Map(pairs) => Some(pairs),
        Value::Array(flat) => {
            let mut pairs = Vec::with_capacity(flat.len() / 2);
            let mut flat = flat.into_iter();
            while let Some(key) = flat.next() {
                pairs.push((key, flat.next()?));
            }
            Some(pairs)
        }
        _ => None,
    }
}

pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text.clone()),
        Value::Okay => Some("OK".to_owned()),
        Value::Int(number) => Some(number.to_string()),
        _ => None,
    }
}
