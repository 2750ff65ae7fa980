//! Do the clocks of the STS and this gateway agree? Suspected when something just signed is not valid here.

use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the clocks were last seen to disagree by more than the leeway.
#[derive(Debug, Default)]
pub(crate) struct ClockSkew(AtomicBool);

impl ClockSkew {
    /// Something genuine and fresh was refused for its time.
    pub(crate) fn suspect(&self) {
        if !self.0.swap(true, Ordering::Relaxed) {
            tracing::error!(
                "the clocks of the STS and this gateway disagree by more than the leeway: check NTP"
            );
        }
    }

    /// An answer of the STS was valid here.
    pub(crate) fn agree(&self) {
        // Reading first keeps the line of the flag shared between processors.
        if self.0.load(Ordering::Relaxed) {
            self.0.store(false, Ordering::Relaxed);
            tracing::info!("the clocks of the STS and this gateway agree again");
        }
    }

    /// Whether they disagree.
    pub(crate) fn is_suspected(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
