//! Which bodies come piece by piece, so that nobody has to hold them?

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{Stream, StreamExt, unfold};
use http::Response;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::watch;

use super::{Answer, OpenStream, whole};

/// Size of the pieces of a flood.
const PIECE: u64 = 64 << 10;

/// Reads a body to its end and says how long it was.
pub(super) async fn count(mut body: Incoming) -> Result<Answer, hyper::Error> {
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        bytes += frame?.data_ref().map_or(0, Bytes::len);
    }
    let text = bytes.to_string();
    Ok(whole(http::StatusCode::OK, "text/plain", text.into()))
}

/// A long body that costs one piece of memory.
pub(super) fn flood(bytes: u64, is_length_told: bool) -> Answer {
    let piece = vec![b'x'; usize::try_from(PIECE).unwrap_or_default()];
    Response::new(
        Flood {
            piece: piece.into(),
            left: bytes,
            is_length_told,
        }
        .boxed(),
    )
}

struct Flood {
    piece: Bytes,
    left: u64,
    is_length_told: bool,
}

impl Body for Flood {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let size = self.left.min(PIECE);
        self.left -= size;
        let piece = self.piece.slice(..usize::try_from(size).unwrap_or_default());
        Poll::Ready((size > 0).then(|| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_length_told {
            SizeHint::with_exact(self.left)
        } else {
            SizeHint::default()
        }
    }
}

/// A body of events: `id` counts from 1, `data` is a tick.
pub(super) struct Events {
    open: OpenStream,
    ticks: Pin<Box<dyn Stream<Item = ()> + Send + Sync>>,
    sent: u64,
}

impl Events {
    /// One event per interval, the first at once.
    pub(super) fn each(interval: Duration, open: OpenStream) -> Self {
        let ticks = unfold(tokio::time::interval(interval), |mut ticks| async {
            ticks.tick().await;
            Some(((), ticks))
        });
        Self::of(ticks, open)
    }

    /// One event at once, and one for each release.
    pub(super) fn on_release(releases: watch::Receiver<usize>, open: OpenStream) -> Self {
        let first = futures_util::stream::iter([()]);
        let next = unfold(releases, |mut releases| async {
            releases.changed().await.ok()?;
            Some(((), releases))
        });
        Self::of(first.chain(next), open)
    }

    fn of(ticks: impl Stream<Item = ()> + Send + Sync + 'static, open: OpenStream) -> Self {
        let ticks = Box::pin(ticks);
        Self { open, ticks, sent: 0 }
    }
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if ready!(self.ticks.poll_next_unpin(context)).is_none() {
            return Poll::Ready(None);
        }
        self.sent += 1;
        let event = format!("id: {}\ndata: {{\"open\":{}}}\n\n", self.sent, self.open.count());
        Poll::Ready(Some(Ok(Frame::data(event.into()))))
    }
}
