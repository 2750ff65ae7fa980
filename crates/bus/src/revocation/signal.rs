//! How does the holder of an open response hear that its token was revoked?

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use caracal_model::revocation::Anchor;
use futures_util::task::AtomicWaker;

use super::Held;

/// Fired once, with the anchor that did it.
#[derive(Debug, Default)]
pub(super) struct Signal {
    fired: OnceLock<Anchor>,
    waker: AtomicWaker,
}

impl Signal {
    pub(super) fn fire(&self, anchor: &Anchor) {
        self.fired.get_or_init(|| anchor.clone());
        self.waker.wake();
    }
}

/// Resolves with the anchor of a token that was revoked. Waits in one task at a time; may be polled again after it
/// resolved and gives the same answer.
pub struct RevokedSignal {
    signal: Arc<Signal>,
    registered: usize,
    held: Arc<Held>,
}

impl RevokedSignal {
    /// `registered`: with how many of the anchors, from the first.
    pub(super) fn new(signal: Arc<Signal>, registered: usize, held: Arc<Held>) -> Self {
        Self {
            signal,
            registered,
            held,
        }
    }

    /// The revoked anchor, when it has fired, without waiting. One atomic load.
    pub fn fired(&self) -> Option<&Anchor> {
        self.signal.fired.get()
    }
}

impl Future for RevokedSignal {
    type Output = Anchor;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Anchor> {
        if let Some(anchor) = self.signal.fired.get() {
            return Poll::Ready(anchor.clone());
        }
        self.signal.waker.register(context.waker());
        // A revocation between the first look and the registration of the waker woke nobody.
        self.signal
            .fired
            .get()
            .map_or(Poll::Pending, |anchor| Poll::Ready(anchor.clone()))
    }
}

impl Drop for RevokedSignal {
    fn drop(&mut self) {
        self.held.forget(&self.signal, self.registered);
    }
}

impl fmt::Debug for RevokedSignal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("RevokedSignal")
            .field("fired", &self.fired())
            .field("registered", &self.registered)
            .finish_non_exhaustive()
    }
}
