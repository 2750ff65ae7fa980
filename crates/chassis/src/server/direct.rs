//! Which requests are answered without the router?
//!
//! A router with its layers erases types at each of them: a dozen allocations and as many calls for every request, more than an
//! answer from memory costs. A service may answer the few requests by which its cost is judged before that.

use std::fmt;
use std::future::Future;

use axum::response::Response;
use http::{HeaderValue, Request, header};
use hyper::body::{Body as _, Incoming};

use super::{Peer, RequestId};

/// Answers some requests without the router. What every request passes, passes these as well: the server's limits, the name, the
/// end of a panic and of patience.
pub trait Direct: Clone + fmt::Debug + Send + Sync + 'static {
    /// Whether this answers the request. Cost: paid by every request.
    fn takes(&self, request: &Request<Incoming>) -> bool;

    /// The answer.
    fn answer(
        &self,
        request: Request<Incoming>,
        peer: Peer,
        id: RequestId,
    ) -> impl Future<Output = Response> + Send;
}

/// Says how long the answer is where a router would, so that both send the same bytes.
pub(super) fn with_length(mut answer: Response) -> Response {
    if let Some(length) = answer.body().size_hint().exact() {
        answer
            .headers_mut()
            .entry(header::CONTENT_LENGTH)
            .or_insert_with(|| HeaderValue::from(length));
    }
    answer
}

/// Of a server that has none.
#[derive(Clone, Copy, Debug)]
pub(super) enum Never {}

impl Direct for Never {
    fn takes(&self, _request: &Request<Incoming>) -> bool {
        match *self {}
    }

    async fn answer(&self, _request: Request<Incoming>, _peer: Peer, _id: RequestId) -> Response {
        match *self {}
    }
}
