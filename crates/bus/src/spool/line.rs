//! Who writes next? Whoever finds the files free; whoever does not waits in line, and is served by the one who is writing.
//!
//! Nobody is forgotten: who leaves the files looks at the line again, and who joins it tries the files after joining.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::books::Reservation;
use super::writer::{Append, Writer};
use super::{Fsync, SpoolError};

/// How often a caller serves the line before it leaves the rest to the thread: its own request waits meanwhile.
const TURNS_MAX: usize = 4;

/// The files and those who wait for them.
#[derive(Debug)]
pub(super) struct Line {
    writer: Mutex<Writer>,
    waiting: Mutex<Vec<Append>>,
    bell: Mutex<Bell>,
    rung: Condvar,
    fsync: Fsync,
}

/// What the thread is to do.
#[derive(Debug, Default)]
struct Bell {
    somebody_waits: bool,
    closing: bool,
}

impl Line {
    /// The line before `writer` and the thread that serves it when callers do not.
    pub(super) fn open(
        writer: Writer,
        fsync: Fsync,
    ) -> std::io::Result<(Arc<Self>, std::thread::JoinHandle<()>)> {
        let line = Arc::new(Self {
            writer: Mutex::new(writer),
            waiting: Mutex::default(),
            bell: Mutex::default(),
            rung: Condvar::new(),
            fsync,
        });
        let served = Arc::clone(&line);
        let thread = std::thread::Builder::new()
            .name("caracal-spool".to_owned())
            .spawn(move || served.serve_when_rung())?;
        Ok((line, thread))
    }

    /// Resolves when the event is written. Costs one write to the page cache, made by whoever finds the files free.
    pub(super) async fn append(&self, event: Bytes, room: Reservation) -> Result<(), SpoolError> {
        if self.fsync == Fsync::Never
            && let Some(mut writer) = self.try_writer()
        {
            let own = Append {
                event,
                room,
                confirm: None,
            };
            let leaving = Leaving(self);
            let written = writer.write(self.leave_line().into_iter().chain([own]));
            drop(writer);
            drop(leaving);
            return written;
        }
        let (confirm, confirmed) = oneshot::channel();
        lock(&self.waiting).push(Append {
            event,
            room,
            confirm: Some(confirm),
        });
        match self.fsync {
            Fsync::Never => self.serve(),
            Fsync::Always => self.ring(),
        }
        confirmed.await.map_err(|_closed| SpoolError::Closed)?
    }

    /// The thread ends when everybody in line is served.
    pub(super) fn close(&self) {
        lock(&self.bell).closing = true;
        self.rung.notify_one();
    }

    /// Writes for those in line, unless somebody else is writing: he will look at the line when he leaves.
    fn serve(&self) {
        for _ in 0..TURNS_MAX {
            if !self.is_anybody_waiting() {
                return;
            }
            let Some(mut writer) = self.try_writer() else {
                return;
            };
            // Each of them is told.
            let _told = writer.write(self.leave_line());
        }
        if self.is_anybody_waiting() {
            self.ring();
        }
    }

    fn serve_when_rung(&self) {
        loop {
            let bell = lock(&self.bell);
            let mut bell = self
                .rung
                .wait_while(bell, |bell| !bell.somebody_waits && !bell.closing)
                .unwrap_or_else(PoisonError::into_inner);
            bell.somebody_waits = false;
            let closing = bell.closing;
            drop(bell);
            // Whoever is in line when a write panics is told that the spool is closed; the next begin anew.
            let _panicked = catch_unwind(AssertUnwindSafe(|| {
                while self.is_anybody_waiting() {
                    let _told = self.writer().write(self.leave_line());
                }
            }));
            if closing {
                return self.writer().close();
            }
        }
    }

    fn ring(&self) {
        lock(&self.bell).somebody_waits = true;
        self.rung.notify_one();
    }

    fn try_writer(&self) -> Option<MutexGuard<'_, Writer>> {
        match self.writer.try_lock() {
            Ok(writer) => Some(writer),
            Err(TryLockError::Poisoned(poisoned)) => Some(self.after_panic(poisoned)),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        let writer = self.writer.lock();
        writer.unwrap_or_else(|poisoned| self.after_panic(poisoned))
    }

    /// Nobody knows what was half written.
    fn after_panic<'l>(&'l self, poisoned: PoisonError<MutexGuard<'l, Writer>>) -> MutexGuard<'l, Writer> {
        let mut writer = poisoned.into_inner();
        writer.mend_segment();
        self.writer.clear_poison();
        writer
    }

    fn is_anybody_waiting(&self) -> bool {
        !lock(&self.waiting).is_empty()
    }

    fn leave_line(&self) -> Vec<Append> {
        std::mem::take(&mut *lock(&self.waiting))
    }
}

/// Looks at the line when a caller leaves the files, however it leaves them.
struct Leaving<'l>(&'l Line);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.ring();
        } else {
            self.0.serve();
        }
    }
}

/// Nothing panics while it holds one of these.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
