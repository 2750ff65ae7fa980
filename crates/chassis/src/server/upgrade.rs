//! How does a handler take a connection over, to speak something else on it (RFC 9110 section 7.8)?

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{HeaderMap, Request, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::connection::Place;
use super::idle::Busy;
use crate::shutdown::Shutdown;

/// What an upgraded connection keeps, and hears.
#[derive(Clone)]
pub(super) struct Leave {
    pub(super) _place: Arc<Place>,
    pub(super) shutdown: Shutdown,
    pub(super) cut: Shutdown,
}

/// Whether a request asks to speak something else.
pub(super) fn asks_for_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(header::UPGRADE)
}

/// The offer of a client to speak something else: an extension of its request, and an extractor. Answer 101 and wait for the
/// connection in a task of its own; dropped, it is turned down.
#[derive(Clone, Default)]
pub struct Upgrade(Option<Arc<Offer>>);

struct Offer {
    taken: std::sync::Mutex<Option<Taken>>,
}

struct Taken {
    connection: OnUpgrade,
    leave: Leave,
    busy: Busy,
}

impl Upgrade {
    pub(super) fn offered(request: &mut Request<Body>, leave: Leave, busy: Busy) -> Self {
        let connection = hyper::upgrade::on(request);
        Self(Some(Arc::new(Offer {
            taken: std::sync::Mutex::new(Some(Taken {
                connection,
                leave,
                busy,
            })),
        })))
    }

    /// Whether there is one.
    pub fn is_offered(&self) -> bool {
        self.0.is_some()
    }

    /// The connection, when the 101 is sent; `None` when there was no offer or the client went away.
    pub async fn accepted(self) -> Option<Upgraded> {
        let offer = self.0?;
        let taken = offer
            .taken
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take()?;
        let connection = taken.connection.await.ok()?;
        Some(Upgraded {
            stream: TokioIo::new(connection),
            leave: taken.leave,
            _busy: taken.busy,
        })
    }
}

impl fmt::Debug for Upgrade {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("Upgrade")
            .field(&self.is_offered())
            .finish()
    }
}

impl<S: Sync> FromRequestParts<S> for Upgrade {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.remove::<Self>().unwrap_or_default())
    }
}

/// A connection that was taken over. It counts as one of the server's for as long as this is kept, and no limit of requests
/// ends it.
pub struct Upgraded {
    /// What comes and goes.
    pub stream: TokioIo<hyper::upgrade::Upgraded>,
    leave: Leave,
    _busy: Busy,
}

impl Upgraded {
    /// Resolves when no new work should be taken: the service is about to end.
    pub fn shutdown(&self) -> Shutdown {
        self.leave.shutdown.clone()
    }

    /// Resolves when the time to end by itself is over.
    pub fn cut(&self) -> Shutdown {
        self.leave.cut.clone()
    }
}

impl fmt::Debug for Upgraded {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Upgraded").finish_non_exhaustive()
    }
}
