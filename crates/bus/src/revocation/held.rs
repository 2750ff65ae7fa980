//! Is anything a token stands on revoked, asked again and again while one request is served?

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use caracal_model::revocation::{Anchor, Anchors};

use super::Revocations;
use super::mark::Mark;
use super::signal::{RevokedSignal, Signal};

/// No count of changes: nothing was looked up yet.
const NEVER: u64 = u64::MAX;

/// The anchors of one token, hashed once. Asked again, it costs an atomic load until something more is revoked, whatever that is.
#[derive(Debug)]
pub struct Held {
    revocations: Revocations,
    anchors: Vec<(Mark, Anchor)>,
    /// How many changes the set had seen when nothing of these was revoked.
    clean_at: AtomicU64,
}

impl Held {
    pub(super) fn new(revocations: Revocations, anchors: &Anchors) -> Self {
        let mut marked = Vec::with_capacity(4);
        marked.extend(anchors.iter().map(|anchor| (revocations.mark(&anchor), anchor)));
        Self {
            revocations,
            anchors: marked,
            clean_at: AtomicU64::new(NEVER),
        }
    }

    /// The first anchor that is revoked. At most four shard reads, and none when nothing was revoked since the last time.
    pub fn revoked(&self) -> Option<&Anchor> {
        // Read first: what is revoked while the shards are read is looked for the next time.
        let changes = self.revocations.changes();
        if self.clean_at.load(Ordering::Relaxed) == changes {
            return None;
        }
        let revoked = self
            .anchors
            .iter()
            .find(|(mark, _anchor)| self.revocations.holds(*mark));
        if revoked.is_none() {
            self.clean_at.store(changes, Ordering::Relaxed);
        }
        revoked.map(|(_mark, anchor)| anchor)
    }

    /// A future that resolves with the first of the anchors to be revoked, at once when one already is. Dropping it takes the
    /// registration back.
    pub fn watch(self: &Arc<Self>) -> RevokedSignal {
        let signal = Arc::new(Signal::default());
        let mut registered = 0;
        for (mark, anchor) in &self.anchors {
            if !self.revocations.register(*mark, &signal) {
                signal.fire(anchor);
                break;
            }
            registered += 1;
        }
        RevokedSignal::new(signal, registered, Arc::clone(self))
    }

    /// Takes back the registrations of the first so many anchors.
    pub(super) fn forget(&self, signal: &Arc<Signal>, registered: usize) {
        for (mark, _anchor) in self.anchors.iter().take(registered) {
            self.revocations.forget_watcher(*mark, signal);
        }
    }
}
