//! Which addresses of an upstream are left alone for now? Those that failed several times in a row, and those that the
//! health check found ill. (docs/contract/gateway-upstreams.md, "Addresses")
//!
//! Upstreams with one address never come here: there is nothing to choose. Of the others, only those that failed lately are
//! remembered, and not more of them than fit.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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

/// What is known of one address.
#[derive(Clone, Copy, Debug)]
struct Known {
    address: SocketAddr,
    /// In a row.
    failures: u32,
    /// In a row.
    ejections: u32,
    /// Left alone until then; the next request after that tries it.
    ejected_until: Option<Instant>,
    /// One request tries it now, although it is left alone.
    is_probed: bool,
    /// What the health check says.
    is_ill: bool,
}

impl Known {
    fn new(address: SocketAddr) -> Self {
        Self {
            address,
            failures: 0,
            ejections: 0,
            ejected_until: None,
            is_probed: false,
            is_ill: false,
        }
    }

    fn is_left_alone(&self) -> bool {
        self.is_ill || self.ejected_until.is_some()
    }

    fn is_left_alone_at(&self, address: SocketAddr) -> bool {
        self.address == address && self.is_left_alone()
    }

    /// Whether a request should find out if it is well again.
    fn is_due(&self, now: Instant) -> bool {
        !self.is_ill && self.ejected_until.is_some_and(|until| until <= now)
    }
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

    /// The addresses of `upstream` in the order in which a request tries them: in turn, those left alone last. The one whose
    /// time is over comes first once, so that one request finds out. One look-up in memory when there are several.
    pub(crate) fn order(&self, upstream: &str, addresses: &[SocketAddr], now: Instant) -> Vec<SocketAddr> {
        let mut order = addresses.to_vec();
        if order.len() < 2 {
            return order;
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let Some(known) = self.upstreams.get(upstream) else {
            let start = turn % order.len();
            order.rotate_left(start);
            return order;
        };
        let mut known = lock(&known);
        let left_alone = |address: &SocketAddr| known.iter().any(|known| known.is_left_alone_at(*address));
        order.sort_by_key(left_alone);
        let well = order.iter().take_while(|address| !left_alone(address)).count();
        if let Some(well) = order.get_mut(..well).filter(|well| !well.is_empty()) {
            let start = turn % well.len();
            well.rotate_left(start);
        }
        let due = known
            .iter_mut()
            .find(|known| known.is_due(now) && order.contains(&known.address));
        if let Some(due) = due {
            due.is_probed = true;
            due.ejected_until = Some(now + PROBE_MAX);
            order.retain(|address| *address != due.address);
            order.insert(0, due.address);
        }
        order
    }

    /// One of the `addresses` of `upstream` could not be reached, or broke off before it answered. Returns whether it is left
    /// alone because of that.
    pub(crate) fn failed(
        &self,
        upstream: &str,
        addresses: &[SocketAddr],
        address: SocketAddr,
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
