//! What ends a client connection, or the response on it? Phases of a connection, each with its reasons to stop waiting.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use caracal_bus::revocation::{Revocations, RevokedSignal};
use caracal_model::{Anchor, Anchors};
use tokio::time::{Instant, Sleep};

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
pub(crate) struct Leash(Arc<Mutex<State>>);

/// The state behind a [`Leash`].
#[derive(Debug)]
pub(super) struct State {
    patience: Patience,
    phase: Phase,
    trip: Option<Trip>,
    pub(super) farewell: Option<&'static [u8]>,
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
}

/// What a request needs to go on, and its response to stay open.
#[derive(Debug)]
pub(crate) struct Authority {
    anchors: Anchors,
    revocations: Revocations,
    expires_at: Instant,
    /// Registered when the connection first has to wait, so that an answer that is there at once costs nothing.
    signal: Option<RevokedSignal>,
}

impl Authority {
    /// Authority that ends at `expires_at`, or when one of `anchors` is revoked.
    pub(crate) fn new(anchors: Anchors, revocations: Revocations, expires_at: Instant) -> Self {
        Self {
            anchors,
            revocations,
            expires_at,
            signal: None,
        }
    }

    /// Whether it ended by now. At most four reads in memory.
    fn ended(&self, now: Instant) -> Option<Trip> {
        if now >= self.expires_at {
            return Some(Trip::Expired);
        }
        self.revocations.is_revoked(&self.anchors).map(Trip::Revoked)
    }
}

impl Leash {
    pub(super) fn new(patience: Patience) -> Self {
        let until = Instant::now() + patience.idle;
        Self(Arc::new(Mutex::new(State {
            patience,
            phase: Phase::Idle { until },
            trip: None,
            farewell: None,
        })))
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
        if let Phase::Forwarding(before) = &mut state.phase
            && let (Some(authority), Some(before)) = (&mut authority, &mut before.authority)
        {
            authority.signal = before.signal.take();
        }
        state.phase = Phase::Forwarding(Box::new(Forwarding { authority, silent_at }));
    }

    /// Something passed in either direction; the upstream's next word is not due before `silence_max` from now.
    pub(crate) fn progress(&self, silence_max: Duration) {
        if let Phase::Forwarding(forwarding) = &mut self.lock().phase {
            forwarding.silent_at = forwarding.silent_at.max(Instant::now() + silence_max);
        }
    }

    /// The upstream's first word is due within `silence_max` from now, whatever was due before.
    pub(crate) fn head_due_within(&self, silence_max: Duration) {
        if let Phase::Forwarding(forwarding) = &mut self.lock().phase {
            forwarding.silent_at = Instant::now() + silence_max;
        }
    }

    /// Whether the authority of the open response ended; remembers it if so. For checks between chunks.
    pub(crate) fn check(&self) -> Option<Trip> {
        let mut state = self.lock();
        if let Phase::Forwarding(forwarding) = &state.phase
            && let Some(authority) = &forwarding.authority
            && let Some(trip) = authority.ended(Instant::now())
        {
            state.trip = Some(trip);
        }
        state.trip.clone()
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

    /// Held for a few instructions, and never contended: the one task of the connection takes it.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Resolves when the connection must not wait any longer. Registers the task for the next reason to look again.
    pub(super) fn poll_trip(&mut self, sleep: &mut Pin<Box<Sleep>>, context: &mut Context<'_>) -> Poll<Trip> {
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
                    let Authority {
                        anchors,
                        revocations,
                        expires_at,
                        signal,
                    } = authority;
                    let signal = signal.get_or_insert_with(|| revocations.watch(anchors));
                    if let Poll::Ready(anchor) = Pin::new(signal).poll(context) {
                        self.trip = Some(Trip::Revoked(anchor.clone()));
                        return Poll::Ready(Trip::Revoked(anchor));
                    }
                    if *expires_at <= forwarding.silent_at {
                        (*expires_at, Trip::Expired)
                    } else {
                        (forwarding.silent_at, Trip::UpstreamSilent)
                    }
                }
            },
        };
        if sleep.deadline() != until {
            sleep.as_mut().reset(until);
        }
        if sleep.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        self.trip = Some(trip.clone());
        Poll::Ready(trip)
    }
}
