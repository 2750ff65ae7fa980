//! Which approvals are waited for in this process?

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// Everybody who waits for a decision. Bounded: whoever knows an id may wait, and nobody is asked for more.
#[derive(Debug)]
pub(crate) struct Waiters {
    max: usize,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    count: usize,
    is_closed: bool,
    by_id: HashMap<String, watch::Sender<u64>>,
}

/// As many wait already as may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many requests wait for approvals")]
pub(crate) struct TooMany;

/// One who waits; leaves when dropped.
#[derive(Debug)]
pub(crate) struct Waiter {
    id: String,
    signal: watch::Receiver<u64>,
    inner: Arc<Mutex<Inner>>,
}

impl Waiters {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            inner: Arc::default(),
        }
    }

    /// Registers one who waits. To miss nothing, look at the approval after this.
    ///
    /// # Errors
    /// [`TooMany`].
    pub(crate) fn join(&self, id: &str) -> Result<Waiter, TooMany> {
        let mut inner = lock(&self.inner);
        if inner.count >= self.max || inner.is_closed {
            return Err(TooMany);
        }
        inner.count += 1;
        let sender = inner
            .by_id
            .entry(id.to_owned())
            .or_insert_with(|| watch::Sender::new(0));
        let signal = sender.subscribe();
        Ok(Waiter {
            id: id.to_owned(),
            signal,
            inner: Arc::clone(&self.inner),
        })
    }

    /// Tells everybody who waits for `id` to look.
    pub(crate) fn wake(&self, id: &str) {
        if let Some(sender) = lock(&self.inner).by_id.get(id) {
            sender.send_modify(|count| *count += 1);
        }
    }

    fn wake_all(&self) {
        for sender in lock(&self.inner).by_id.values() {
            sender.send_modify(|count| *count += 1);
        }
    }

    /// Tells everybody to look once more and to wait no longer: the service ends.
    pub(crate) fn close(&self) {
        lock(&self.inner).is_closed = true;
        self.wake_all();
    }

    /// Whether nobody should wait any longer.
    pub(crate) fn is_closed(&self) -> bool {
        lock(&self.inner).is_closed
    }

    /// What is waited for.
    pub(crate) fn ids(&self) -> Vec<String> {
        lock(&self.inner).by_id.keys().cloned().collect()
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        lock(&self.inner).count
    }
}

impl Waiter {
    /// Returns when something was decided since the last look.
    pub(crate) async fn woken(&mut self) {
        if self.signal.changed().await.is_err() {
            // The sender lives as long as anybody waits.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut inner = lock(&self.inner);
        inner.count = inner.count.saturating_sub(1);
        let is_last = inner
            .by_id
            .get(&self.id)
            // This waiter's own receiver is still counted.
            .is_some_and(|sender| sender.receiver_count() <= 1);
        if is_last {
            inner.by_id.remove(&self.id);
        }
    }
}

/// A panic while holding the lock leaves the table whole.
fn lock(inner: &Mutex<Inner>) -> std::sync::MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_decision_wakes_those_who_wait_for_it_and_nobody_else() {
        let waiters = Waiters::new(10);
        let (mut one, mut same, mut other) = (
            waiters.join("a").unwrap(),
            waiters.join("a").unwrap(),
            waiters.join("b").unwrap(),
        );
        waiters.wake("a");
        one.woken().await;
        same.woken().await;
        let unmoved = tokio::time::timeout(std::time::Duration::from_millis(20), other.woken()).await;
        assert!(unmoved.is_err());
        waiters.close();
        other.woken().await;
        assert!(waiters.is_closed() && waiters.join("a").is_err());
    }

    #[test]
    fn no_more_wait_than_may_and_whoever_leaves_makes_room() {
        let waiters = Waiters::new(2);
        let one = waiters.join("a").unwrap();
        let two = waiters.join("a").unwrap();
        assert_eq!(waiters.join("b").unwrap_err(), TooMany);
        drop(one);
        assert_eq!(waiters.ids(), ["a"], "somebody still waits");
        let three = waiters.join("b").unwrap();
        drop((two, three));
        assert!(
            waiters.ids().is_empty() && waiters.len() == 0,
            "nothing is left behind"
        );
    }
}
