//! What has this relay done so far?

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Counters of one relay; clones count together.
#[derive(Clone, Debug, Default)]
pub struct Stats(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    published: AtomicU64,
    refused: AtomicU64,
    buried: AtomicU64,
    outages: AtomicU64,
    watermark_us: AtomicI64,
}

impl Stats {
    /// Messages the bus has taken from this relay.
    pub fn published(&self) -> u64 {
        self.0.published.load(Ordering::Relaxed)
    }

    /// Times the bus refused a message of its own accord.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// Messages set aside as dead.
    pub fn buried(&self) -> u64 {
        self.0.buried.load(Ordering::Relaxed)
    }

    /// Failed attempts to reach the bus or the database.
    pub fn outages(&self) -> u64 {
        self.0.outages.load(Ordering::Relaxed)
    }

    /// The moment of the last published watermark in Unix microseconds (database clock); 0 before the first.
    pub fn watermark_us(&self) -> i64 {
        self.0.watermark_us.load(Ordering::Relaxed)
    }

    pub(crate) fn count_published(&self, rows: usize) {
        self.0.published.fetch_add(count(rows), Ordering::Relaxed);
    }

    pub(crate) fn count_refused(&self, rows: usize) {
        self.0.refused.fetch_add(count(rows), Ordering::Relaxed);
    }

    pub(crate) fn count_buried(&self, rows: usize) {
        self.0.buried.fetch_add(count(rows), Ordering::Relaxed);
    }

    pub(crate) fn count_outage(&self) {
        self.0.outages.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn set_watermark(&self, unix_us: i64) {
        self.0.watermark_us.fetch_max(unix_us, Ordering::Relaxed);
    }
}

fn count(rows: usize) -> u64 {
    u64::try_from(rows).unwrap_or(u64::MAX)
}
