//! Which graph epoch has each zone reached, as far as was announced?

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use caracal_model::ZoneId;

/// How many zones are remembered; the epoch of a forgotten one comes from the next read.
const ZONES_MAX: u64 = 50_000;

/// Announced epochs. They only rise.
#[derive(Debug)]
pub(super) struct Epochs(moka::sync::Cache<ZoneId, Arc<AtomicU64>>);

impl Default for Epochs {
    fn default() -> Self {
        Self(moka::sync::Cache::new(ZONES_MAX))
    }
}

impl Epochs {
    pub(super) fn announce(&self, zone: &ZoneId, epoch: u64) {
        self.0
            .get_with_by_ref(zone, Arc::default)
            .fetch_max(epoch, Ordering::Relaxed);
    }

    /// 0 when nothing was announced.
    pub(super) fn announced(&self, zone: &ZoneId) -> u64 {
        self.0.get(zone).map_or(0, |epoch| epoch.load(Ordering::Relaxed))
    }
}
