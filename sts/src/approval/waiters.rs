//! Which approvals are waited for in this process?

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use caracal_storage::approval::Approval;
use tokio::sync::watch;

/// One approval may have this part of all places, one application that, and the applications of one zone together that; at
/// least one place each.
const PART_OF_APPROVAL: usize = 16;
const PART_OF_APPLICATION: usize = 4;
const PART_OF_ZONE: usize = 2;

/// Everybody who waits for a decision. Bounded: whoever knows an id may wait, and nobody is asked for more. So neither an
/// approval nor an application nor a zone may have all the places.
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
    by_zone: HashMap<String, usize>,
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

/// As many wait already as may, for anything, for this approval, of this application, or of this zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many requests wait for approvals")]
pub(crate) struct TooMany;

/// One who waits; leaves when dropped.
#[derive(Debug)]
pub(crate) struct Waiter {
    id: String,
    application: String,
    zone: String,
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
        self.join_as(&approval.id, application, approval.zone_id.as_str())
    }

    fn join_as(&self, id: &str, application: &str, zone: &str) -> Result<Waiter, TooMany> {
        let application = format!("{zone}/{application}");
        let mut inner = lock(&self.inner);
        let of_zone = inner.by_zone.get(zone).copied().unwrap_or(0);
        let of_approval = inner.by_id.get(id).map_or(0, |waited| waited.count);
        let of_application = inner.by_application.get(&application).copied().unwrap_or(0);
        let is_full = inner.count >= self.max
            || of_approval >= (self.max / PART_OF_APPROVAL).max(1)
            || of_application >= (self.max / PART_OF_APPLICATION).max(1)
            || of_zone >= (self.max / PART_OF_ZONE).max(1);
        if is_full || inner.is_closed {
            return Err(TooMany);
        }
        inner.count += 1;
        *inner.by_application.entry(application.clone()).or_default() += 1;
        *inner.by_zone.entry(zone.to_owned()).or_default() += 1;
        let waited = inner.by_id.entry(id.to_owned()).or_insert_with(|| Waited {
            count: 0,
            told: watch::Sender::new(None),
        });
        waited.count += 1;
        Ok(Waiter {
            id: id.to_owned(),
            application,
            zone: zone.to_owned(),
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
        leave(&mut inner.by_application, &self.application);
        leave(&mut inner.by_zone, &self.zone);
    }
}

fn leave(counts: &mut HashMap<String, usize>, name: &str) {
    if let Some(count) = counts.get_mut(name) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(name);
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
        waiters.join_as(id, application, "z1")
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
    fn an_approval_has_a_sixteenth_of_the_places_an_application_a_quarter_and_a_zone_a_half() {
        let waiters = Waiters::new(32);
        let mut inside = Vec::new();
        let mut take_in = |zone: &str, id: &str, application: &str| {
            let waiter = waiters.join_as(id, application, zone)?;
            inside.push(waiter);
            Ok::<_, TooMany>(())
        };
        for approval in ["a", "b", "c", "d"] {
            assert!(take_in("z1", approval, "x").is_ok() && take_in("z1", approval, "x").is_ok());
            assert!(
                take_in("z1", approval, "x").is_err(),
                "{approval} has two of thirty-two places"
            );
        }
        assert!(
            take_in("z1", "e", "x").is_err(),
            "x has eight of thirty-two places"
        );
        for approval in 0..8 {
            assert!(take_in("z1", &format!("y{approval}"), "y").is_ok());
        }
        assert!(
            take_in("z1", "f", "w").is_err(),
            "z1 has sixteen of thirty-two places"
        );
        for other in ["x", "y"] {
            for approval in 0..8 {
                assert!(
                    take_in("z2", &format!("z2{other}{approval}"), other).is_ok(),
                    "applications of another zone, whatever they are called"
                );
            }
        }
        assert!(take_in("z3", "v", "v").is_err(), "all places are taken");
    }

    #[test]
    fn whoever_leaves_makes_room_and_leaves_nothing_behind() {
        let waiters = Waiters::new(2);
        let one = join(&waiters, "a", "x").unwrap();
        let two = waiters.join_as("b", "y", "z2").unwrap();
        assert_eq!(
            waiters.join_as("c", "z", "z3").unwrap_err(),
            TooMany,
            "one place is the least and the most of two"
        );
        drop(one);
        assert_eq!(waiters.ids(), ["b"]);
        let three = join(&waiters, "a", "x").unwrap();
        drop((two, three));
        assert!(waiters.ids().is_empty() && waiters.len() == 0);
        let inner = lock(&waiters.inner);
        assert!(inner.by_application.is_empty() && inner.by_zone.is_empty());
    }
}
