//! How do exchanges share a connection to the STS? (docs/contract/wire-formats.md, "Exchange channel")
//!
//! A caller puts its frame behind those of the others and waits; one task writes what has gathered and hands out the answers as
//! they come, in any order. Calls of the same moment share the writes, the reads and the wake-ups of both sides. A channel that
//! has ended is opened again in the background; until then, and where the STS offers none, calls go by HTTP.

mod opening;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::{Bytes, BytesMut};
use caracal_wire::channel::{Answer, Call, FrameReader, FrameWriter};
use pingora_core::protocols::Stream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

pub(super) use opening::Opener;

/// What is read at once.
const READ_BYTES: usize = 64 * 1024;
/// How long a channel may give no answer at all before a caller that gives up takes it for dead.
const SILENT_FOR: Duration = Duration::from_secs(1);
/// After an attempt that failed, how long no other is made.
const REST: Duration = Duration::from_secs(5);
/// Channels to one address at most: the STS works on the calls of one with one processor at a time.
const CHANNELS_MAX: usize = 8;

/// The channels to one address.
#[derive(Debug)]
pub(super) struct Channels {
    places: Vec<Place>,
    turn: AtomicUsize,
}

#[derive(Debug)]
struct Place {
    open: ArcSwapOption<Channel>,
    is_opening: AtomicBool,
    rest_until: Mutex<Option<Instant>>,
}

impl Channels {
    /// Places for as many channels as there are processors; none is open.
    pub(super) fn new() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let place = || Place {
            open: ArcSwapOption::empty(),
            is_opening: AtomicBool::new(false),
            rest_until: Mutex::default(),
        };
        Self {
            places: (0..processors.min(CHANNELS_MAX)).map(|_| place()).collect(),
            turn: AtomicUsize::new(0),
        }
    }

    /// An open channel; when the next one in turn is not open, has it opened by `opener`, in a task of its own, and there is
    /// none this time. Memory only.
    pub(super) fn get(self: &Arc<Self>, opener: impl FnOnce() -> Opener) -> Option<Arc<Channel>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.places.len().max(1);
        let place = self.places.get(turn)?;
        if let Some(channel) = place.open.load_full().filter(|channel| !channel.has_ended()) {
            return Some(channel);
        }
        if place.may_open() {
            let (channels, opener) = (Arc::clone(self), opener());
            tokio::spawn(async move { Box::pin(channels.open(turn, opener)).await });
        }
        None
    }

    async fn open(&self, turn: usize, opener: Opener) {
        let Some(place) = self.places.get(turn) else {
            return;
        };
        let opened = opener.open().await;
        match opened {
            Ok(channel) => place.open.store(Some(channel)),
            Err(error) => {
                tracing::info!(
                    error = &error as &dyn std::error::Error,
                    "no channel to the STS; exchanges go by HTTP"
                );
                *lock(&place.rest_until) = Some(Instant::now() + REST);
            }
        }
        place.is_opening.store(false, Ordering::Release);
    }
}

impl Place {
    /// Whether the caller shall open it now; true for one caller at a time.
    fn may_open(&self) -> bool {
        let is_resting = lock(&self.rest_until).is_some_and(|until| Instant::now() < until);
        !is_resting && !self.is_opening.swap(true, Ordering::AcqRel)
    }
}

/// The channel ended before there was an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The call was not taken.
    Untold,
    /// Whether the STS has worked on it is not known.
    Unknown,
}

/// One open channel.
#[derive(Debug)]
pub(super) struct Channel {
    state: Mutex<State>,
    /// Something is to be written, or the channel is given up.
    news: Notify,
    /// Answers that have come.
    heard: AtomicU64,
}

#[derive(Debug)]
struct State {
    writer: FrameWriter,
    going: BytesMut,
    waiting: HashMap<u64, oneshot::Sender<Answer>>,
    next_id: u64,
    has_ended: bool,
}

impl Channel {
    /// The channel on `stream`, driven by a task of its own.
    fn start(stream: Stream, frames: (FrameWriter, FrameReader), come: BytesMut) -> Arc<Self> {
        let (writer, reader) = frames;
        let channel = Arc::new(Self {
            state: Mutex::new(State {
                writer,
                going: BytesMut::with_capacity(READ_BYTES),
                waiting: HashMap::new(),
                next_id: 0,
                has_ended: false,
            }),
            news: Notify::new(),
            heard: AtomicU64::new(0),
        });
        let driven = Arc::clone(&channel);
        tokio::spawn(async move {
            driven.drive(stream, reader, come).await;
            driven.end();
        });
        channel
    }

    /// Whether it takes no calls any more.
    pub(super) fn has_ended(&self) -> bool {
        lock(&self.state).has_ended
    }

    /// Asks for one exchange. No system call: the channel's task writes for everybody. One HMAC, one allocation or two.
    ///
    /// # Errors
    /// [`Ended`].
    pub(super) async fn call(&self, form: &str, request_id: &str, left: Duration) -> Result<Answer, Ended> {
        let (id, answer) = self.send(form, request_id, left).ok_or(Ended::Untold)?;
        let mut waiting = Waiting {
            channel: self,
            id,
            since: Instant::now(),
            heard: self.heard.load(Ordering::Relaxed),
            is_over: false,
        };
        let answer = answer.await;
        waiting.is_over = true;
        answer.map_err(|_ended| Ended::Unknown)
    }

    fn send(&self, form: &str, request_id: &str, left: Duration) -> Option<(u64, oneshot::Receiver<Answer>)> {
        let mut state = lock(&self.state);
        let state = &mut *state;
        if state.has_ended {
            return None;
        }
        let id = state.next_id;
        let call = Call {
            id,
            left_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
            request_id: Bytes::copy_from_slice(request_id.as_bytes()),
            form: Bytes::copy_from_slice(form.as_bytes()),
        };
        state.writer.write(&call, &mut state.going).ok()?;
        state.next_id += 1;
        let (answered, answer) = oneshot::channel();
        state.waiting.insert(id, answered);
        self.news.notify_one();
        Some((id, answer))
    }

    async fn drive(&self, stream: Stream, mut reader: FrameReader, mut come: BytesMut) {
        let (mut from, mut to) = tokio::io::split(stream);
        let mut going = BytesMut::with_capacity(READ_BYTES);
        loop {
            come.reserve(READ_BYTES);
            tokio::select! {
                read = from.read_buf(&mut come) => {
                    if !matches!(read, Ok(1..)) || !self.hand_out(&mut reader, &mut come) {
                        return;
                    }
                }
                written = to.write_buf(&mut going), if !going.is_empty() => {
                    if !matches!(written, Ok(1..)) {
                        return;
                    }
                }
                () = self.news.notified(), if going.is_empty() => {
                    // Callers that are ready to run put theirs beside it.
                    tokio::task::yield_now().await;
                    let mut state = lock(&self.state);
                    if state.has_ended {
                        return;
                    }
                    std::mem::swap(&mut going, &mut state.going);
                }
            }
        }
    }

    /// Gives the answers that have come to their callers; false when nothing more can be believed.
    fn hand_out(&self, reader: &mut FrameReader, come: &mut BytesMut) -> bool {
        loop {
            match reader.next::<Answer>(come) {
                Ok(Some(answer)) => {
                    self.heard.fetch_add(1, Ordering::Relaxed);
                    // Nobody waits any more for an answer that came too late.
                    let caller = lock(&self.state).waiting.remove(&answer.id);
                    let _too_late = caller.map(|caller| caller.send(answer));
                }
                Ok(None) => return true,
                Err(reason) => {
                    tracing::warn!(%reason, "a channel to the STS is given up");
                    return false;
                }
            }
        }
    }

    /// Takes no more calls, and tells those that wait.
    fn end(&self) {
        let mut state = lock(&self.state);
        state.has_ended = true;
        state.waiting.clear();
        drop(state);
        self.news.notify_one();
    }
}

/// A call in progress, while its caller wants the answer.
struct Waiting<'c> {
    channel: &'c Channel,
    id: u64,
    since: Instant,
    heard: u64,
    /// There was an answer, or there will be none.
    is_over: bool,
}

impl Drop for Waiting<'_> {
    /// The caller gives up. When the channel has said nothing at all meanwhile, it may be dead: the next callers get another.
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        lock(&self.channel.state).waiting.remove(&self.id);
        let is_silent = self.heard == self.channel.heard.load(Ordering::Relaxed);
        if is_silent && self.since.elapsed() >= SILENT_FOR {
            tracing::warn!("a channel to the STS is silent and is given up");
            self.channel.end();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
