//! Which entries of a stream has every consumer group done with?

use redis::{Pipeline, cmd};

use super::{RedisBus, link, reply};
use crate::entry::EntryId;
use crate::error::BusError;

/// See [`crate::Bus::trim_consumed`]. Up to three round trips.
///
/// What is removed was acknowledged when its group was looked at, and acknowledgements are never taken back, so the
/// steps need no transaction.
pub(super) async fn consumed(bus: &RedisBus, stream: &str) -> Result<u64, BusError> {
    let groups = match bus.command(cmd("XINFO").arg("GROUPS").arg(stream)).await {
        Ok(groups) => reply::groups(groups)?,
        // "ERR no such key"
        Err(error) if link::has_code(&error, "ERR") => return Ok(0),
        Err(error) => return Err(error),
    };
    let used: Vec<_> = groups.into_iter().filter(|group| group.consumers > 0).collect();
    let lowest_pending = lowest_pending(bus, stream, &used).await?;
    let kept_from = used
        .iter()
        .zip(lowest_pending)
        .map(|(group, lowest)| lowest.unwrap_or_else(|| group.last_delivered.next()))
        .min();
    let Some(kept_from) = kept_from else { return Ok(0) };
    let mut trim = cmd("XTRIM");
    trim.arg(stream).arg("MINID").arg(kept_from.to_string());
    let removed = bus.command(&trim).await?;
    reply::number(&removed).ok_or(BusError::Unexpected("number of entries removed"))
}

/// For each group the lowest entry it was given and has not acknowledged.
async fn lowest_pending(
    bus: &RedisBus,
    stream: &str,
    groups: &[reply::Group],
) -> Result<Vec<Option<EntryId>>, BusError> {
    if groups.iter().all(|group| group.pending == 0) {
        return Ok(vec![None; groups.len()]);
    }
    let mut pipeline = Pipeline::with_capacity(groups.len());
    for group in groups {
        pipeline.cmd("XPENDING").arg(stream).arg(&group.name);
    }
    let answers = bus.pipeline(&pipeline).await?;
    answers
        .into_iter()
        .map(|answer| reply::pending_summary(Some(answer)).map(|(_count, lowest)| lowest))
        .collect()
}
