//! The event bus inside one process, for `caracal dev` and for tests: the same behaviour as on Redis, without Redis.
//!
//! With a journal directory it keeps streams, groups and pending entries over a restart; first-use claims are never
//! kept (a gateway without Redis accepts only mandates issued after its own start).

mod claims;
mod journal;
mod record;
mod state;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use caracal_wire::stream::Fields;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::bus::{Bus, Claim, Extent, GroupStart, Pending};
use crate::clock::StoreClock;
use crate::directory::DirectoryError;
use crate::entry::{Entry, EntryId};
use crate::error::BusError;
use crate::length::StreamLengths;
use claims::Claims;
use journal::Journal;
use record::Record;
use state::State;

/// Claims remembered at the same time. At a thousand requests a second and mandates of five minutes, three times
/// what is needed; about 150 bytes each.
const CLAIMS_MAX_DEFAULT: usize = 1_000_000;

/// How a [`MemoryBus`] behaves.
#[derive(Clone, Debug)]
pub struct MemorySettings {
    /// How many entries each stream keeps.
    pub lengths: StreamLengths,
    /// Claims remembered at the same time; one more is refused with [`BusError::Full`].
    pub claims_max: usize,
    /// Where entry ids, idle times and the expiry of claims come from.
    pub clock: StoreClock,
}

impl Default for MemorySettings {
    fn default() -> Self {
        Self {
            lengths: StreamLengths::default(),
            claims_max: CLAIMS_MAX_DEFAULT,
            clock: StoreClock::system(),
        }
    }
}

/// The bus inside this process.
#[derive(Debug)]
pub struct MemoryBus {
    inside: Mutex<Inside>,
    claims: Mutex<Claims>,
    news: Notify,
    clock: StoreClock,
    incarnation: String,
    round_trips: AtomicU64,
}

/// Changed together, under one lock, held for one operation.
#[derive(Debug)]
struct Inside {
    state: State,
    journal: Option<Journal>,
}

impl Inside {
    /// Every change goes through here: first to the journal, then to the state, so that a restart comes to the same.
    fn apply(&mut self, record: Record) -> Result<(), BusError> {
        if let Some(journal) = &mut self.journal {
            journal.append(&record)?;
        }
        self.state.apply(record);
        if let Some(journal) = &mut self.journal
            && journal.is_overgrown()
            && let Err(error) = journal.compact(&self.state)
        {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the event journal could not be compacted"
            );
        }
        Ok(())
    }
}

impl Default for MemoryBus {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryBus {
    /// An empty bus that forgets everything when the process ends.
    pub fn new() -> Self {
        Self::with(MemorySettings::default())
    }

    /// As [`MemoryBus::new`], with settings of one's own.
    pub fn with(settings: MemorySettings) -> Self {
        let state = State::new(settings.lengths.clone());
        Self::from_parts(state, None, settings)
    }

    /// A bus that keeps its streams in `directory` and takes up where the last one there ended.
    ///
    /// # Errors
    /// [`DirectoryError::InUse`] when another process has it open, else [`DirectoryError::Io`].
    pub fn open(directory: &Path) -> Result<Self, DirectoryError> {
        Self::open_with(directory, MemorySettings::default())
    }

    /// As [`MemoryBus::open`], with settings of one's own.
    ///
    /// # Errors
    /// [`DirectoryError::InUse`] when another process has it open, else [`DirectoryError::Io`].
    pub fn open_with(directory: &Path, settings: MemorySettings) -> Result<Self, DirectoryError> {
        let mut state = State::new(settings.lengths.clone());
        let journal = Journal::open(directory, &mut state)?;
        Ok(Self::from_parts(state, Some(journal), settings))
    }

    fn from_parts(state: State, journal: Option<Journal>, settings: MemorySettings) -> Self {
        Self {
            inside: Mutex::new(Inside { state, journal }),
            claims: Mutex::new(Claims::new(settings.claims_max)),
            news: Notify::new(),
            incarnation: format!("{}-{}", std::process::id(), settings.clock.unix_ms()),
            clock: settings.clock,
            round_trips: AtomicU64::new(0),
        }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn command(&self) -> MutexGuard<'_, Inside> {
        self.round_trips.fetch_add(1, Ordering::Relaxed);
        self.inside()
    }

    /// Looks with `look` until it finds something or `block` has passed.
    async fn wait_for<T>(
        &self,
        block: Duration,
        mut look: impl FnMut() -> Result<Vec<T>, BusError> + Send,
    ) -> Result<Vec<T>, BusError> {
        let deadline = Instant::now() + block;
        loop {
            // Registered before looking, so that what is published in between is not missed.
            let mut news = std::pin::pin!(self.news.notified());
            news.as_mut().enable();
            let found = look()?;
            if !found.is_empty() || tokio::time::timeout_at(deadline, news).await.is_err() {
                return Ok(found);
            }
        }
    }
}

#[async_trait]
impl Bus for MemoryBus {
    async fn publish(&self, stream: &str, batch: &[Fields]) -> Result<Vec<EntryId>, BusError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        if batch.iter().any(Fields::is_empty) {
            return Err(BusError::Refused("an entry needs a field".into()));
        }
        let ids = {
            let now_ms = self.clock.unix_ms();
            let mut inside = self.command();
            let entries = inside.state.number(stream, batch, now_ms);
            let ids = entries.iter().map(|entry| entry.id).collect();
            inside.apply(Record::Published {
                stream: stream.to_owned(),
                entries,
            })?;
            ids
        };
        self.news.notify_waiters();
        Ok(ids)
    }

    async fn read(
        &self,
        from: &[(&str, EntryId)],
        count: usize,
        block: Duration,
    ) -> Result<Vec<(String, Vec<Entry>)>, BusError> {
        self.wait_for(block, || {
            let inside = self.inside();
            let read = from.iter().map(|(stream, after)| {
                (
                    (*stream).to_owned(),
                    inside.state.entries_after(stream, *after, count),
                )
            });
            Ok(read.filter(|(_stream, entries)| !entries.is_empty()).collect())
        })
        .await
    }

    async fn extents(&self, streams: &[&str]) -> Result<Vec<Extent>, BusError> {
        let inside = self.command();
        Ok(streams.iter().map(|stream| inside.state.extent(stream)).collect())
    }

    async fn incarnation(&self) -> Result<String, BusError> {
        self.round_trips.fetch_add(1, Ordering::Relaxed);
        Ok(self.incarnation.clone())
    }

    async fn ensure_group(&self, stream: &str, group: &str, from: GroupStart) -> Result<bool, BusError> {
        let mut inside = self.command();
        if inside.state.has_group(stream, group) {
            return Ok(false);
        }
        let after = match from {
            GroupStart::Beginning => EntryId::ZERO,
            GroupStart::End => inside.state.extent(stream).last,
        };
        inside.apply(Record::GroupCreated {
            stream: stream.to_owned(),
            group: group.to_owned(),
            after,
        })?;
        Ok(true)
    }

    async fn read_group(
        &self,
        stream: &str,
        group: &str,
        consumer: &str,
        count: usize,
        block: Duration,
    ) -> Result<Vec<Entry>, BusError> {
        self.wait_for(block, || {
            let mut inside = self.inside();
            let entries = inside.state.undelivered(stream, group, count)?;
            if !entries.is_empty() || !inside.state.is_used(stream, group) {
                inside.apply(Record::Delivered {
                    stream: stream.to_owned(),
                    group: group.to_owned(),
                    consumer: consumer.to_owned(),
                    ids: entries.iter().map(|entry| entry.id).collect(),
                    at_ms: self.clock.unix_ms(),
                })?;
            }
            Ok(entries)
        })
        .await
    }

    async fn ack(&self, stream: &str, group: &str, ids: &[EntryId]) -> Result<(), BusError> {
        if ids.is_empty() {
            return Ok(());
        }
        self.command().apply(Record::Acknowledged {
            stream: stream.to_owned(),
            group: group.to_owned(),
            ids: ids.to_vec(),
        })
    }

    async fn reclaim(
        &self,
        stream: &str,
        group: &str,
        consumer: &str,
        min_idle: Duration,
        count: usize,
    ) -> Result<Vec<(Entry, u64)>, BusError> {
        let now_ms = self.clock.unix_ms();
        let mut inside = self.command();
        let idle = inside.state.idle(stream, group, min_idle, now_ms, count)?;
        if !idle.gone.is_empty() {
            inside.apply(Record::Acknowledged {
                stream: stream.to_owned(),
                group: group.to_owned(),
                ids: idle.gone,
            })?;
        }
        if !idle.held.is_empty() {
            inside.apply(Record::Delivered {
                stream: stream.to_owned(),
                group: group.to_owned(),
                consumer: consumer.to_owned(),
                ids: idle.held.iter().map(|(entry, _deliveries)| entry.id).collect(),
                at_ms: now_ms,
            })?;
        }
        Ok(idle
            .held
            .into_iter()
            .map(|(entry, deliveries)| (entry, deliveries + 1))
            .collect())
    }

    async fn pending(&self, stream: &str, group: &str) -> Result<Pending, BusError> {
        let now_ms = self.clock.unix_ms();
        self.command().state.pending(stream, group, now_ms)
    }

    async fn trim_consumed(&self, stream: &str) -> Result<u64, BusError> {
        let mut inside = self.command();
        let Some(kept_from) = inside.state.consumed_before(stream) else {
            return Ok(0);
        };
        let before = inside.state.extent(stream).length;
        inside.apply(Record::Trimmed {
            stream: stream.to_owned(),
            kept_from,
        })?;
        Ok(before - inside.state.extent(stream).length)
    }

    async fn claim_once(&self, key: &str, value: &str, expires_at_unix_ms: i64) -> Result<Claim, BusError> {
        self.round_trips.fetch_add(1, Ordering::Relaxed);
        let now_ms = self.clock.unix_ms();
        let is_first = self.claims.lock().unwrap_or_else(PoisonError::into_inner).claim(
            key,
            value,
            expires_at_unix_ms,
            now_ms,
        )?;
        Ok(if is_first {
            Claim::First {
                remembers_since_unix_ms: i64::MIN,
            }
        } else {
            Claim::Repeated
        })
    }

    async fn give_back(&self, key: &str, value: &str) -> Result<(), BusError> {
        self.round_trips.fetch_add(1, Ordering::Relaxed);
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        claims.give_back(key, value);
        Ok(())
    }

    async fn remembers_since(&self) -> Result<i64, BusError> {
        Ok(i64::MIN)
    }

    async fn ping(&self) -> Result<(), BusError> {
        self.round_trips.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn round_trips(&self) -> u64 {
        self.round_trips.load(Ordering::Relaxed)
    }
}
