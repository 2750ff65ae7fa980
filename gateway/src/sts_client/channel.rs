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
use caracal_wire::channel::{Answer, Call, FrameReader, FrameWriter, GOODBYE};
use pingora_core::protocols::Stream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, WriteHalf};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

pub(super) use opening::Opener;

/// What is read at once.
const READ_BYTES: usize = 64 * 1024;
/// With less room than this, more is made before the next reading.
const ROOM_BYTES: usize = 4 * 1024;
/// Calls without an answer on one channel at most, those included that nobody waits for any more: further ones go by HTTP, where none
/// waits behind another.
const UNANSWERED_MAX: usize = 256;
/// How long a channel may give no answer at all before a caller that gives up takes it for dead; less where callers wait less.
const SILENT_FOR: Duration = Duration::from_secs(1);
/// A channel without a call from one moment of looking to the next is closed: what stands between may have forgotten it.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// How long a channel that takes no more calls may take to answer those it has.
const RETIREMENT: Duration = Duration::from_mins(1);
/// After an attempt to open one that failed, how long no other is made; doubled with each.
const REST: Duration = Duration::from_secs(5);
const REST_MAX: Duration = Duration::from_mins(2);
/// Channels to one address at most: the STS works on the calls of one with one processor at a time.
const CHANNELS_MAX: usize = 8;

/// The channels to one address.
#[derive(Debug)]
pub(super) struct Channels {
    places: Vec<Place>,
    turn: AtomicUsize,
    rest: Mutex<Rest>,
}

#[derive(Debug, Default)]
struct Place {
    open: ArcSwapOption<Channel>,
    is_opening: AtomicBool,
}

/// When to try again.
#[derive(Debug, Default)]
struct Rest {
    until: Option<Instant>,
    /// How long the last one was.
    length: Duration,
}

impl Channels {
    /// Places for as many channels as there are processors; none is open.
    pub(super) fn new() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            places: (0..processors.min(CHANNELS_MAX))
                .map(|_| Place::default())
                .collect(),
            turn: AtomicUsize::new(0),
            rest: Mutex::default(),
        }
    }

    /// An open channel; when the next one in turn is not open, has it opened by `opener`, in a task of its own, and there is
    /// none this time. Memory only.
    pub(super) fn get(self: &Arc<Self>, opener: impl FnOnce() -> Opener) -> Option<Arc<Channel>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.places.len().max(1);
        let place = self.places.get(turn)?;
        if let Some(channel) = place.channel() {
            return Some(channel);
        }
        if !self.is_resting() && !place.is_opening.swap(true, Ordering::AcqRel) {
            let opening = Opening(Arc::clone(self), turn);
            // Somebody may have opened it between the look and the turn.
            if place.channel().is_none() {
                let opener = opener();
                tokio::spawn(async move { Box::pin(opening.run(opener)).await });
            }
        }
        None
    }

    fn is_resting(&self) -> bool {
        lock(&self.rest).until.is_some_and(|until| Instant::now() < until)
    }
}

impl Drop for Channels {
    fn drop(&mut self) {
        for channel in self.places.iter().filter_map(|place| place.open.swap(None)) {
            channel.retire();
        }
    }
}

impl Place {
    fn channel(&self) -> Option<Arc<Channel>> {
        self.open.load_full().filter(|channel| channel.takes_calls())
    }
}

/// The right to open the channel of one place; given back however the attempt ends.
struct Opening(Arc<Channels>, usize);

impl Opening {
    async fn run(self, opener: Opener) {
        let Self(channels, turn) = &self;
        let opened = opener.open().await;
        let mut rest = lock(&channels.rest);
        match (opened, channels.places.get(*turn)) {
            (Ok(channel), Some(place)) => {
                *rest = Rest::default();
                if let Some(before) = place.open.swap(Some(channel)) {
                    before.retire();
                }
            }
            (Err(error), _) => {
                let is_first = rest.length.is_zero();
                rest.length = (rest.length * 2).clamp(REST, REST_MAX);
                rest.until = Some(Instant::now() + rest.length);
                if is_first {
                    tracing::info!(
                        error = &error as &dyn std::error::Error,
                        "no channel to the STS; exchanges go by HTTP, and it is tried again from time to time"
                    );
                }
            }
            (Ok(_), None) => {}
        }
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if let Some(place) = self.0.places.get(self.1) {
            place.is_opening.store(false, Ordering::Release);
        }
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
    /// Something is to be written.
    news: Notify,
    /// It takes no more calls.
    retired: Notify,
    /// Answers that have come.
    heard: AtomicU64,
}

#[derive(Debug)]
struct State {
    writer: FrameWriter,
    going: BytesMut,
    /// Calls without an answer, also those whose caller has gone.
    waiting: HashMap<u64, oneshot::Sender<Answer>>,
    next_id: u64,
    is_retired: bool,
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
                is_retired: false,
            }),
            news: Notify::new(),
            retired: Notify::new(),
            heard: AtomicU64::new(0),
        });
        let driven = Driven(Arc::clone(&channel));
        tokio::spawn(async move { driven.0.drive(stream, reader, come).await });
        channel
    }

    /// Whether it is neither closed nor about to be.
    pub(super) fn takes_calls(&self) -> bool {
        !lock(&self.state).is_retired
    }

    /// Asks for one exchange. No system call: the channel's task writes for everybody. One HMAC, three allocations.
    ///
    /// # Errors
    /// [`Ended`].
    pub(super) async fn call(
        &self,
        form: &str,
        request_id: &str,
        at_unix: i64,
        left: Duration,
    ) -> Result<Answer, Ended> {
        let call = Call {
            id: 0,
            at_unix,
            left_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
            request_id: Bytes::copy_from_slice(request_id.as_bytes()),
            form: Bytes::copy_from_slice(form.as_bytes()),
        };
        let answer = self.send(call).ok_or(Ended::Untold)?;
        let mut waiting = Waiting {
            channel: self,
            since: Instant::now(),
            patience: SILENT_FOR.min(left / 2),
            heard: self.heard.load(Ordering::Relaxed),
            is_over: false,
        };
        let answer = answer.await;
        waiting.is_over = true;
        answer.map_err(|_ended| Ended::Unknown)
    }

    fn send(&self, call: Call) -> Option<oneshot::Receiver<Answer>> {
        let mut state = lock(&self.state);
        let state = &mut *state;
        if state.is_retired || state.waiting.len() >= UNANSWERED_MAX {
            return None;
        }
        let id = state.next_id;
        state.writer.write(&Call { id, ..call }, &mut state.going).ok()?;
        state.next_id += 1;
        let (answered, answer) = oneshot::channel();
        state.waiting.insert(id, answered);
        self.news.notify_one();
        Some(answer)
    }

    async fn drive(&self, stream: Stream, mut reader: FrameReader, mut come: BytesMut) {
        let (mut from, mut to) = tokio::io::split(stream);
        let mut going = BytesMut::with_capacity(READ_BYTES);
        let mut is_flushed = true;
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.reset();
        let mut calls_then = 0;
        let mut last_of_all: Option<Instant> = None;
        loop {
            if come.capacity() - come.len() < ROOM_BYTES {
                come.reserve(READ_BYTES);
            }
            let until = last_of_all.unwrap_or_else(Instant::now);
            tokio::select! {
                read = from.read_buf(&mut come) => {
                    if !matches!(read, Ok(1..)) || !self.hand_out(&mut reader, &mut come) {
                        return;
                    }
                }
                pushed = push(&mut to, &mut going, &mut is_flushed), if !going.is_empty() || !is_flushed => {
                    if pushed.is_err() {
                        return;
                    }
                }
                () = self.news.notified(), if going.is_empty() => {
                    // Callers that are ready to run put theirs beside it.
                    tokio::task::yield_now().await;
                    std::mem::swap(&mut going, &mut lock(&self.state).going);
                }
                () = self.retired.notified(), if last_of_all.is_none() => {
                    last_of_all = Some(Instant::now() + RETIREMENT);
                }
                () = tokio::time::sleep_until(until), if last_of_all.is_some() => return,
                _look = looks.tick() => {
                    let state = lock(&self.state);
                    let is_idle = state.waiting.is_empty() && state.next_id == calls_then;
                    calls_then = state.next_id;
                    drop(state);
                    if is_idle {
                        self.retire();
                    }
                }
            }
            if last_of_all.is_some() && lock(&self.state).waiting.is_empty() {
                // The other side learns by the end that nothing more comes.
                let _ended = to.shutdown().await;
                return;
            }
        }
    }

    /// Gives the answers that have come to their callers; false when nothing more can be believed.
    fn hand_out(&self, reader: &mut FrameReader, come: &mut BytesMut) -> bool {
        loop {
            match reader.next::<Answer>(come) {
                Ok(Some(answer)) if answer.id == GOODBYE => self.retire(),
                Ok(Some(answer)) => {
                    self.heard.fetch_add(1, Ordering::Relaxed);
                    let caller = lock(&self.state).waiting.remove(&answer.id);
                    // Nobody waits any more for an answer that comes too late.
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

    /// Takes no more calls; those without an answer may still get it.
    fn retire(&self) {
        lock(&self.state).is_retired = true;
        self.retired.notify_one();
    }
}

/// Writes some of what is to be written; flushes when all is: TLS may keep the end of it. May be given up at any
/// moment and loses nothing.
async fn push(
    to: &mut WriteHalf<Stream>,
    going: &mut BytesMut,
    is_flushed: &mut bool,
) -> std::io::Result<()> {
    if going.is_empty() {
        to.flush().await?;
        *is_flushed = true;
        return Ok(());
    }
    if to.write_buf(going).await? == 0 {
        return Err(std::io::ErrorKind::WriteZero.into());
    }
    *is_flushed = false;
    Ok(())
}

/// The driver of a channel. However it ends, nobody waits for an answer any more.
struct Driven(Arc<Channel>);

impl Drop for Driven {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        state.is_retired = true;
        state.waiting.clear();
    }
}

/// A call in progress, while its caller wants the answer.
struct Waiting<'c> {
    channel: &'c Channel,
    since: Instant,
    patience: Duration,
    heard: u64,
    /// There was an answer, or there will be none.
    is_over: bool,
}

impl Drop for Waiting<'_> {
    /// The caller gives up. When the channel has said nothing at all meanwhile, it may be dead: the next callers get another.
    fn drop(&mut self) {
        let is_silent = self.heard == self.channel.heard.load(Ordering::Relaxed);
        if !self.is_over && is_silent && self.since.elapsed() >= self.patience && self.channel.takes_calls() {
            tracing::warn!("a channel to the STS is silent; it gets no more calls");
            self.channel.retire();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
