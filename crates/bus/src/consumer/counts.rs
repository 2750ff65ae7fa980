//! What has a consumer done?

use std::sync::atomic::{AtomicU64, Ordering};

/// What a consumer has done so far, for metrics.
#[derive(Debug, Default)]
pub struct Counts {
    done: AtomicU64,
    retried: AtomicU64,
    dead: AtomicU64,
    unsigned: AtomicU64,
}

impl Counts {
    /// Entries done.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Deliveries that ended in a retry.
    pub fn retried(&self) -> u64 {
        self.retried.load(Ordering::Relaxed)
    }

    /// Entries put aside.
    pub fn dead(&self) -> u64 {
        self.dead.load(Ordering::Relaxed)
    }

    /// Entries dropped because their signature was missing or wrong.
    pub fn unsigned(&self) -> u64 {
        self.unsigned.load(Ordering::Relaxed)
    }

    pub(super) fn add_done(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_retried(&self) {
        self.retried.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_dead(&self) {
        self.dead.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_unsigned(&self) {
        self.unsigned.fetch_add(1, Ordering::Relaxed);
    }
}
