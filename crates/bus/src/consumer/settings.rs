//! How is a group consumed?

use std::time::Duration;

use crate::bus::GroupStart;

/// How a group is consumed.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Stream to read.
    pub stream: String,
    /// Consumer group that shares the work.
    pub group: String,
    /// Name of this consumer, unique among the running ones: `{service}-{hostname}-{pid}`.
    pub consumer: String,
    /// Most entries given to the handler at once.
    pub batch: usize,
    /// How long one read waits for news.
    pub block: Duration,
    /// How long entries gather after a batch that was not full, before they are read together: handling many at once costs less than
    /// handling each. What comes after a pause longer than this is read at once. Default zero.
    pub gather: Duration,
    /// How long an entry stays with a consumer that does not acknowledge it before another one takes it over.
    pub min_idle: Duration,
    /// Deliveries after which an entry that is still retried becomes a dead letter.
    pub deliveries_max: u64,
    /// Where the group begins when it has to be created.
    pub start: GroupStart,
    /// Whether entries must carry `_sig`; those that do not are dropped and acknowledged. Off for the audit stream,
    /// whose entries carry a signature of their own that the handler checks.
    pub signed: bool,
}

impl Settings {
    /// The usual settings: batches of 100, reads that wait 5 s, takeover after 30 s, five deliveries, signatures
    /// required, a missing group created at the end of the stream.
    pub fn new(stream: &str, group: &str, consumer: &str) -> Self {
        Self {
            stream: stream.to_owned(),
            group: group.to_owned(),
            consumer: consumer.to_owned(),
            batch: 100,
            block: Duration::from_secs(5),
            gather: Duration::ZERO,
            min_idle: Duration::from_secs(30),
            deliveries_max: 5,
            start: GroupStart::End,
            signed: true,
        }
    }
}
