//! In which order are the addresses of an upstream tried? In turn; those that failed several times in a row later, and those
//! that a health check found ill last. (docs/contract/gateway-upstreams.md, "Addresses")
//!
//! Upstreams with one address never come here: there is nothing to choose. Of the others, only those that failed lately are
//! remembered, and not more of them than fit.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use moka::sync::Cache;
use tokio::time::Instant;

/// Upstreams remembered at most.
const UPSTREAMS_MAX: u64 = 4_096;
/// How long an upstream is remembered of which nothing is heard.
const FORGET_AFTER: Duration = Duration::from_mins(10);
/// How long the one request that tries an address may take until another one may.
const PROBE_MAX: Duration = Duration::from_secs(30);
/// Times an ejection at most doubles.
const DOUBLINGS_MAX: u32 = 8;
/// Broken connections remembered of one address.
const BROKEN_MAX: usize = 8;

/// When an address is left alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EjectionRules {
    /// Failures in a row; 0 for never.
    pub(crate) failures: u32,
    /// For how long at first. Each further time in a row doubles it.
    pub(crate) first: Duration,
    /// For how long at most.
    pub(crate) longest: Duration,
}

/// What is known of the addresses of upstreams.
#[derive(Debug)]
pub(crate) struct Outliers {
    rules: EjectionRules,
    upstreams: Cache<String, Arc<Mutex<Vec<Known>>>>,
    turn: AtomicUsize,
    ejections: AtomicU64,
}

/// One connection to an upstream: the number the operating system knows it by, and when it was made.
pub(crate) type ConnectionId = (i32, Option<SystemTime>);

/// How an address failed a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Failure {
    /// It could not be reached, or said nothing for too long.
    Request,
    /// This connection ended: that is one failure, however many requests it carried.
    Connection(ConnectionId),
}

/// What is known of one address.
#[derive(Clone, Debug)]
struct Known {
    address: SocketAddr,
    /// In a row.
    failures: u32,
    /// Connections whose end was counted, the last ones.
    broken: Vec<ConnectionId>,
    /// In a row.
    ejections: u32,
    /// Left alone until then; the next request after that tries it.
    ejected_until: Option<Instant>,
    /// One request tries it now, although it is left alone.
    is_probed: bool,
}

impl Known {
    fn new(address: SocketAddr) -> Self {
        Self {
            address,
            failures: 0,
            broken: Vec::new(),
            ejections: 0,
            ejected_until: None,
            is_probed: false,
        }
    }

    fn is_left_alone(&self) -> bool {
        self.ejected_until.is_some()
    }

    /// Whether a request should find out if it is well again.
    fn is_due(&self, now: Instant) -> bool {
        self.ejected_until.is_some_and(|until| until <= now)
    }

    /// Whether a failure is one that was not counted yet.
    fn is_news(&mut self, failure: Failure) -> bool {
        let Failure::Connection(connection) = failure else {
            return true;
        };
        if self.broken.contains(&connection) {
            return false;
        }
        if self.broken.len() >= BROKEN_MAX {
            self.broken.remove(0);
        }
        self.broken.push(connection);
        true
    }
}

/// How gladly an address is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Well,
    LeftAlone,
    Ill,
}

impl Outliers {
    /// Nothing known.
    pub(crate) fn new(rules: EjectionRules) -> Self {
        Self {
            rules,
            upstreams: Cache::builder()
                .max_capacity(UPSTREAMS_MAX)
                .time_to_idle(FORGET_AFTER)
                .build(),
            turn: AtomicUsize::new(0),
            ejections: AtomicU64::new(0),
        }
    }

    /// The addresses of `upstream` in the order in which a request tries them: in turn, then those left alone, then those that
    /// are ill. The one whose time is over comes first once, so that one request finds out. One look-up in memory when there
    /// are several.
    pub(crate) fn order(
        &self,
        upstream: &str,
        addresses: &[SocketAddr],
        is_ill: impl Fn(SocketAddr) -> bool,
        now: Instant,
    ) -> Vec<SocketAddr> {
        let mut order = addresses.to_vec();
        if order.len() < 2 {
            return order;
        }
        let known = self.upstreams.get(upstream).unwrap_or_default();
        let mut known = lock(&known);
        let standing = |address: SocketAddr| {
            let is_left_alone = |known: &Known| known.address == address && known.is_left_alone();
            if is_ill(address) {
                Standing::Ill
            } else if known.iter().any(is_left_alone) {
                Standing::LeftAlone
            } else {
                Standing::Well
            }
        };
        let mut ranked: Vec<_> = order
            .iter()
            .map(|address| (standing(*address), *address))
            .collect();
        ranked.sort_by_key(|(standing, _address)| *standing);
        let best = ranked.first().map(|(standing, _address)| *standing);
        let alike = ranked
            .iter()
            .take_while(|(standing, _address)| Some(*standing) == best)
            .count();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        if let Some(alike) = ranked.get_mut(..alike).filter(|alike| !alike.is_empty()) {
            let start = turn % alike.len();
            alike.rotate_left(start);
        }
        order.clear();
        order.extend(ranked.into_iter().map(|(_standing, address)| address));
        let due = known
            .iter_mut()
            .find(|known| known.is_due(now) && order.contains(&known.address) && !is_ill(known.address));
        if let Some(due) = due {
            due.is_probed = true;
            due.ejected_until = Some(now + PROBE_MAX);
            order.retain(|address| *address != due.address);
            order.insert(0, due.address);
        }
        order
    }

    /// The request that was to try an address did not come to it: the next one may.
    pub(crate) fn untried(&self, upstream: &str, address: SocketAddr, now: Instant) {
        let Some(known) = self.upstreams.get(upstream) else {
            return;
        };
        let mut known = lock(&known);
        let is_this = |known: &&mut Known| known.address == address && known.is_probed;
        if let Some(this) = known.iter_mut().find(is_this) {
            this.is_probed = false;
            this.ejected_until = Some(now);
        }
    }

    /// One of the `addresses` of `upstream` could not be reached, or broke off before it answered. Returns whether it is left
    /// alone because of that.
    pub(crate) fn failed(
        &self,
        upstream: &str,
        addresses: &[SocketAddr],
        address: SocketAddr,
        failure: Failure,
        now: Instant,
    ) -> bool {
        if addresses.len() < 2 || self.rules.failures == 0 {
            return false;
        }
        let known = self.upstreams.get_with_by_ref(upstream, Arc::default);
        let mut known = lock(&known);
        let ejected = known
            .iter()
            .filter(|known| known.ejected_until.is_some() && addresses.contains(&known.address))
            .count();
        let this = of(&mut known, address);
        if !this.is_news(failure) {
            return false;
        }
        this.failures = this.failures.saturating_add(1);
        let is_due = if this.ejected_until.is_some() {
            // What was under way when it was ejected says nothing new.
            this.is_probed
        } else {
            // At most half are left alone: when all fail, the reason is not the address.
            this.failures >= self.rules.failures && (ejected + 1) * 2 <= addresses.len()
        };
        if !is_due {
            return false;
        }
        let longer = 2_u32.saturating_pow(this.ejections.min(DOUBLINGS_MAX));
        let time = self.rules.first.saturating_mul(longer).min(self.rules.longest);
        this.ejections = this.ejections.saturating_add(1);
        this.is_probed = false;
        this.ejected_until = Some(now + time);
        self.ejections.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// One of several addresses of `upstream` answered. One look-up in memory.
    pub(crate) fn answered(&self, upstream: &str, address: SocketAddr) {
        let Some(known) = self.upstreams.get(upstream) else {
            return;
        };
        let mut known = lock(&known);
        if let Some(this) = known.iter_mut().find(|known| known.address == address) {
            this.failures = 0;
            this.ejections = 0;
            this.ejected_until = None;
            this.is_probed = false;
        }
    }

    /// How many addresses are left alone now, and how often one was in all.
    pub(crate) fn counts(&self) -> (usize, u64) {
        let left_alone = self.upstreams.iter().map(|(_upstream, known)| {
            let known = lock(&known);
            known.iter().filter(|known| known.is_left_alone()).count()
        });
        (left_alone.sum(), self.ejections.load(Ordering::Relaxed))
    }
}

/// What is known of `address`; of as many addresses as one name has at most (`caracal_egress`), and a few it had before.
fn of(known: &mut Vec<Known>, address: SocketAddr) -> &mut Known {
    const ADDRESSES_MAX: usize = 64;
    let place = known.iter().position(|known| known.address == address);
    let place = place.unwrap_or_else(|| {
        if known.len() >= ADDRESSES_MAX {
            known.remove(0);
        }
        known.push(Known::new(address));
        known.len() - 1
    });
    #[expect(clippy::indexing_slicing, reason = "the place was found or made above")]
    &mut known[place]
}

/// A panic while holding one of these locks leaves its value whole.
fn lock(known: &Mutex<Vec<Known>>) -> MutexGuard<'_, Vec<Known>> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
