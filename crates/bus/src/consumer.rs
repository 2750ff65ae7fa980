//! How is the work of one stream shared between replicas, retried, and put aside when it cannot be done?
//!
//! Every entry is given to one consumer of the group, at least once, and stays pending until it is acknowledged.
//! Rules and dead letters: docs/contract/event-bus.md, "Consumer groups".

mod counts;
mod dead_letter;
mod settings;

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use caracal_wire::stream::AUDIT_EVENTS;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::bus::{Bus, GroupStart};
use crate::entry::{Entry, EntryId};
use crate::error::BusError;
use crate::signing::StreamKeys;
pub use counts::Counts;
pub use dead_letter::{DEAD_LETTERS_KEPT, DeadLetter};
pub use settings::Settings;

/// How often consumed entries are removed from a stream that is bounded by consumption.
const TRIM_PERIOD: Duration = Duration::from_secs(10);

/// What became of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done: acknowledge it.
    Done,
    /// Could not be done now: leave it pending; it comes again after the idle time, and becomes a dead letter at
    /// the last permitted delivery.
    Retry,
    /// Can never be done: put it aside with this reason and acknowledge it.
    Dead(String),
}

/// One entry given to a handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The entry.
    pub entry: Entry,
    /// How many times it has been delivered to the group, this time included.
    pub deliveries: u64,
}

/// Does the work of a consumer group.
#[async_trait]
pub trait Handler: Send {
    /// Does the work of `batch` (never empty, oldest first) and says of each entry, in the same order, what became
    /// of it. Entries without an outcome are retried. It is not cancelled by shutdown.
    async fn handle(&mut self, batch: &[Delivery]) -> Vec<Outcome>;

    /// The dead letter of `entry`: where it goes and what it says. The default is `<stream>.dead` with
    /// `original_id`, `error`, `values` and a signature.
    fn dead_letter(&self, stream: &str, entry: &Entry, reason: &str) -> DeadLetter {
        DeadLetter::standard(stream, entry, reason)
    }
}

/// A handler that treats entries one by one with `work`.
pub fn each<W, F>(work: W) -> impl Handler
where
    W: FnMut(Delivery) -> F + Send,
    F: Future<Output = Outcome> + Send,
{
    Each(work)
}

struct Each<W>(W);

#[async_trait]
impl<W, F> Handler for Each<W>
where
    W: FnMut(Delivery) -> F + Send,
    F: Future<Output = Outcome> + Send,
{
    async fn handle(&mut self, batch: &[Delivery]) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(batch.len());
        for delivery in batch {
            outcomes.push((self.0)(delivery.clone()).await);
        }
        outcomes
    }
}

/// One consumer of a group.
#[derive(Debug)]
pub struct GroupConsumer {
    bus: Arc<dyn Bus>,
    keys: StreamKeys,
    settings: Settings,
    counts: Arc<Counts>,
    reclaim_at: Option<Instant>,
    trim_at: Option<Instant>,
    /// Until when entries gather.
    read_at: Option<Instant>,
}

impl GroupConsumer {
    /// A consumer as `settings` say.
    pub fn new(bus: Arc<dyn Bus>, keys: StreamKeys, settings: Settings) -> Self {
        Self {
            bus,
            keys,
            settings,
            counts: Arc::default(),
            reclaim_at: None,
            trim_at: None,
            read_at: None,
        }
    }

    /// What this consumer has done; keeps counting while it runs.
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }

    /// Gives entries to `handler` until `shutdown` resolves; the batch under way is finished first. Survives outages
    /// of the bus. A group that disappears with the store's data is created again from the beginning of the stream.
    pub async fn run<H, S>(mut self, mut handler: H, shutdown: S)
    where
        H: Handler,
        S: Future<Output = ()> + Send,
    {
        let mut shutdown = pin!(shutdown);
        let mut backoff = Backoff::new();
        let mut ensured = false;
        let mut start = self.settings.start;
        loop {
            let outcome = if ensured {
                self.step(&mut handler, shutdown.as_mut()).await
            } else {
                self.ensure(start).await.map(|()| Step::Continue)
            };
            let pause = match outcome {
                Ok(Step::Stop) => return,
                Ok(Step::Continue) => {
                    backoff.succeeded("consuming the event stream");
                    ensured = true;
                    Duration::ZERO
                }
                Err(error) => {
                    if matches!(error, BusError::NoGroup { .. }) {
                        ensured = false;
                        start = GroupStart::Beginning;
                    }
                    backoff.failed("consuming the event stream", &error)
                }
            };
            if !pause.is_zero() {
                tokio::select! {
                    biased;
                    () = shutdown.as_mut() => return,
                    () = tokio::time::sleep(pause) => {}
                }
            }
        }
    }

    async fn ensure(&self, start: GroupStart) -> Result<(), BusError> {
        self.bus
            .ensure_group(&self.settings.stream, &self.settings.group, start)
            .await
            .map(drop)
    }

    async fn step<H, S>(&mut self, handler: &mut H, shutdown: Pin<&mut S>) -> Result<Step, BusError>
    where
        H: Handler,
        S: Future<Output = ()> + Send,
    {
        let abandoned = self.reclaim_when_due().await?;
        self.process(abandoned, handler).await?;
        let fresh = tokio::select! {
            biased;
            () = shutdown => return Ok(Step::Stop),
            fresh = self.read() => fresh?,
        };
        let more_may_gather = (1..self.settings.batch).contains(&fresh.len());
        self.read_at = more_may_gather.then(|| Instant::now() + self.settings.gather);
        self.process(fresh, handler).await?;
        self.trim_when_due().await?;
        Ok(Step::Continue)
    }

    async fn read(&self) -> Result<Vec<Delivery>, BusError> {
        if let Some(at) = self.read_at {
            tokio::time::sleep_until(at).await;
        }
        let settings = &self.settings;
        // An entry that waits to be taken over must not wait for news as well.
        let block = self.reclaim_at.map_or(settings.block, |at| {
            settings
                .block
                .min(at.saturating_duration_since(Instant::now()))
                .max(Duration::from_millis(1))
        });
        let entries = self
            .bus
            .read_group(
                &settings.stream,
                &settings.group,
                &settings.consumer,
                settings.batch,
                block,
            )
            .await?;
        Ok(entries
            .into_iter()
            .map(|entry| Delivery { entry, deliveries: 1 })
            .collect())
    }

    async fn reclaim_when_due(&mut self) -> Result<Vec<Delivery>, BusError> {
        let now = Instant::now();
        if self.reclaim_at.is_some_and(|at| now < at) {
            return Ok(Vec::new());
        }
        let settings = &self.settings;
        let reclaimed = self
            .bus
            .reclaim(
                &settings.stream,
                &settings.group,
                &settings.consumer,
                settings.min_idle,
                settings.batch,
            )
            .await?;
        // A full batch means that there may be more.
        let rest = if reclaimed.len() < settings.batch {
            settings.min_idle / 2
        } else {
            Duration::ZERO
        };
        self.reclaim_at = Some(now + rest);
        Ok(reclaimed
            .into_iter()
            .map(|(entry, deliveries)| Delivery { entry, deliveries })
            .collect())
    }

    async fn process<H: Handler>(
        &mut self,
        deliveries: Vec<Delivery>,
        handler: &mut H,
    ) -> Result<(), BusError> {
        let (genuine, mut finished) = self.sift(deliveries);
        let mut outcome = Ok(());
        if !genuine.is_empty() {
            let mut outcomes = handler.handle(&genuine).await.into_iter();
            for delivery in &genuine {
                match self
                    .settle(delivery, outcomes.next().unwrap_or(Outcome::Retry), handler)
                    .await
                {
                    Ok(true) => finished.push(delivery.entry.id),
                    Ok(false) => {}
                    // Its dead letter did not get out: it stays pending, what is finished does not.
                    Err(error) => outcome = Err(error),
                }
            }
        }
        self.bus
            .ack(&self.settings.stream, &self.settings.group, &finished)
            .await?;
        outcome
    }

    /// Separates the entries whose signature is right from the ids of those that are dropped.
    fn sift(&self, deliveries: Vec<Delivery>) -> (Vec<Delivery>, Vec<EntryId>) {
        if !self.settings.signed {
            return (deliveries, Vec::new());
        }
        let stream = self.settings.stream.as_str();
        let (genuine, forged): (Vec<_>, Vec<_>) = deliveries
            .into_iter()
            .partition(|delivery| self.keys.verify(stream, &delivery.entry.fields));
        for delivery in &forged {
            tracing::warn!(stream, entry.id = %delivery.entry.id, "entry without a right signature dropped");
            self.counts.add_unsigned();
        }
        (
            genuine,
            forged.into_iter().map(|delivery| delivery.entry.id).collect(),
        )
    }

    /// Whether the entry is finished and may be acknowledged.
    async fn settle<H: Handler>(
        &self,
        delivery: &Delivery,
        outcome: Outcome,
        handler: &mut H,
    ) -> Result<bool, BusError> {
        let reason = match outcome {
            Outcome::Done => {
                self.counts.add_done();
                return Ok(true);
            }
            Outcome::Retry if delivery.deliveries < self.settings.deliveries_max => {
                self.counts.add_retried();
                return Ok(false);
            }
            Outcome::Retry => format!("not done after {} deliveries", delivery.deliveries),
            Outcome::Dead(reason) => reason,
        };
        let stream = self.settings.stream.as_str();
        let letter = handler.dead_letter(stream, &delivery.entry, &reason);
        tracing::warn!(stream, entry.id = %delivery.entry.id, reason, "entry put aside as a dead letter");
        letter.publish(self.bus.as_ref(), &self.keys).await?;
        self.counts.add_dead();
        Ok(true)
    }

    async fn trim_when_due(&mut self) -> Result<(), BusError> {
        let now = Instant::now();
        if self.settings.stream != AUDIT_EVENTS || self.trim_at.is_some_and(|at| now < at) {
            return Ok(());
        }
        self.trim_at = Some(now + TRIM_PERIOD);
        self.bus.trim_consumed(&self.settings.stream).await.map(drop)
    }
}

/// Whether the consumer goes on.
enum Step {
    Continue,
    Stop,
}
