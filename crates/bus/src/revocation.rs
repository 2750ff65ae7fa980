//! Which anchors are revoked, and who must hear of it at once.

mod held;
mod mark;
mod signal;

use std::collections::HashMap;
use std::collections::hash_map::Entry as MapEntry;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use caracal_model::revocation::{Anchor, Anchors};
use caracal_wire::event::SessionsRevoke;

use crate::entry::Entry;
use crate::freshness::Freshness;
pub use held::Held;
use mark::{Mark, MarkHasher, Marker};
pub use signal::RevokedSignal;
use signal::Signal;

/// Power of two. Enough that writers of one shard rarely meet readers of another at a few thousand requests a second.
const SHARDS: usize = 32;

/// The revoked anchors, in memory: its size is the number of live revocations, not of tokens.
///
/// Looking up one token reads at most four shards and never waits on anything but a lock held for one map
/// operation.
#[derive(Clone, Debug)]
pub struct Revocations(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shards: Vec<RwLock<Shard>>,
    marker: Marker,
    len: AtomicUsize,
    /// How many anchors were ever added; moves after each.
    changes: AtomicU64,
    freshness: Freshness,
}

#[derive(Debug, Default)]
struct Shard {
    /// Until when, in Unix seconds. A million are forty megabytes.
    revoked: HashMap<Mark, u32, MarkHasher>,
    watchers: HashMap<Mark, Vec<Arc<Signal>>, MarkHasher>,
}

impl Default for Revocations {
    fn default() -> Self {
        Self::new()
    }
}

impl Revocations {
    /// Nothing revoked, nothing proved fresh.
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            shards: (0..SHARDS).map(|_shard| RwLock::default()).collect(),
            marker: Marker::default(),
            len: AtomicUsize::new(0),
            changes: AtomicU64::new(0),
            freshness: Freshness::new(),
        }))
    }

    /// Revokes `anchor` until `expires_unix_s` (Unix seconds; the later of two calls' expiries counts), and wakes
    /// whoever watches it. Repeating it changes nothing.
    pub fn insert(&self, anchor: &Anchor, expires_unix_s: i64) {
        let mark = self.mark(anchor);
        let expires_unix_s = seconds(expires_unix_s);
        let watched = {
            let mut shard = self.write(mark);
            let watched = shard.watchers.remove(&mark);
            match shard.revoked.entry(mark) {
                MapEntry::Occupied(mut expires) => *expires.get_mut() = expires_unix_s.max(*expires.get()),
                MapEntry::Vacant(place) => {
                    place.insert(expires_unix_s);
                    self.0.len.fetch_add(1, Ordering::Relaxed);
                    // Whoever reads the new count finds the anchor.
                    self.0.changes.fetch_add(1, Ordering::Release);
                }
            }
            watched
        };
        for signal in watched.into_iter().flatten() {
            signal.fire(anchor);
        }
    }

    /// Revokes every anchor named by an entry of `caracal.sessions.revoke`; returns how many it named, 0 when it
    /// is not such a message.
    pub fn insert_entry(&self, entry: &Entry, expires_unix_s: i64) -> usize {
        let Ok(message) = SessionsRevoke::from_fields(&entry.fields) else {
            return 0;
        };
        let anchors = message.anchors();
        let count = anchors.len();
        for anchor in anchors {
            self.insert(&anchor, expires_unix_s);
        }
        count
    }

    /// The first anchor of a token that is revoked. At most four shard reads.
    pub fn is_revoked(&self, anchors: &Anchors) -> Option<Anchor> {
        anchors.iter().find(|anchor| self.holds(self.mark(anchor)))
    }

    /// What a token stands on, to be asked about more than once.
    pub fn hold(&self, anchors: &Anchors) -> Held {
        Held::new(self.clone(), anchors)
    }

    /// Number of revoked anchors.
    pub fn len(&self) -> usize {
        self.0.len.load(Ordering::Relaxed)
    }

    /// Whether nothing is revoked.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets revocations that expired before `now_unix_s` (Unix seconds); returns how many.
    ///
    /// A revocation may be forgotten once every token it could stop has expired.
    pub fn prune(&self, now_unix_s: i64) -> usize {
        let now_unix_s = seconds(now_unix_s);
        let mut forgotten = 0;
        for shard in &self.0.shards {
            let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
            let before = shard.revoked.len();
            shard.revoked.retain(|_anchor, expires| *expires >= now_unix_s);
            forgotten += before - shard.revoked.len();
        }
        self.0.len.fetch_sub(forgotten, Ordering::Relaxed);
        forgotten
    }

    /// A future that resolves with the first of `anchors` to be revoked, at once when one already is. Dropping it
    /// takes the registration back.
    pub fn watch(&self, anchors: &Anchors) -> RevokedSignal {
        Arc::new(self.hold(anchors)).watch()
    }

    /// Number of registrations of unfired signals, one for each anchor watched. Walks every shard; for metrics and tests.
    pub fn watching(&self) -> usize {
        let shards = self.0.shards.iter();
        shards
            .map(|shard| shard.read().unwrap_or_else(PoisonError::into_inner))
            .map(|shard| shard.watchers.values().map(Vec::len).sum::<usize>())
            .sum()
    }

    /// Up to which moment this set is complete; give it to the cursor that feeds the set
    /// ([`crate::cursor::Cursor::reporting_to`]).
    pub fn freshness(&self) -> &Freshness {
        &self.0.freshness
    }

    fn mark(&self, anchor: &Anchor) -> Mark {
        self.0.marker.mark(anchor)
    }

    fn holds(&self, mark: Mark) -> bool {
        self.read(mark).revoked.contains_key(&mark)
    }

    fn changes(&self) -> u64 {
        self.0.changes.load(Ordering::Acquire)
    }

    /// Has `signal` fired when the anchor of this mark is revoked; not when it already is.
    fn register(&self, mark: Mark, signal: &Arc<Signal>) -> bool {
        let mut shard = self.write(mark);
        if shard.revoked.contains_key(&mark) {
            return false;
        }
        shard.watchers.entry(mark).or_default().push(Arc::clone(signal));
        true
    }

    fn forget_watcher(&self, mark: Mark, signal: &Arc<Signal>) {
        let mut shard = self.write(mark);
        if let Some(watchers) = shard.watchers.get_mut(&mark) {
            watchers.retain(|watcher| !Arc::ptr_eq(watcher, signal));
            if watchers.is_empty() {
                shard.watchers.remove(&mark);
            }
        }
    }

    fn read(&self, mark: Mark) -> RwLockReadGuard<'_, Shard> {
        self.shard(mark).read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, mark: Mark) -> RwLockWriteGuard<'_, Shard> {
        self.shard(mark).write().unwrap_or_else(PoisonError::into_inner)
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "the remainder by the number of shards is a shard"
    )]
    fn shard(&self, mark: Mark) -> &RwLock<Shard> {
        &self.0.shards[mark.place(SHARDS)]
    }
}

/// A time as it is kept: nothing expires before 1970, and what outlives 2105 is remembered until then.
fn seconds(unix_s: i64) -> u32 {
    u32::try_from(unix_s.max(0)).unwrap_or(u32::MAX)
}
