//! Was this read before or after the last announcement about it?
//!
//! Every announcement gets a position. A read remembers the position at its start, and is current while none of its
//! subjects has a later mark. So an announcement that arrives during a read is never lost, and nothing has to know
//! which cached answers a subject appears in.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use caracal_model::{AuthorityRecordId, DelegationId, SessionId, ZoneId};

const SHARDS: usize = 32;

/// What an announcement is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    /// Anything of a zone.
    Zone(ZoneId),
    /// A governed session.
    Session(SessionId),
    /// A delegation edge.
    Delegation(DelegationId),
    /// An authority record.
    Record(AuthorityRecordId),
}

/// The last marks, at most a fixed number; what was read before the oldest of them counts as old.
#[derive(Debug)]
pub(super) struct Marks {
    shards: Vec<RwLock<HashMap<Subject, u64>>>,
    hasher: RandomState,
    order: Mutex<VecDeque<(u64, Subject)>>,
    /// Position of the last announcement.
    position: AtomicU64,
    /// Reads that started before this position are old.
    floor: AtomicU64,
    capacity: usize,
}

impl Marks {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            hasher: RandomState::new(),
            order: Mutex::default(),
            position: AtomicU64::new(0),
            floor: AtomicU64::new(0),
            capacity,
        }
    }

    /// The position a read starts at. Take it before the statement is sent.
    pub(super) fn position(&self) -> u64 {
        self.position.load(Ordering::Acquire)
    }

    /// Marks `subject`. The mark is in place before the position moves, so a read that starts at the new position has
    /// started after the mark.
    pub(super) fn note(&self, subject: Subject) {
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let next = self.position.load(Ordering::Relaxed) + 1;
        self.shard(&subject)
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(subject.clone(), next);
        order.push_back((next, subject));
        if order.len() > self.capacity
            && let Some((oldest, subject)) = order.pop_front()
        {
            self.floor.store(oldest, Ordering::Release);
            let mut shard = self
                .shard(&subject)
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            if shard.get(&subject) == Some(&oldest) {
                shard.remove(&subject);
            }
        }
        self.position.store(next, Ordering::Release);
    }

    /// Makes everything read so far old.
    pub(super) fn forget_all(&self) {
        let _order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let next = self.position.load(Ordering::Relaxed) + 1;
        self.floor.store(next, Ordering::Release);
        self.position.store(next, Ordering::Release);
    }

    /// Whether what was read at `read_at` still holds as far as was announced. Cost: one shard read per subject.
    pub(super) fn is_current(&self, read_at: u64, subjects: &[Subject]) -> bool {
        read_at >= self.floor.load(Ordering::Acquire)
            && subjects.iter().all(|subject| {
                let shard = self.shard(subject).read().unwrap_or_else(PoisonError::into_inner);
                shard.get(subject).is_none_or(|marked| *marked <= read_at)
            })
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "the remainder by the number of shards is a shard"
    )]
    fn shard(&self, subject: &Subject) -> &RwLock<HashMap<Subject, u64>> {
        let hash = usize::try_from(self.hasher.hash_one(subject) % SHARDS as u64).unwrap_or(0);
        &self.shards[hash]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(id: &str) -> Subject {
        Subject::Session(SessionId::try_from(id).unwrap())
    }

    #[test]
    fn a_read_is_old_once_one_of_its_subjects_is_announced() {
        let marks = Marks::new(10);
        let before = marks.position();
        assert!(marks.is_current(before, &[session("s1"), session("s2")]));
        marks.note(session("s2"));
        assert!(!marks.is_current(before, &[session("s1"), session("s2")]));
        assert!(marks.is_current(before, &[session("s1")]), "others are untouched");
        assert!(
            marks.is_current(marks.position(), &[session("s2")]),
            "a read that starts now sees the change"
        );
    }

    #[test]
    fn an_announcement_during_a_read_is_not_lost() {
        let marks = Marks::new(10);
        let read_at = marks.position();
        marks.note(session("s1"));
        // The statement ends here, and nobody knows whether it saw the change.
        assert!(!marks.is_current(read_at, &[session("s1")]));
    }

    #[test]
    fn a_read_older_than_the_oldest_mark_is_old() {
        let marks = Marks::new(2);
        let before = marks.position();
        for id in ["a", "b", "c"] {
            marks.note(session(id));
        }
        assert!(
            !marks.is_current(before, &[session("x")]),
            "the mark of a was dropped, so nobody can tell"
        );
        assert!(marks.is_current(1, &[session("x")]));
        assert!(!marks.is_current(1, &[session("b")]));
    }

    #[test]
    fn a_subject_marked_again_keeps_its_newer_mark() {
        let marks = Marks::new(2);
        for id in ["a", "a", "b"] {
            marks.note(session(id));
        }
        assert!(
            !marks.is_current(1, &[session("a")]),
            "the first mark was dropped, the second counts"
        );
        assert!(marks.is_current(2, &[session("a")]));
    }

    #[test]
    fn forgetting_makes_everything_old() {
        let marks = Marks::new(2);
        let before = marks.position();
        marks.forget_all();
        assert!(!marks.is_current(before, &[]));
        assert!(marks.is_current(marks.position(), &[]));
    }
}
