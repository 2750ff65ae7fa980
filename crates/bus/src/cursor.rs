//! How does one replica follow the streams, know how complete its knowledge is, and notice that it missed something?
//!
//! A cursor belongs to one replica and to no consumer group: every replica reads everything. It captures where the
//! streams end, its owner then takes a snapshot of the durable truth, and the cursor hands over everything after the
//! captured positions. The rules are in docs/contract/event-bus.md, "Freshness" and "Loss".

mod doubt;
mod reload;
mod tracked;
mod watermarks;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use caracal_wire::event::Watermark;
use caracal_wire::stream::WATERMARKS;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::bus::Bus;
use crate::entry::{Entry, EntryId};
use crate::error::BusError;
use crate::freshness::Freshness;
use crate::signing::StreamKeys;
use doubt::Doubts;
pub use doubt::Unreadable;
pub use reload::Reload;
use reload::{Reloading, Settled};
use tracked::Tracked;
use watermarks::Watermarks;

/// Entries taken of each stream with one read.
const READ_COUNT: usize = 512;
/// How long one read waits for news. Bounds how late an idle cursor notices that its reload is done.
const READ_BLOCK: Duration = Duration::from_secs(1);
/// How long to wait before asking an owner again whose snapshot failed.
const RELOAD_PAUSE: Duration = Duration::from_millis(250);

/// What a cursor tells its owner.
#[derive(Debug)]
pub enum CursorEvent<'a> {
    /// An entry whose signature is right.
    Entry {
        /// Stream it was published on.
        stream: &'a str,
        /// The entry.
        entry: &'a Entry,
        /// Where the owner says that it cannot read the entry.
        unreadable: &'a Unreadable,
    },
    /// Entries may have been missed: they were trimmed before this cursor came to them, the store lost data, or an
    /// entry could not be believed or not be read. The owner must take a new snapshot and then call [`Reload::done`]; until then nothing counts as fresh. Entries
    /// keep coming meanwhile: apply them both to what is known now and to the snapshot being loaded.
    Lost(Reload),
}

/// Where a cursor stands in each stream, for metrics and tests.
#[derive(Clone, Debug, Default)]
pub struct Positions(Arc<Mutex<BTreeMap<String, EntryId>>>);

impl Positions {
    /// The last position handled in `stream`.
    pub fn of(&self, stream: &str) -> Option<EntryId> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(stream)
            .copied()
    }

    fn record(&self, tracked: &[Tracked]) {
        let mut positions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in tracked {
            match positions.get_mut(&stream.name) {
                Some(position) => *position = stream.position,
                None => drop(positions.insert(stream.name.clone(), stream.position)),
            }
        }
    }
}

/// A reader of several streams and of the watermarks.
pub struct Cursor {
    bus: Arc<dyn Bus>,
    keys: StreamKeys,
    tracked: Vec<Tracked>,
    watermark_position: EntryId,
    watermarks: Watermarks,
    incarnation: String,
    overlap: Duration,
    freshness: Freshness,
    positions: Positions,
    reloading: Option<Reloading>,
    /// What was read may have a hole: capture again and tell the owner before anything else.
    lost: bool,
    /// Entries were passed over that may have said something: no hole, but the owner's snapshot must be taken anew.
    doubts: Doubts,
    /// The connection broke: the store may have been started anew meanwhile.
    suspect: bool,
}

impl Cursor {
    /// Captures where `streams` end now. Take the snapshot after this returns, then call [`Cursor::run`].
    ///
    /// # Errors
    /// [`BusError`] when the bus did not answer.
    pub async fn start(bus: Arc<dyn Bus>, keys: StreamKeys, streams: &[&str]) -> Result<Self, BusError> {
        Self::start_with_overlap(bus, keys, streams, Duration::ZERO).await
    }

    /// As [`Cursor::start`], but begins `overlap` before the ends: for an owner whose snapshot may be that much
    /// older than the moment of capture because somebody else's memory answers it. What is read twice must be harmless.
    ///
    /// # Errors
    /// [`BusError`] when the bus did not answer.
    pub async fn start_with_overlap(
        bus: Arc<dyn Bus>,
        keys: StreamKeys,
        streams: &[&str],
        overlap: Duration,
    ) -> Result<Self, BusError> {
        let mut cursor = Self {
            bus,
            keys,
            tracked: streams.iter().map(|name| Tracked::new(name)).collect(),
            watermark_position: EntryId::ZERO,
            watermarks: Watermarks::default(),
            incarnation: String::new(),
            overlap,
            freshness: Freshness::new(),
            positions: Positions::default(),
            reloading: None,
            lost: false,
            doubts: Doubts::default(),
            // The snapshot takes its time: the store may be another one when the cursor begins to read.
            suspect: true,
        };
        cursor.capture().await?;
        Ok(cursor)
    }

    /// Reports how complete the knowledge is to `freshness` instead of to one of its own.
    #[must_use]
    pub fn reporting_to(mut self, freshness: Freshness) -> Self {
        self.freshness = freshness;
        self
    }

    /// Up to which moment every entry of these streams was handed to the owner.
    pub fn freshness(&self) -> Freshness {
        self.freshness.clone()
    }

    /// Where the cursor stands; keeps following it while it runs.
    pub fn positions(&self) -> Positions {
        self.positions.clone()
    }

    /// Hands every entry to `handler` in stream order until `shutdown` resolves. An entry with a wrong or missing
    /// signature is not handed over: what it may have said counts as missed. Survives outages of the bus: it tries again until it is back.
    ///
    /// `handler` runs on the reading task and must not block.
    pub async fn run<H, S>(mut self, mut handler: H, shutdown: S)
    where
        H: FnMut(CursorEvent<'_>) + Send,
        S: Future<Output = ()> + Send,
    {
        let mut shutdown = pin!(shutdown);
        let mut backoff = Backoff::new();
        loop {
            let outcome = tokio::select! {
                biased;
                () = &mut shutdown => return,
                outcome = self.step(&mut handler) => outcome,
            };
            match outcome {
                Ok(()) => backoff.succeeded("reading the event streams"),
                Err(error) => {
                    self.suspect = true;
                    let pause = backoff.failed("reading the event streams", &error);
                    tokio::select! {
                        biased;
                        () = &mut shutdown => return,
                        () = tokio::time::sleep(pause) => {}
                    }
                }
            }
        }
    }

    async fn step<H: FnMut(CursorEvent<'_>) + Send>(&mut self, handler: &mut H) -> Result<(), BusError> {
        if self.suspect {
            self.examine_store().await?;
        }
        if self.lost {
            self.recover(handler).await?;
        }
        self.settle_reload(handler).await;
        self.resolve_doubts(handler);
        let news = self.read().await?;
        if news.is_empty() {
            return Ok(());
        }
        self.lost = self.has_hole(&news).await?;
        if self.lost {
            self.freshness.forget();
        }
        for (stream, entries) in news {
            self.hand_over(&stream, &entries, handler);
        }
        self.positions.record(&self.tracked);
        self.prove();
        Ok(())
    }

    /// After a broken connection: the same store with everything we have seen still counted, or a loss.
    async fn examine_store(&mut self) -> Result<(), BusError> {
        if self.has_hole(&[]).await? {
            self.lost = true;
            self.freshness.forget();
        }
        self.suspect = false;
        Ok(())
    }

    /// Captures the ends anew and asks the owner for a snapshot.
    async fn recover<H: FnMut(CursorEvent<'_>) + Send>(&mut self, handler: &mut H) -> Result<(), BusError> {
        self.freshness.forget();
        self.capture().await?;
        self.lost = false;
        tracing::warn!("entries of the event streams were lost before this replica read them; reloading");
        self.ask_for_snapshot(handler);
        Ok(())
    }

    /// Asks the owner for a snapshot that says what the entries passed over may have said. Reading goes on where it
    /// is: there is no hole, and no entry is read again.
    fn resolve_doubts<H: FnMut(CursorEvent<'_>) + Send>(&mut self, handler: &mut H) {
        if self.reloading.is_none() && self.doubts.are_due(Instant::now()) {
            tracing::warn!("entries of the event streams could not be used; reloading");
            self.ask_for_snapshot(handler);
        }
    }

    /// The snapshot asked for is younger than every entry handled until now.
    fn ask_for_snapshot<H: FnMut(CursorEvent<'_>) + Send>(&mut self, handler: &mut H) {
        self.doubts.asked(Instant::now());
        let (reloading, reload) = Reloading::begin();
        self.reloading = Some(reloading);
        handler(CursorEvent::Lost(reload));
    }

    /// Takes note of a reload that was finished, and asks again for one that was given up.
    async fn settle_reload<H: FnMut(CursorEvent<'_>) + Send>(&mut self, handler: &mut H) {
        match self.reloading.as_ref().map(Reloading::settled) {
            None | Some(Settled::NotYet) => {}
            Some(Settled::Done) => {
                self.reloading = None;
                self.prove();
            }
            Some(Settled::GivenUp) => {
                tokio::time::sleep(RELOAD_PAUSE).await;
                self.ask_for_snapshot(handler);
            }
        }
    }

    async fn capture(&mut self) -> Result<(), BusError> {
        let incarnation = self.bus.incarnation().await?;
        let mut names: Vec<&str> = self.tracked.iter().map(|stream| stream.name.as_str()).collect();
        names.push(WATERMARKS);
        let extents = self.bus.extents(&names).await?;
        // The last watermark is read again: it may prove freshness at once.
        self.watermark_position = extents
            .last()
            .map_or(EntryId::ZERO, |extent| extent.last.previous());
        for (stream, extent) in self.tracked.iter_mut().zip(&extents) {
            stream.capture(extent, self.overlap);
        }
        self.watermarks.clear();
        self.incarnation = incarnation;
        self.positions.record(&self.tracked);
        Ok(())
    }

    async fn read(&self) -> Result<Vec<(String, Vec<Entry>)>, BusError> {
        let mut from: Vec<(&str, EntryId)> = self
            .tracked
            .iter()
            .map(|stream| (stream.name.as_str(), stream.position))
            .collect();
        from.push((WATERMARKS, self.watermark_position));
        let read = self.bus.read(&from, READ_COUNT, READ_BLOCK);
        let interrupted = async {
            match &self.reloading {
                Some(reloading) => reloading.wait().await,
                None => self.doubts.wait().await,
            }
        };
        tokio::select! {
            news = read => news,
            () = interrupted => Ok(Vec::new()),
        }
    }

    /// Whether entries between our positions and `news` are gone, or may be because the store was started anew.
    ///
    /// Looks after the read, so that nothing that happened before it can be overlooked; what was trimmed between the
    /// two is reported though nothing was missed.
    async fn has_hole(&self, news: &[(String, Vec<Entry>)]) -> Result<bool, BusError> {
        let names: Vec<&str> = self.tracked.iter().map(|stream| stream.name.as_str()).collect();
        let (incarnation, extents) = tokio::try_join!(self.bus.incarnation(), self.bus.extents(&names))?;
        if incarnation != self.incarnation {
            return Ok(true);
        }
        let holed = self.tracked.iter().zip(&extents).any(|(stream, extent)| {
            let fresh = news.iter().find(|(name, _entries)| *name == stream.name);
            stream.has_hole(extent, fresh.map_or(&[], |(_name, entries)| entries.as_slice()))
        });
        Ok(holed)
    }

    fn hand_over<H: FnMut(CursorEvent<'_>) + Send>(
        &mut self,
        stream: &str,
        entries: &[Entry],
        handler: &mut H,
    ) {
        let arrived = Instant::now();
        for entry in entries {
            let genuine = self.keys.verify(stream, &entry.fields);
            if !genuine {
                tracing::warn!(stream, entry.id = %entry.id, "entry without a right signature passed over");
            }
            if stream == WATERMARKS {
                self.watermark_position = entry.id;
                match Watermark::from_fields(&entry.fields) {
                    Ok(watermark) if genuine => self.watermarks.push(watermark, arrived),
                    Ok(_) | Err(_) => {}
                }
                continue;
            }
            if let Some(tracked) = self.tracked.iter_mut().find(|tracked| tracked.name == stream) {
                tracked.advance(entry.id);
            }
            let unreadable = Unreadable::default();
            if genuine {
                handler(CursorEvent::Entry {
                    stream,
                    entry,
                    unreadable: &unreadable,
                });
            }
            if !genuine || unreadable.is_reported() {
                self.doubts.raise();
                self.freshness.forget();
            }
        }
    }

    /// Moves the freshness to the newest watermark whose entries were all handed over.
    fn prove(&mut self) {
        if self.lost || self.reloading.is_some() || self.doubts.are_open() {
            return;
        }
        if let Some((as_of, arrived)) = self.watermarks.take_reached(&self.tracked) {
            self.freshness.advance_since(as_of, arrived);
        }
    }
}

impl fmt::Debug for Cursor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Cursor")
            .field("tracked", &self.tracked)
            .field("freshness", &self.freshness)
            .finish_non_exhaustive()
    }
}
