//! What is held of one credential, and is anybody fetching it?

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use caracal_chassis::Secret;
use tokio::sync::watch;

use super::{Source, Unavailable};

/// A token is not handed out in its last seconds: the request it is for takes time.
const MARGIN_SECONDS: i64 = 30;
/// How long before its end a token is replaced, in seconds: a fifth of its life, within these.
const AHEAD_SECONDS_MIN: i64 = 60;
const AHEAD_SECONDS_MAX: i64 = 300;

/// Of what configuration a credential is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    fingerprint: [u8; 32],
    zone_version: i64,
}

impl Stamp {
    pub(crate) fn new(fingerprint: [u8; 32], zone_version: i64) -> Self {
        Self {
            fingerprint,
            zone_version,
        }
    }

    /// Whether a credential of this configuration is one of `wanted`, or of a later one.
    fn serves(&self, wanted: &Self) -> bool {
        self.fingerprint == wanted.fingerprint && self.zone_version >= wanted.zone_version
    }
}

/// A credential in memory.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) token: Secret,
    /// When it runs out, in Unix seconds; `None` when that is not known.
    pub(crate) expires_at: Option<i64>,
    /// The stored connection it comes from.
    pub(crate) connection_id: Option<String>,
    pub(super) source: Source,
    /// Until when it is handed out, in Unix seconds.
    serves_until: i64,
    /// From when on a new one is fetched, in Unix seconds.
    refresh_from: i64,
}

impl Held {
    /// A credential that is good from `obtained_at` to `expires_at`, both in Unix seconds. One that cannot be renewed is
    /// handed out to its end.
    pub(super) fn new(
        source: &Source,
        token: Secret,
        connection_id: Option<String>,
        obtained_at: i64,
        expires_at: Option<i64>,
        is_renewable: bool,
    ) -> Self {
        let (serves_until, refresh_from) = match expires_at {
            None => (i64::MAX, i64::MAX),
            Some(end) if !is_renewable => (end.saturating_sub(1), i64::MAX),
            Some(end) => {
                let life = end.saturating_sub(obtained_at).max(0);
                let margin = MARGIN_SECONDS.min(life / 2);
                (end.saturating_sub(margin), refresh_from(obtained_at, end))
            }
        };
        Self {
            token,
            expires_at,
            connection_id,
            source: source.clone(),
            serves_until,
            refresh_from,
        }
    }
}

/// From when on a token that lives from `obtained_at` to `end` is replaced, in Unix seconds.
pub(super) fn refresh_from(obtained_at: i64, end: i64) -> i64 {
    let life = end.saturating_sub(obtained_at).max(0);
    let ahead = (life / 5).clamp(AHEAD_SECONDS_MIN, AHEAD_SECONDS_MAX);
    end.saturating_sub(ahead)
        .max(obtained_at.saturating_add(life / 2))
}

/// The place of one credential.
#[derive(Debug)]
pub(super) struct Entry {
    held: ArcSwapOption<Held>,
    failure: Mutex<Option<(Stamp, Unavailable)>>,
    is_in_flight: AtomicBool,
    /// Moves when a fetch has ended.
    ended: watch::Sender<u64>,
    used_at: AtomicI64,
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            held: ArcSwapOption::empty(),
            failure: Mutex::new(None),
            is_in_flight: AtomicBool::new(false),
            ended: watch::Sender::new(0),
            used_at: AtomicI64::new(0),
        }
    }
}

impl Entry {
    /// What is held, if it is good now for `wanted`.
    pub(super) fn usable(&self, wanted: &Stamp, now: i64) -> Option<Arc<Held>> {
        let held = self.held.load_full()?;
        (held.source.stamp.serves(wanted) && now <= held.serves_until).then_some(held)
    }

    /// What is held, if it is time to replace it and somebody asked for it within `seconds`.
    pub(super) fn due(&self, now: i64, seconds: i64) -> Option<Arc<Held>> {
        let is_used = now.saturating_sub(self.used_at.load(Ordering::Relaxed)) <= seconds;
        let held = self.held.load_full().filter(|held| now >= held.refresh_from);
        held.filter(|_| is_used && !self.is_in_flight.load(Ordering::Acquire))
    }

    /// Why the last fetch failed, if it was for `wanted`.
    pub(super) fn failure(&self, wanted: &Stamp) -> Option<Unavailable> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        let failure = failure.as_ref().filter(|(stamp, _)| stamp.serves(wanted));
        failure.map(|(_, reason)| reason.clone())
    }

    pub(super) fn note_use(&self, now: i64) {
        self.used_at.store(now, Ordering::Relaxed);
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.ended.subscribe()
    }

    /// Claims the only fetch there may be; false when one is under way.
    pub(super) fn begin(&self) -> bool {
        self.is_in_flight
            .compare_exchange(false, true, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// Ends a fetch that brought nothing new.
    pub(super) fn end(&self) {
        self.is_in_flight.store(false, Ordering::Release);
        self.ended.send_modify(|ended| *ended = ended.wrapping_add(1));
    }

    /// Ends a fetch. After a failure what is held stays, as long as it is good.
    pub(super) fn land(&self, stamp: Stamp, outcome: Result<Held, Unavailable>) {
        let failure = match outcome {
            Ok(held) => {
                self.held.store(Some(Arc::new(held)));
                None
            }
            Err(reason) => {
                if matches!(reason, Unavailable::NotConnected | Unavailable::NotRenewable) {
                    self.held.store(None);
                }
                Some((stamp, reason))
            }
        };
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_replaced_before_it_runs_out() {
        for (life, from) in [(3_600, 3_300), (900, 720), (100, 50), (40, 20), (86_400, 86_100)] {
            assert_eq!(refresh_from(1_000, 1_000 + life), 1_000 + from, "{life}");
        }
    }

    #[test]
    fn a_later_configuration_serves_an_earlier_wish_but_not_the_other_way() {
        let stamp = |fingerprint: u8, version| Stamp::new([fingerprint; 32], version);
        assert!(stamp(1, 5).serves(&stamp(1, 5)));
        assert!(stamp(1, 6).serves(&stamp(1, 5)));
        assert!(!stamp(1, 4).serves(&stamp(1, 5)));
        assert!(!stamp(2, 5).serves(&stamp(1, 5)));
    }
}
