//! Which credential does an upstream want now, when it is one that runs out?
//!
//! Tokens of OAuth providers are held in memory and refreshed ahead of their end, in the background. A request waits only
//! when there is none that is good, never longer than it may, and never for a fetch of its own: whoever asks first starts
//! one, everybody waits for that one, and it goes on when nobody waits any more
//! (`docs/contract/upstream-credentials.md`).

mod circuit;
mod connection;
mod counters;
mod entry;
mod flight;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use caracal_chassis::Clock;
use caracal_chassis::shutdown::Shutdown;
use caracal_model::{ProviderId, SubjectId};
use caracal_oauth::TokenCaller;
use caracal_storage::Database;
use caracal_token::envelope::Keyring;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::circuit::Circuit;
use self::entry::Entry;
use self::flight::Flight;
use crate::zone::{OAuthProvider, ZoneModel};

pub(crate) use self::counters::Counters;
pub(crate) use self::entry::{Held, Stamp};

/// Credentials in memory; the least used is fetched again when it is asked for.
const CREDENTIALS_MAX: u64 = 50_000;
/// A credential nobody asked for in this time is not refreshed ahead, in seconds.
const USED_WITHIN_SECONDS: i64 = 600;
/// A credential nobody asked for in this time is forgotten.
const IDLE_MAX: Duration = Duration::from_hours(2);
/// Fetches at once, and how many may wait for their turn.
const FLIGHTS_MAX: usize = 64;
const WAITING_FLIGHTS_MAX: usize = 1_024;
/// How often credentials that run out soon are looked for.
const AHEAD_EVERY: Duration = Duration::from_secs(1);

/// Why there is no credential. Names no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unavailable {
    #[error("the provider failed repeatedly and is not asked for a while")]
    Paused,
    #[error("the provider has not answered in time")]
    Late,
    #[error("too many credentials are being fetched")]
    Busy,
    /// The token endpoint gave none; the text of [`caracal_oauth::TokenError`].
    #[error("{0}")]
    Refused(String),
    #[error("no account is connected for this subject")]
    NotConnected,
    #[error("the connected account has to be connected again")]
    NotRenewable,
    #[error("the tokens of the connected account cannot be opened")]
    Sealed,
    #[error("the connected account cannot be read now")]
    Store,
}

/// Whose credential it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    Client(ProviderId),
    Connection(ProviderId, SubjectId),
}

/// Where a credential comes from.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    provider: Arc<OAuthProvider>,
    /// Whose account; `None` for a token the client gets for itself.
    subject: Option<SubjectId>,
    stamp: Stamp,
}

impl Source {
    /// A token the client of `provider` gets for itself.
    pub(crate) fn client(provider: &Arc<OAuthProvider>) -> Self {
        Self {
            stamp: Stamp::new(provider.fingerprint, 0),
            provider: Arc::clone(provider),
            subject: None,
        }
    }

    /// A token of the account that `subject` has connected. Looked up again when the zone's configuration has moved,
    /// because then the account may have been disconnected.
    pub(crate) fn connection(zone: &ZoneModel, provider: &Arc<OAuthProvider>, subject: &SubjectId) -> Self {
        Self {
            stamp: Stamp::new(provider.fingerprint, zone.version),
            provider: Arc::clone(provider),
            subject: Some(subject.clone()),
        }
    }

    fn key(&self) -> Key {
        let provider = self.provider.id.clone();
        match &self.subject {
            None => Key::Client(provider),
            Some(subject) => Key::Connection(provider, subject.clone()),
        }
    }
}

/// Every credential that runs out.
#[derive(Debug)]
pub(crate) struct UpstreamCredentials {
    caller: TokenCaller,
    clock: Clock,
    database: Database,
    keyring: Arc<Keyring>,
    /// The longest a token is used, in seconds.
    ttl_max: i64,
    entries: moka::sync::Cache<Key, Arc<Entry>>,
    circuits: moka::sync::Cache<ProviderId, Arc<Circuit>>,
    flights: mpsc::Sender<Flight>,
    waiting: Mutex<Option<mpsc::Receiver<Flight>>>,
    counters: Counters,
}

/// What the credentials are made of.
pub(crate) struct Parts {
    pub(crate) caller: TokenCaller,
    pub(crate) clock: Clock,
    pub(crate) database: Database,
    pub(crate) keyring: Arc<Keyring>,
    /// The longest a token is used, in seconds.
    pub(crate) ttl_max: i64,
    pub(crate) counters: Counters,
}

impl UpstreamCredentials {
    pub(crate) fn new(parts: Parts) -> Self {
        let (flights, waiting) = mpsc::channel(WAITING_FLIGHTS_MAX);
        Self {
            caller: parts.caller,
            clock: parts.clock,
            database: parts.database,
            keyring: parts.keyring,
            ttl_max: parts.ttl_max,
            counters: parts.counters,
            entries: moka::sync::Cache::builder()
                .max_capacity(CREDENTIALS_MAX)
                .time_to_idle(IDLE_MAX)
                .build(),
            circuits: moka::sync::Cache::builder().max_capacity(CREDENTIALS_MAX).build(),
            flights,
            waiting: Mutex::new(Some(waiting)),
        }
    }

    /// The credential of `source`. Memory only while there is a good one; else waits for one fetch, at most `wait`.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub(crate) async fn obtain(&self, source: Source, wait: Duration) -> Result<Arc<Held>, Unavailable> {
        let entry = self.entries.get_with(source.key(), Arc::default);
        let now = self.clock.unix_seconds();
        entry.note_use(now);
        if let Some(held) = entry.usable(&source.stamp, now) {
            return Ok(held);
        }
        let until = Instant::now() + wait;
        let mut is_shared = false;
        loop {
            // Subscribed before looking, so that an end in between is seen one way or the other.
            let mut ended = entry.subscribe();
            if let Some(held) = entry.usable(&source.stamp, self.clock.unix_seconds()) {
                return Ok(held);
            }
            if !self.start(&entry, &source, false)? && !is_shared {
                is_shared = true;
                self.counters.shared.inc();
            }
            if tokio::time::timeout_at(until, ended.changed()).await.is_err() {
                return Err(Unavailable::Late);
            }
            if let Some(held) = entry.usable(&source.stamp, self.clock.unix_seconds()) {
                return Ok(held);
            }
            if let Some(failure) = entry.failure(&source.stamp) {
                return Err(failure);
            }
        }
    }

    /// Starts a fetch unless one is under way, which it says with false.
    fn start(&self, entry: &Arc<Entry>, source: &Source, is_ahead: bool) -> Result<bool, Unavailable> {
        let now = self.clock.unix_seconds();
        // A connection is read from the database first and may need no fetch, so the circuit is asked later for those.
        if source.subject.is_none() && !self.circuit(&source.provider.id).is_closed(now) {
            return Err(Unavailable::Paused);
        }
        if !entry.begin() {
            return Ok(false);
        }
        if !is_ahead && entry.usable(&source.stamp, now).is_some() {
            // The flight that was under way has ended in between, and well.
            entry.end();
            return Ok(true);
        }
        let flight = Flight {
            entry: Arc::clone(entry),
            source: source.clone(),
            is_ahead,
        };
        self.flights.try_send(flight).map_err(|_full_or_stopped| {
            entry.end();
            Unavailable::Busy
        })?;
        Ok(true)
    }

    /// Fetches what is asked for and what runs out soon, until `shutdown`; then ends what is under way, because a
    /// refresh token that was used must not be lost.
    pub(crate) async fn run(self: Arc<Self>, shutdown: Shutdown) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut waiting) = waiting else { return };
        let mut flying = FuturesUnordered::new();
        let mut ahead = tokio::time::interval(AHEAD_EVERY);
        ahead.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.requested() => break,
                Some(flight) = waiting.recv(), if flying.len() < FLIGHTS_MAX => flying.push(self.fly(flight)),
                Some(()) = flying.next(), if !flying.is_empty() => {}
                _ = ahead.tick() => self.refresh_ahead(),
            }
        }
        while flying.next().await.is_some() {}
    }

    /// Starts a fetch for every credential in use that runs out soon.
    fn refresh_ahead(&self) {
        let now = self.clock.unix_seconds();
        let mut paused = HashSet::new();
        for (_, entry) in &self.entries {
            let Some(held) = entry.due(now, USED_WITHIN_SECONDS) else {
                continue;
            };
            if paused.contains(&held.source.provider.id) {
                continue;
            }
            if self.start(&entry, &held.source, true).is_err() {
                paused.insert(held.source.provider.id.clone());
            }
        }
    }

    async fn fly(&self, flight: Flight) {
        let outcome = flight.fetch(self).await;
        match &outcome {
            Ok(_) => self.counters.fetched.inc(),
            Err(reason) => {
                self.counters.failed.inc();
                let provider = &flight.source.provider;
                tracing::warn!(
                    zone.id = %provider.zone_id, provider.id = %provider.id, %reason, "no upstream credential was obtained"
                );
            }
        }
        flight.entry.land(flight.source.stamp, outcome);
    }

    fn circuit(&self, provider: &ProviderId) -> Arc<Circuit> {
        self.circuits.get_with_by_ref(provider, Arc::default)
    }
}
