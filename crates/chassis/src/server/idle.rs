//! When has a client kept a connection long enough without using it?
//!
//! One timer per connection, moved by what the connection does: a client has `head` from opening the connection (or
//! from the first byte of a request) to the end of the request's headers, and `idle` between an answer and the next
//! request. While a request is in progress its own limits count, and the timer rests. A second timer, `write`, runs only
//! while an answer is ready and the client takes nothing of it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::task::AtomicWaker;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Whether a request is in progress on a connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Activity(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// Requests in progress, and a connection taken over.
    begun: AtomicUsize,
    /// Whoever read last: hyper does not read again by itself when an answer ends, and the timer must start then.
    reader: AtomicWaker,
}

impl Activity {
    /// Marks the connection busy until the result is dropped.
    pub(super) fn begin(&self) -> Busy {
        self.0.begun.fetch_add(1, Ordering::AcqRel);
        Busy(self.clone())
    }

    /// Whether a request is in progress. If so, `reader` is woken when it ends.
    fn is_busy(&self, reader: &Context<'_>) -> bool {
        if self.0.begun.load(Ordering::Acquire) == 0 {
            return false;
        }
        self.0.reader.register(reader.waker());
        // It may have ended before the reader was registered.
        self.0.begun.load(Ordering::Acquire) != 0
    }
}

/// A request in progress.
#[derive(Debug)]
pub(super) struct Busy(Activity);

impl Drop for Busy {
    fn drop(&mut self) {
        let state = &self.0.0;
        state.begun.fetch_sub(1, Ordering::AcqRel);
        state.reader.wake();
    }
}

/// An answer's body, which keeps its connection busy until it is sent.
pub(super) struct BusyBody {
    pub(super) body: Body,
    /// Ends the busy time when the body is dropped.
    pub(super) _busy: Busy,
}

impl HttpBody for BusyBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// How long a client may wait in each phase.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub(super) head: Duration,
    pub(super) idle: Duration,
    pub(super) write: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Headers are expected or have begun.
    Head,
    /// An answer was sent, and nothing of the next request has come.
    Idle,
    /// A request is in progress.
    Busy,
}

/// A connection that ends itself when the client's time is over.
pub(super) struct Watched<S> {
    stream: S,
    activity: Activity,
    patience: Patience,
    phase: Phase,
    deadline: Pin<Box<Sleep>>,
    /// Runs while the client takes nothing of an answer.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, activity: Activity, patience: Patience) -> Self {
        let deadline = Box::pin(tokio::time::sleep(patience.head));
        Self {
            stream,
            activity,
            patience,
            phase: Phase::Head,
            deadline,
            stalled: None,
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        let wait = match phase {
            Phase::Head => self.patience.head,
            Phase::Idle => self.patience.idle,
            Phase::Busy => return,
        };
        self.deadline.as_mut().reset(Instant::now() + wait);
    }

    /// What a write came to, given that the client must take something of it within its time.
    fn written<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let write = self.patience.write;
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(write)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.activity.is_busy(context) {
            this.phase = Phase::Busy;
            return Pin::new(&mut this.stream).poll_read(context, buffer);
        }
        if this.phase == Phase::Busy {
            this.enter(Phase::Idle);
        }
        let before = buffer.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut this.stream).poll_read(context, buffer) {
            if this.phase == Phase::Idle && buffer.filled().len() > before {
                this.enter(Phase::Head);
            }
            return Poll::Ready(read);
        }
        ready!(this.deadline.as_mut().poll(context));
        match this.phase {
            // Nothing is lost: the connection ends as if the client had closed it.
            Phase::Idle => Poll::Ready(Ok(())),
            Phase::Head | Phase::Busy => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, io::Error>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<Result<usize, io::Error>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
