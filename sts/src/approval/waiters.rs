//! Which approvals are waited for in this process?

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use caracal_storage::approval::Approval;
use tokio::sync::watch;

/// One approval may have this part of all places, and one application that; at least one place each.
const PART_OF_APPROVAL: usize = 16;
const PART_OF_APPLICATION: usize = 4;

/// Everybody who waits for a decision. Bounded: whoever knows an id may wait, and nobody is asked for more. So neither an
/// approval nor an application may have all the places.
#[derive(Debug)]
pub(crate) struct Waiters {
    max: usize,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    count: usize,
    is_closed: bool,
    by_id: HashMap<String, Waited>,
    by_application: HashMap<String, usize>,
}

#[derive(Debug)]
struct Waited {
    count: usize,
    told: watch::Sender<Option<Told>>,
}

/// What those who wait are told.
#[derive(Debug, Clone)]
pub(crate) enum Told {
    /// The approval is not pending any more: decided, used, or over.
    Settled(Arc<Approval>),
    /// There is no such approval any more.
    Gone,
    /// The service ends.
    Closing,
}

/// As many wait already as may, for anything, for this approval, or of this application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many requests wait for approvals")]
pub(crate) struct TooMany;

/// One who waits; leaves when dropped.
#[derive(Debug)]
pub(crate) struct Waiter {
    id: String,
    application: String,
    told: watch::Receiver<Option<Told>>,
    inner: Arc<Mutex<Inner>>,
}

impl Waiters {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            inner: Arc::default(),
        }
    }

    /// Registers one who waits for `approval`. To miss nothing, look at the approval after this.
    ///
    /// # Errors
    /// [`TooMany`].
    pub(crate) fn join(&self, approval: &Approval) -> Result<Waiter, TooMany> {
        let application = approval.application_id.as_deref().unwrap_or_default();
        self.join_as(&approval.id, format!("{}/{application}", approval.zone_id))
    }

    fn join_as(&self, id: &str, application: String) -> Result<Waiter, TooMany> {
        let mut inner = lock(&self.inner);
        let of_approval = inner.by_id.get(id).map_or(0, |waited| waited.count);
        let of_application = inner.by_application.get(&application).copied().unwrap_or(0);
        let is_full = inner.count >= self.max
            || of_approval >= (self.max / PART_OF_APPROVAL).max(1)
            || of_application >= (self.max / PART_OF_APPLICATION).max(1);
        if is_full || inner.is_closed {
            return Err(TooMany);
        }
        inner.count += 1;
        *inner.by_application.entry(application.clone()).or_default() += 1;
        let waited = inner.by_id.entry(id.to_owned()).or_insert_with(|| Waited {
            count: 0,
            told: watch::Sender::new(None),
        });
        waited.count += 1;
        Ok(Waiter {
            id: id.to_owned(),
            application,
            told: waited.told.subscribe(),
            inner: Arc::clone(&self.inner),
        })
    }

    /// Tells everybody who waits for `id`. Whoever joins later looks for himself.
    pub(crate) fn tell(&self, id: &str, told: Told) {
        if let Some(waited) = lock(&self.inner).by_id.get(id) {
            waited.told.send_replace(Some(told));
        }
    }

    /// Lets nobody wait any longer: the service ends.
    pub(crate) fn close(&self) {
        let mut inner = lock(&self.inner);
        inner.is_closed = true;
        for waited in inner.by_id.values() {
            waited.told.send_replace(Some(Told::Closing));
        }
    }

    /// Whether anybody waits for `id`.
    pub(crate) fn waits_for(&self, id: &str) -> bool {
        lock(&self.inner).by_id.contains_key(id)
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
    /// Returns what was told since this one joined.
    pub(crate) async fn told(&mut self) -> Told {
        while self.told.changed().await.is_ok() {
            if let Some(told) = self.told.borrow_and_update().clone() {
                return told;
            }
        }
        // The sender lives as long as anybody waits.
        std::future::pending().await
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut inner = lock(&self.inner);
        inner.count = inner.count.saturating_sub(1);
        if let Some(waited) = inner.by_id.get_mut(&self.id) {
            waited.count = waited.count.saturating_sub(1);
            if waited.count == 0 {
                inner.by_id.remove(&self.id);
            }
        }
        if let Some(count) = inner.by_application.get_mut(&self.application) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                inner.by_application.remove(&self.application);
            }
        }
    }
}

/// A panic while holding the lock leaves the table whole.
fn lock(inner: &Mutex<Inner>) -> std::sync::MutexGuard<'_, Inner> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn join(waiters: &Waiters, id: &str, application: &str) -> Result<Waiter, TooMany> {
        waiters.join_as(id, application.to_owned())
    }

    #[tokio::test]
    async fn a_decision_is_told_to_those_who_wait_for_it_and_nobody_else() {
        let waiters = Waiters::new(100);
        let (mut one, mut same, mut other) = (
            join(&waiters, "a", "x").unwrap(),
            join(&waiters, "a", "x").unwrap(),
            join(&waiters, "b", "x").unwrap(),
        );
        waiters.tell("a", Told::Gone);
        assert!(matches!(one.told().await, Told::Gone));
        assert!(matches!(same.told().await, Told::Gone));
        assert!(other.told().now_or_never().is_none());
        let mut late = join(&waiters, "a", "x").unwrap();
        assert!(
            late.told().now_or_never().is_none(),
            "whoever comes later looks for himself"
        );
        waiters.close();
        assert!(matches!(other.told().await, Told::Closing));
        assert!(join(&waiters, "c", "y").is_err());
    }

    #[test]
    fn an_approval_has_a_sixteenth_of_the_places_and_an_application_a_quarter() {
        let waiters = Waiters::new(32);
        let mut inside = Vec::new();
        let mut take = |id: &str, application: &str| {
            let waiter = join(&waiters, id, application)?;
            inside.push(waiter);
            Ok::<_, TooMany>(())
        };
        for approval in ["a", "b", "c", "d"] {
            assert!(take(approval, "x").is_ok() && take(approval, "x").is_ok());
            assert!(
                take(approval, "x").is_err(),
                "{approval} has two of thirty-two places"
            );
        }
        assert!(take("e", "x").is_err(), "x has eight of thirty-two places");
        for other in ["y", "z", "w"] {
            for approval in 0..8 {
                assert!(take(&format!("{other}{approval}"), other).is_ok(), "{other}");
            }
        }
        assert!(take("v", "v").is_err(), "all places are taken");
    }

    #[test]
    fn whoever_leaves_makes_room_and_leaves_nothing_behind() {
        let waiters = Waiters::new(2);
        let one = join(&waiters, "a", "x").unwrap();
        assert_eq!(
            join(&waiters, "a", "y").unwrap_err(),
            TooMany,
            "one place is the least and the most of two"
        );
        let two = join(&waiters, "b", "y").unwrap();
        assert!(join(&waiters, "c", "z").is_err());
        drop(one);
        assert_eq!(waiters.ids(), ["b"]);
        let three = join(&waiters, "a", "x").unwrap();
        drop((two, three));
        assert!(waiters.ids().is_empty() && waiters.len() == 0);
        assert!(lock(&waiters.inner).by_application.is_empty());
    }
}
