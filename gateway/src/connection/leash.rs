//! What ends a client connection, or the response on it? Phases of a connection, each with its reasons to stop waiting.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use caracal_bus::revocation::{Held, RevokedSignal};
use caracal_model::Anchor;
use tokio::time::{Instant, Sleep};

use super::left::{Client, Left};
use crate::context;

/// Why a connection was not allowed to stay as it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Trip {
    /// Nothing was asked for too long.
    #[error("the connection was idle for too long")]
    Idle,
    /// A request head did not arrive in time.
    #[error("the request head did not arrive in time")]
    SlowHead,
    /// An anchor of the mandate was revoked.
    #[error("the authority of the response was revoked")]
    Revoked(Anchor),
    /// The mandate expired.
    #[error("the mandate of the response expired")]
    Expired,
    /// The gateway stops, and the request did not end in time.
    #[error("the gateway stops")]
    Stopping,
    /// The upstream was silent for longer than allowed.
    #[error("the upstream was silent for too long")]
    UpstreamSilent,
}

/// Timeouts of a client connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Between requests (`IDLE_TIMEOUT`).
    pub(crate) idle: Duration,
    /// From the first byte of a request head to its last (`READ_HEADER_TIMEOUT`).
    pub(crate) head: Duration,
}

/// What the request being served allows its connection. Shared between the connection and the proxy hooks.
#[derive(Clone, Debug)]
pub(crate) struct Leash(Arc<Inside>);

#[derive(Debug)]
struct Inside {
    state: Mutex<State>,
    /// Whether it was polled since [`Leash::look_away`].
    is_polled: AtomicBool,
}

/// The state behind a [`Leash`].
#[derive(Debug)]
pub(super) struct State {
    patience: Patience,
    phase: Phase,
    trip: Option<Trip>,
    pub(super) farewell: Option<&'static [u8]>,
    /// There once the exchange was given up: what it held comes here.
    left: Option<Left>,
}

#[derive(Debug)]
enum Phase {
    /// Between requests.
    Idle { until: Instant },
    /// The first bytes of a request arrived.
    Head { until: Instant },
    /// The request is being decided; its own timeouts apply.
    Deciding,
    /// The request went to the upstream.
    Forwarding(Box<Forwarding>),
}

#[derive(Debug)]
struct Forwarding {
    /// Absent for a response that needs no authority.
    authority: Option<Authority>,
    /// When the upstream counts as silent.
    silent_at: Instant,
    /// Whether a piece of the request, or its end, was handed to the upstream.
    has_sent: bool,
}

/// What a request needs to go on, and its response to stay open.
#[derive(Debug)]
pub(crate) struct Authority {
    held: Arc<Held>,
    expires_at: Instant,
    /// Registered when the connection first has to wait, so that an answer that is there at once costs nothing.
    signal: Option<RevokedSignal>,
}

impl Authority {
    /// Authority that ends at `expires_at`, or when anything it is `held` by is revoked.
    pub(crate) fn new(held: Arc<Held>, expires_at: Instant) -> Self {
        Self {
            held,
            expires_at,
            signal: None,
        }
    }

    /// Whether it ended by now. At most four reads in memory.
    fn ended(&self, now: Instant) -> Option<Trip> {
        if now >= self.expires_at {
            return Some(Trip::Expired);
        }
        self.held.revoked().cloned().map(Trip::Revoked)
    }

    /// Resolves when it is revoked.
    fn poll_revoked(&mut self, context: &mut Context<'_>) -> Poll<Trip> {
        let signal = self.signal.get_or_insert_with(|| self.held.watch());
        Pin::new(signal).poll(context).map(Trip::Revoked)
    }
}

impl Leash {
    pub(super) fn new(patience: Patience) -> Self {
        let until = Instant::now() + patience.idle;
        let state = State {
            patience,
            phase: Phase::Idle { until },
            trip: None,
            farewell: None,
            left: None,
        };
        Self(Arc::new(Inside {
            state: Mutex::new(state),
            is_polled: AtomicBool::new(false),
        }))
    }

    /// A leash of an HTTP/2 stream, whose request head is complete.
    pub(crate) fn of_stream(patience: Patience) -> Self {
        let leash = Self::new(patience);
        leash.deciding();
        leash
    }

    /// The request head is complete: from here on the stages watch the time.
    pub(crate) fn deciding(&self) {
        self.lock().phase = Phase::Deciding;
    }

    /// The request goes to the upstream, or its answer begins, under `authority`; the upstream's next word is due within
    /// `silence_max`. Who listens for the end of the request's authority goes on listening.
    pub(crate) fn forwarding(&self, mut authority: Option<Authority>, silence_max: Duration) {
        let silent_at = Instant::now() + silence_max;
        let mut state = self.lock();
        let mut has_sent = false;
        if let Phase::Forwarding(before) = &mut state.phase {
            has_sent = before.has_sent;
            if let (Some(authority), Some(before)) = (&mut authority, &mut before.authority) {
                authority.signal = before.signal.take();
            }
        }
        state.phase = Phase::Forwarding(Box::new(Forwarding {
            authority,
            silent_at,
            has_sent,
        }));
    }

    /// Something passed in either direction; the upstream's next word is not due before `silence_max` from now.
    pub(crate) fn progress(&self, silence_max: Duration) {
        if let Phase::Forwarding(forwarding) = &mut self.lock().phase {
            forwarding.silent_at = forwarding.silent_at.max(Instant::now() + silence_max);
        }
    }

    /// A piece of the request is handed to the upstream, whose next word is due within `silence_max` from now: whatever was
    /// due before, or not before that where it `is_answered` already. Returns why the piece must not go, if so.
    pub(crate) fn sends(&self, silence_max: Duration, is_answered: bool) -> Option<Trip> {
        let mut state = self.lock();
        if let Phase::Forwarding(forwarding) = &mut state.phase {
            let due = Instant::now() + silence_max;
            forwarding.silent_at = if is_answered {
                forwarding.silent_at.max(due)
            } else {
                due
            };
            forwarding.has_sent = true;
        }
        state.check()
    }

    /// Whether the authority of the open response ended; remembers it if so. For checks between chunks.
    pub(crate) fn check(&self) -> Option<Trip> {
        self.lock().check()
    }

    /// Ends whatever is being served, because the gateway stops. Whoever polls the connection must be awake.
    pub(crate) fn cut(&self) {
        self.lock().trip.get_or_insert(Trip::Stopping);
    }

    /// What ended the present exchange, if this leash did.
    pub(crate) fn tripped(&self) -> Option<Trip> {
        self.lock().trip.clone()
    }

    /// Replaces the terminating chunk of the open response, once, so that it can carry a trailer. `chunk` must be a
    /// complete `last-chunk trailer-section CRLF` (RFC 9112 section 7.1).
    pub(crate) fn say_farewell(&self, chunk: &'static [u8]) {
        self.lock().farewell = Some(chunk);
    }

    /// The exchange is over; the connection may carry another one.
    pub(crate) fn idle(&self) {
        let mut state = self.lock();
        let until = Instant::now() + state.patience.idle;
        state.phase = Phase::Idle { until };
        state.trip = None;
        state.farewell = None;
    }

    /// Bytes arrived while nothing was being served: a request begins.
    pub(super) fn heard_client(&self) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Idle { .. }) {
            let until = Instant::now() + state.patience.head;
            state.phase = Phase::Head { until };
        }
    }

    /// Resolves when the connection must not wait any longer. Registers the task for the next reason to look again.
    pub(super) fn poll_trip(&self, sleep: &mut Pin<Box<Sleep>>, context: &mut Context<'_>) -> Poll<Trip> {
        self.0.is_polled.store(true, Ordering::Relaxed);
        self.lock().poll_trip(sleep, context)
    }

    /// From here on [`Leash::poll_unheard`] tells whether anybody waits for the client. Only the task of the exchange calls it.
    pub(crate) fn look_away(&self) {
        self.0.is_polled.store(false, Ordering::Relaxed);
    }

    /// Resolves when the exchange must end and nobody in it hears of that, because all wait for an upstream that takes
    /// nothing more of the request: then nobody has polled the leash since [`Leash::look_away`]. Two instructions
    /// for an exchange that waits for its client.
    pub(crate) fn poll_unheard(
        &self,
        sleep: &mut Option<Pin<Box<Sleep>>>,
        context: &mut Context<'_>,
    ) -> Poll<Trip> {
        if self.0.is_polled.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        self.lock().poll_unheard(sleep, context)
    }

    /// Gives the exchange up: what it holds of its client and its request is kept when it is dropped.
    pub(crate) fn give_up(&self) {
        self.lock().left = Some(Left::default());
    }

    /// What a dropped exchange has left, if it was given up.
    pub(crate) fn take_left(&self) -> Option<Left> {
        self.lock().left.take()
    }

    /// The exchange is dropped, and with it its side of the client.
    pub(super) fn leave_client(&self, client: impl FnOnce() -> Option<Client>) {
        if let Some(left) = &mut self.lock().left {
            left.client = client();
        }
    }

    /// The exchange is dropped, and with it what is known of its request.
    pub(crate) fn leave_request(&self, request: impl FnOnce() -> context::Context) {
        if let Some(left) = &mut self.lock().left {
            left.request = Some(Box::new(request()));
        }
    }

    /// Held for a few instructions, and never contended: the one task of the connection takes it.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn check(&mut self) -> Option<Trip> {
        if let Phase::Forwarding(forwarding) = &self.phase
            && let Some(authority) = &forwarding.authority
            && let Some(trip) = authority.ended(Instant::now())
        {
            self.trip = Some(trip);
        }
        self.trip.clone()
    }

    fn poll_unheard(&mut self, sleep: &mut Option<Pin<Box<Sleep>>>, context: &mut Context<'_>) -> Poll<Trip> {
        let Phase::Forwarding(forwarding) = &mut self.phase else {
            return Poll::Pending;
        };
        if !forwarding.has_sent {
            return Poll::Pending;
        }
        if let Some(trip) = &self.trip {
            return Poll::Ready(trip.clone());
        }
        let Some(authority) = &mut forwarding.authority else {
            return Poll::Pending;
        };
        if let Poll::Ready(trip) = authority.poll_revoked(context) {
            self.trip = Some(trip.clone());
            return Poll::Ready(trip);
        }
        let until = authority.expires_at;
        let sleep = sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        self.poll_deadline(sleep, context, until, Trip::Expired)
    }

    fn poll_deadline(
        &mut self,
        sleep: &mut Pin<Box<Sleep>>,
        context: &mut Context<'_>,
        until: Instant,
        trip: Trip,
    ) -> Poll<Trip> {
        if sleep.deadline() != until {
            sleep.as_mut().reset(until);
        }
        if sleep.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        self.trip = Some(trip.clone());
        Poll::Ready(trip)
    }

    fn poll_trip(&mut self, sleep: &mut Pin<Box<Sleep>>, context: &mut Context<'_>) -> Poll<Trip> {
        if let Some(trip) = &self.trip {
            return Poll::Ready(trip.clone());
        }
        let (until, trip) = match &mut self.phase {
            Phase::Deciding => return Poll::Pending,
            Phase::Idle { until } => (*until, Trip::Idle),
            Phase::Head { until } => (*until, Trip::SlowHead),
            Phase::Forwarding(forwarding) => match &mut forwarding.authority {
                None => (forwarding.silent_at, Trip::UpstreamSilent),
                Some(authority) => {
                    if let Poll::Ready(trip) = authority.poll_revoked(context) {
                        self.trip = Some(trip.clone());
                        return Poll::Ready(trip);
                    }
                    if authority.expires_at <= forwarding.silent_at {
                        (authority.expires_at, Trip::Expired)
                    } else {
                        (forwarding.silent_at, Trip::UpstreamSilent)
                    }
                }
            },
        };
        self.poll_deadline(sleep, context, until, trip)
    }
}
