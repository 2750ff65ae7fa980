//! A bus that counts claims and fails on demand.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use caracal_bus::{Bus, BusError, Claim, Entry, EntryId, Extent, GroupStart, Pending};
use caracal_wire::stream::Fields;

#[derive(Debug)]
pub(crate) struct SpyBus {
    inner: Arc<dyn Bus>,
    pub(crate) claims: AtomicUsize,
    /// Claims that were answered.
    pub(crate) claims_answered: AtomicUsize,
    pub(crate) give_backs_fail: AtomicBool,
    pings: AtomicUsize,
    /// How long the last claim is kept, in Unix milliseconds.
    pub(crate) claimed_until: AtomicI64,
    pub(crate) claims_fail: AtomicBool,
    /// They are made, and their answers do not come.
    pub(crate) claims_get_lost: AtomicBool,
    pub(crate) publishing_fails: AtomicBool,
}

impl SpyBus {
    pub(crate) fn over(inner: Arc<dyn Bus>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            claims: AtomicUsize::new(0),
            claims_answered: AtomicUsize::new(0),
            give_backs_fail: AtomicBool::new(false),
            pings: AtomicUsize::new(0),
            claimed_until: AtomicI64::new(0),
            claims_fail: AtomicBool::new(false),
            claims_get_lost: AtomicBool::new(false),
            publishing_fails: AtomicBool::new(false),
        })
    }

    /// How often somebody asked whether it is there.
    pub(crate) fn pings(&self) -> usize {
        self.pings.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Bus for SpyBus {
    async fn publish(&self, stream: &str, batch: &[Fields]) -> Result<Vec<EntryId>, BusError> {
        if self.publishing_fails.load(Ordering::SeqCst) && stream == caracal_wire::stream::AUDIT_EVENTS {
            return Err(BusError::Timeout);
        }
        self.inner.publish(stream, batch).await
    }

    async fn read(
        &self,
        from: &[(&str, EntryId)],
        count: usize,
        block: Duration,
    ) -> Result<Vec<(String, Vec<Entry>)>, BusError> {
        self.inner.read(from, count, block).await
    }

    async fn extents(&self, streams: &[&str]) -> Result<Vec<Extent>, BusError> {
        self.inner.extents(streams).await
    }

    async fn incarnation(&self) -> Result<String, BusError> {
        self.inner.incarnation().await
    }

    async fn ensure_group(&self, stream: &str, group: &str, from: GroupStart) -> Result<bool, BusError> {
        self.inner.ensure_group(stream, group, from).await
    }

    async fn read_group(
        &self,
        stream: &str,
        group: &str,
        consumer: &str,
        count: usize,
        block: Duration,
    ) -> Result<Vec<Entry>, BusError> {
        self.inner.read_group(stream, group, consumer, count, block).await
    }

    async fn ack(&self, stream: &str, group: &str, ids: &[EntryId]) -> Result<(), BusError> {
        self.inner.ack(stream, group, ids).await
    }

    async fn reclaim(
        &self,
        stream: &str,
        group: &str,
        consumer: &str,
        min_idle: Duration,
        count: usize,
    ) -> Result<Vec<(Entry, u64)>, BusError> {
        self.inner.reclaim(stream, group, consumer, min_idle, count).await
    }

    async fn pending(&self, stream: &str, group: &str) -> Result<Pending, BusError> {
        self.inner.pending(stream, group).await
    }

    async fn trim_consumed(&self, stream: &str) -> Result<u64, BusError> {
        self.inner.trim_consumed(stream).await
    }

    async fn claim_once(&self, key: &str, value: &str, expires_at_unix_ms: i64) -> Result<Claim, BusError> {
        self.claims.fetch_add(1, Ordering::SeqCst);
        self.claimed_until.store(expires_at_unix_ms, Ordering::SeqCst);
        if self.claims_fail.load(Ordering::SeqCst) {
            return Err(BusError::Timeout);
        }
        let claim = self.inner.claim_once(key, value, expires_at_unix_ms).await;
        self.claims_answered.fetch_add(1, Ordering::SeqCst);
        if self.claims_get_lost.load(Ordering::SeqCst) {
            return Err(BusError::Timeout);
        }
        claim
    }

    async fn give_back(&self, key: &str, value: &str) -> Result<(), BusError> {
        if self.give_backs_fail.load(Ordering::SeqCst) {
            return Err(BusError::Timeout);
        }
        self.inner.give_back(key, value).await
    }

    async fn remembers_since(&self) -> Result<i64, BusError> {
        self.inner.remembers_since().await
    }

    async fn ping(&self) -> Result<(), BusError> {
        self.pings.fetch_add(1, Ordering::SeqCst);
        if self.claims_fail.load(Ordering::SeqCst) {
            Err(BusError::Timeout)
        } else {
            self.inner.ping().await
        }
    }

    fn round_trips(&self) -> u64 {
        self.inner.round_trips()
    }
}
