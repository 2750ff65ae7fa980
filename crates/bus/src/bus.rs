//! What an event bus can do, whoever keeps the streams.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use caracal_wire::stream::Fields;

use crate::entry::{Entry, EntryId};
use crate::error::BusError;

/// Streams kept longer than this many entries are shortened by the next publication
/// (docs/contract/event-bus.md, "Length").
pub const STREAM_LENGTH_DEFAULT: usize = 100_000;

/// Where a consumer group begins in a stream that already has entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupStart {
    /// With the oldest entry still kept.
    Beginning,
    /// With the first entry published after the group exists.
    End,
}

/// What a consumer group has been given and has not acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// Number of entries delivered and not acknowledged.
    pub count: u64,
    /// How long ago the least recently delivered of them was last delivered; `None` when there are none.
    pub oldest_idle: Option<Duration>,
}

/// How far a stream reaches at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Entries ever added, those removed since included.
    pub added: u64,
    /// Entries now kept.
    pub length: u64,
    /// The oldest entry still kept.
    pub first: Option<EntryId>,
    /// The newest id ever given out; [`EntryId::ZERO`] for a stream that never had an entry.
    pub last: EntryId,
}

impl Extent {
    /// Entries that were added once and are gone.
    pub const fn removed(&self) -> u64 {
        self.added.saturating_sub(self.length)
    }
}

/// Whether a claim was the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The store remembers no claim of this key.
    First {
        /// Since when the store remembers, in Unix milliseconds by its own clock. A store that was started anew, or another
        /// one that took its place, may have forgotten claims that were made before: for a key that is older the answer
        /// decides nothing (docs/contract/event-bus.md, "Claims"). The smallest number for a store that lives and dies with
        /// this process.
        remembers_since_unix_ms: i64,
    },
    /// Somebody has claimed the key before.
    Repeated,
}

impl Claim {
    /// Whether the store remembers no earlier claim.
    pub fn is_first(self) -> bool {
        matches!(self, Self::First { .. })
    }
}

/// Ordered streams of messages, consumer groups, and first-use claims.
///
/// Two implementations pass one conformance suite: [`crate::RedisBus`] and [`crate::MemoryBus`].
/// Every method returns within a bounded time: the response timeout of the implementation, plus `block` where
/// there is one.
#[async_trait]
pub trait Bus: Send + Sync + Debug {
    /// Appends `batch` to `stream` in order and returns the ids given out. One round trip for the whole batch,
    /// none for an empty one. The batch is taken as a whole or not at all; after [`BusError::Unavailable`] it is
    /// unknown which.
    ///
    /// # Errors
    /// [`BusError`] when the bus did not confirm the batch.
    async fn publish(&self, stream: &str, batch: &[Fields]) -> Result<Vec<EntryId>, BusError>;

    /// The entries strictly after each position, oldest first, at most `count` for each stream; waits up to
    /// `block` for the first one (zero does not wait). Streams without news are absent from the answer.
    ///
    /// # Errors
    /// [`BusError`] when the bus did not answer.
    async fn read(
        &self,
        from: &[(&str, EntryId)],
        count: usize,
        block: Duration,
    ) -> Result<Vec<(String, Vec<Entry>)>, BusError>;

    /// How far each of `streams` reaches, in the order asked, in one round trip. A stream that does not exist
    /// has the default extent.
    ///
    /// # Errors
    /// [`BusError`] when the bus did not answer.
    async fn extents(&self, streams: &[&str]) -> Result<Vec<Extent>, BusError>;

    /// The newest id ever given out in `stream`, or [`EntryId::ZERO`].
    ///
    /// # Errors
    /// [`BusError`] when the bus did not answer.
    async fn last_id(&self, stream: &str) -> Result<EntryId, BusError> {
        Ok(self
            .extents(&[stream])
            .await?
            .first()
            .map_or(EntryId::ZERO, |extent| extent.last))
    }

    /// The oldest entry still kept in `stream`.
    ///
    /// # Errors
    /// [`BusError`] when the bus did not answer.
    async fn first_id(&self, stream: &str) -> Result<Option<EntryId>, BusError> {
        Ok(self
            .extents(&[stream])
            .await?
            .first()
            .and_then(|extent| extent.first))
    }

    /// Names the life of the store: a different answer means that it was started anew and may have lost entries
    /// it had confirmed.
    ///
    /// # Errors
    /// [`BusError`] when the bus did not answer.
    async fn incarnation(&self) -> Result<String, BusError>;

    /// Creates `group` on `stream` (and the stream itself) unless it exists; `true` when it was created.
    ///
    /// # Errors
    /// [`BusError`] when the bus did not confirm.
    async fn ensure_group(&self, stream: &str, group: &str, from: GroupStart) -> Result<bool, BusError>;

    /// Up to `count` entries never delivered to `group` before, now pending for `consumer`; waits up to `block`.
    ///
    /// # Errors
    /// [`BusError::NoGroup`] when the group does not exist, else [`BusError`] when the bus did not answer.
    async fn read_group(
        &self,
        stream: &str,
        group: &str,
        consumer: &str,
        count: usize,
        block: Duration,
    ) -> Result<Vec<Entry>, BusError>;

    /// Marks entries as done for `group`; ids that are not pending are ignored.
    ///
    /// # Errors
    /// [`BusError`] when the bus did not confirm.
    async fn ack(&self, stream: &str, group: &str, ids: &[EntryId]) -> Result<(), BusError>;

    /// Takes over up to `count` entries delivered at least `min_idle` ago and not acknowledged, each with the
    /// number of its deliveries, this one included. Pending entries that were trimmed away meanwhile are forgotten.
    ///
    /// # Errors
    /// [`BusError::NoGroup`] when the group does not exist, else [`BusError`] when the bus did not answer.
    async fn reclaim(
        &self,
        stream: &str,
        group: &str,
        consumer: &str,
        min_idle: Duration,
        count: usize,
    ) -> Result<Vec<(Entry, u64)>, BusError>;

    /// What `group` was given and has not acknowledged.
    ///
    /// # Errors
    /// [`BusError::NoGroup`] when the group does not exist, else [`BusError`] when the bus did not answer.
    async fn pending(&self, stream: &str, group: &str) -> Result<Pending, BusError>;

    /// Removes the entries of `stream` that every group with a consumer has acknowledged; returns how many went.
    /// A group nobody ever read in holds nothing back; without any consumer nothing is removed.
    ///
    /// # Errors
    /// [`BusError`] when the bus did not answer.
    async fn trim_consumed(&self, stream: &str) -> Result<u64, BusError>;

    /// Remembers `key` until `expires_at_unix_ms`: [`Claim::First`] for the first caller, [`Claim::Repeated`] for every
    /// other one until then. One round trip.
    ///
    /// # Errors
    /// [`BusError::NotRemembered`] when the store holds the expiry for past already (its clock is ahead, or the
    /// caller did not check), so that a second use could not be noticed; else [`BusError`] when the bus did not
    /// confirm. Whoever gets an error must treat the key as used.
    async fn claim_once(&self, key: &str, value: &str, expires_at_unix_ms: i64) -> Result<Claim, BusError>;

    /// Forgets the claim of `key` that was made with `value`, because nothing came of it: the next one is the first again. A
    /// claim with another value stays: whoever claims and may give back uses a value of nobody else's, and may then give back
    /// what it does not know to have got. One round trip. Whoever gets an error must leave the key used.
    ///
    /// # Errors
    /// [`BusError`] when the bus did not confirm.
    async fn give_back(&self, key: &str, value: &str) -> Result<(), BusError>;

    /// Since when the store that answers now remembers every claim it has confirmed, in Unix milliseconds by its own
    /// clock; see [`Claim::First`]. No round trip while the connection holds.
    ///
    /// # Errors
    /// [`BusError`] when the bus did not answer.
    async fn remembers_since(&self) -> Result<i64, BusError>;

    /// Whether the bus answers.
    ///
    /// # Errors
    /// [`BusError`] when it does not.
    async fn ping(&self) -> Result<(), BusError>;

    /// Command round trips begun so far: one for each call of every method of this trait except [`Bus::read`],
    /// [`Bus::read_group`] (which wait on connections of their own, never on a request path) and this one;
    /// [`Bus::trim_consumed`] counts each of its steps; an empty batch counts nothing. Retries do not exist, so
    /// a claim is always exactly one.
    fn round_trips(&self) -> u64;
}
