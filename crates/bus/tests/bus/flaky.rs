//! A bus that can be taken down, or replaced by one that lost its memory.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use caracal_bus::{Bus, BusError, Claim, Entry, EntryId, Extent, GroupStart, MemoryBus, Pending};
use caracal_wire::stream::Fields;

#[derive(Debug)]
pub(crate) struct FlakyBus {
    inner: Mutex<Arc<MemoryBus>>,
    down: AtomicBool,
    outages: AtomicU64,
    incarnation: AtomicU64,
}

impl FlakyBus {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Arc::new(MemoryBus::new())),
            down: AtomicBool::new(false),
            outages: AtomicU64::new(0),
            incarnation: AtomicU64::new(0),
        })
    }

    pub(crate) fn as_bus(self: &Arc<Self>) -> Arc<dyn Bus> {
        let bus: Arc<Self> = Arc::clone(self);
        bus
    }

    pub(crate) fn take_down(&self) {
        self.down.store(true, Ordering::SeqCst);
        self.outages.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn bring_up(&self) {
        self.down.store(false, Ordering::SeqCst);
    }

    /// What a restart without loss looks like: everything is there, under another name.
    pub(crate) fn restart(&self) {
        self.incarnation.fetch_add(1, Ordering::SeqCst);
    }

    /// What a restart with loss looks like.
    pub(crate) fn lose_everything(&self) {
        *self.inner.lock().unwrap() = Arc::new(MemoryBus::new());
        self.restart();
    }

    fn up(&self) -> Result<Arc<MemoryBus>, BusError> {
        if self.down.load(Ordering::SeqCst) {
            return Err(BusError::Unavailable("taken down by the test".into()));
        }
        Ok(Arc::clone(&self.inner.lock().unwrap()))
    }
}

#[async_trait]
impl Bus for FlakyBus {
    async fn publish(&self, stream: &str, batch: &[Fields]) -> Result<Vec<EntryId>, BusError> {
        self.up()?.publish(stream, batch).await
    }

    async fn read(
        &self,
        from: &[(&str, EntryId)],
        count: usize,
        block: Duration,
    ) -> Result<Vec<(String, Vec<Entry>)>, BusError> {
        let outages = self.outages.load(Ordering::SeqCst);
        let read = self
            .up()?
            .read(from, count, block.min(Duration::from_millis(20)))
            .await?;
        if self.outages.load(Ordering::SeqCst) != outages {
            return Err(BusError::Unavailable(
                "the connection broke while it waited for news".into(),
            ));
        }
        Ok(read)
    }

    async fn extents(&self, streams: &[&str]) -> Result<Vec<Extent>, BusError> {
        self.up()?.extents(streams).await
    }

    async fn incarnation(&self) -> Result<String, BusError> {
        self.up()?;
        Ok(self.incarnation.load(Ordering::SeqCst).to_string())
    }

    async fn ensure_group(&self, stream: &str, group: &str, from: GroupStart) -> Result<bool, BusError> {
        self.up()?.ensure_group(stream, group, from).await
    }

    async fn read_group(
        &self,
        stream: &str,
        group: &str,
        consumer: &str,
        count: usize,
        block: Duration,
    ) -> Result<Vec<Entry>, BusError> {
        self.up()?
            .read_group(
                stream,
                group,
                consumer,
                count,
                block.min(Duration::from_millis(20)),
            )
            .await
    }

    async fn ack(&self, stream: &str, group: &str, ids: &[EntryId]) -> Result<(), BusError> {
        self.up()?.ack(stream, group, ids).await
    }

    async fn reclaim(
        &self,
        stream: &str,
        group: &str,
        consumer: &str,
        min_idle: Duration,
        count: usize,
    ) -> Result<Vec<(Entry, u64)>, BusError> {
        self.up()?.reclaim(stream, group, consumer, min_idle, count).await
    }

    async fn pending(&self, stream: &str, group: &str) -> Result<Pending, BusError> {
        self.up()?.pending(stream, group).await
    }

    async fn trim_consumed(&self, stream: &str) -> Result<u64, BusError> {
        self.up()?.trim_consumed(stream).await
    }

    async fn claim_once(&self, key: &str, value: &str, expires_at_unix_ms: i64) -> Result<Claim, BusError> {
        self.up()?.claim_once(key, value, expires_at_unix_ms).await
    }

    async fn give_back(&self, key: &str, value: &str) -> Result<(), BusError> {
        self.up()?.give_back(key, value).await
    }

    async fn remembers_since(&self) -> Result<i64, BusError> {
        self.up()?.remembers_since().await
    }

    async fn ping(&self) -> Result<(), BusError> {
        self.up()?.ping().await
    }

    fn round_trips(&self) -> u64 {
        0
    }
}
