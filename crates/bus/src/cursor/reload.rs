//! Has the owner of a cursor taken the new snapshot it was asked for?

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::Notify;

const NOT_YET: u8 = 0;
const DONE: u8 = 1;
const GIVEN_UP: u8 = 2;

#[derive(Debug, Default)]
struct Shared {
    state: AtomicU8,
    changed: Notify,
}

/// The owner's side: a promise to take a snapshot younger than the moment this was handed over.
///
/// Dropping it without [`Reload::done`] means that the snapshot failed; the cursor then asks again.
#[derive(Debug)]
pub struct Reload(Arc<Shared>);

impl Reload {
    /// The snapshot is in place: with the entries handed over since, the owner knows everything again.
    pub fn done(self) {
        self.0.state.store(DONE, Ordering::Release);
    }
}

impl Drop for Reload {
    fn drop(&mut self) {
        // Fails when `done` was called.
        let _already_done =
            self.0
                .state
                .compare_exchange(NOT_YET, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire);
        self.0.changed.notify_one();
    }
}

/// The cursor's side.
#[derive(Debug)]
pub(super) struct Reloading(Arc<Shared>);

/// How a reload stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    NotYet,
    Done,
    GivenUp,
}

impl Reloading {
    pub(super) fn begin() -> (Self, Reload) {
        let shared = Arc::new(Shared::default());
        (Self(Arc::clone(&shared)), Reload(shared))
    }

    pub(super) fn settled(&self) -> Settled {
        match self.0.state.load(Ordering::Acquire) {
            DONE => Settled::Done,
            GIVEN_UP => Settled::GivenUp,
            _ => Settled::NotYet,
        }
    }

    /// Resolves when the owner is done or has given up.
    pub(super) async fn wait(&self) {
        self.0.changed.notified().await;
    }
}
