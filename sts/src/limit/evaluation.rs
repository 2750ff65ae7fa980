//! May this zone's documents be interpreted now? On a few threads beside those that serve, one zone never on all of them.
//!
//! Documents that read `input` are programs of the zone's administrators. What they cost is bounded three times: the interpreter
//! stops itself at its time limit; whoever waits is answered at a deadline, whether or not it did; and a zone whose documents
//! keep running out of time is not interpreted for a while. Zones whose documents are tables never come here.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use caracal_chassis::Clock;
use caracal_model::ZoneId;
use caracal_policy::INTERPRETATION_LIMIT;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

/// How long whoever asks waits for an answer, the queue included. Longer than the interpreter's own limit.
const DEADLINE: Duration = Duration::from_secs(1);
/// What takes half of the interpreter's limit counts as running out of time.
const OVERRUN: Duration = match INTERPRETATION_LIMIT.checked_div(2) {
    Some(half) => half,
    None => Duration::ZERO,
};
/// How many times in a row a zone may run out of time, and how long it is suspended then.
const OVERRUNS_MAX: u32 = 3;
const SUSPENSION_US: i64 = 10_000_000;
/// Zones whose conduct is remembered, and for how long after the last evaluation.
const ZONES_MAX: u64 = 20_000;
const MEMORY: Duration = Duration::from_mins(10);

/// The threads for interpreting documents.
#[derive(Debug)]
pub(crate) struct EvaluationPool {
    slots: Arc<Semaphore>,
    /// How many of the slots one zone may hold.
    share: usize,
    waiting: AtomicUsize,
    waiting_max: usize,
    zones: moka::sync::Cache<ZoneId, Arc<Conduct>>,
    clock: Clock,
}

/// How the documents of one zone have behaved.
#[derive(Debug)]
struct Conduct {
    turns: Arc<Semaphore>,
    overruns: AtomicU32,
    /// In Unix microseconds.
    suspended_until: AtomicI64,
}

/// Why documents were not interpreted to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotEvaluated {
    #[error("too many evaluations wait")]
    Busy,
    #[error("the zone's documents ran out of time too often and are suspended")]
    Suspended,
    #[error("the evaluation did not end in time")]
    Overrun,
    #[error("the evaluation was lost")]
    Lost,
}

impl EvaluationPool {
    /// `slots` evaluations run at once, and `waiting_max` more may wait.
    pub(crate) fn new(slots: usize, waiting_max: usize, clock: Clock) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(slots)),
            share: slots.saturating_sub(1).max(1),
            waiting: AtomicUsize::new(0),
            waiting_max,
            zones: moka::sync::Cache::builder()
                .max_capacity(ZONES_MAX)
                .time_to_idle(MEMORY)
                .build(),
            clock,
        }
    }

    /// Does `work` for `zone` on one of the threads. When the caller is answered or goes away first, the work goes on to its
    /// end and holds its place until then.
    ///
    /// # Errors
    /// [`NotEvaluated`]: nothing is known then, and nothing may be granted.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        zone: &ZoneId,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NotEvaluated> {
        let conduct = self.zones.get_with_by_ref(zone, || self.unblemished());
        if conduct.suspended_until.load(Ordering::Relaxed) > self.clock.unix_micros() {
            return Err(NotEvaluated::Suspended);
        }
        let deadline = Instant::now() + DEADLINE;
        let (turn, slot) = {
            let _place = Place::take(&self.waiting, self.waiting_max).ok_or(NotEvaluated::Busy)?;
            let turn = timeout_at(deadline, Arc::clone(&conduct.turns).acquire_owned()).await;
            let turn = turn.or(Err(NotEvaluated::Busy))?.or(Err(NotEvaluated::Lost))?;
            let slot = timeout_at(deadline, Arc::clone(&self.slots).acquire_owned()).await;
            let slot = slot.or(Err(NotEvaluated::Busy))?.or(Err(NotEvaluated::Lost))?;
            (turn, slot)
        };
        let started = Instant::now();
        let judged = Arc::clone(&conduct);
        let clock = self.clock.clone();
        let running = tokio::task::spawn_blocking(move || {
            let outcome = work();
            // What took longer was judged when its caller was answered.
            let took = started.elapsed();
            if took < DEADLINE {
                judged.judge(took, &clock);
            }
            drop((turn, slot));
            outcome
        });
        match timeout_at(deadline, running).await {
            Ok(Ok(outcome)) => Ok(outcome),
            Ok(Err(_panicked)) => Err(NotEvaluated::Lost),
            Err(_elapsed) => {
                conduct.judge(started.elapsed(), &self.clock);
                Err(NotEvaluated::Overrun)
            }
        }
    }

    fn unblemished(&self) -> Arc<Conduct> {
        Arc::new(Conduct {
            turns: Arc::new(Semaphore::new(self.share)),
            overruns: AtomicU32::new(0),
            suspended_until: AtomicI64::new(0),
        })
    }
}

impl Conduct {
    /// One good evaluation forgives all overruns before it.
    fn judge(&self, took: Duration, clock: &Clock) {
        if took < OVERRUN {
            self.overruns.store(0, Ordering::Relaxed);
        } else if self.overruns.fetch_add(1, Ordering::Relaxed) + 1 >= OVERRUNS_MAX {
            // The next one after the suspension is a trial: one more overrun suspends again.
            self.suspended_until
                .store(clock.unix_micros() + SUSPENSION_US, Ordering::Relaxed);
        }
    }
}

/// A place in the queue, given back on drop, also when the caller goes away.
#[derive(Debug)]
struct Place<'q>(&'q AtomicUsize);

impl<'q> Place<'q> {
    fn take(waiting: &'q AtomicUsize, max: usize) -> Option<Self> {
        let place = Place(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < max).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn zone(id: &str) -> ZoneId {
        ZoneId::try_from(id).unwrap()
    }

    fn pool(slots: usize, waiting: usize) -> (EvaluationPool, Clock) {
        let clock = Clock::manual(1_700_000_000);
        (EvaluationPool::new(slots, waiting, clock.clone()), clock)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn whoever_waits_is_answered_although_the_work_never_ends_and_other_zones_go_on() {
        let (pool, _) = pool(2, 8);
        let (release, stuck) = mpsc::channel::<()>();
        let started = Instant::now();
        let id = zone("hostile");
        let hostile = pool.run(&id, move || stuck.recv());
        let (hostile, other) = tokio::join!(hostile, async {
            let answered = pool.run(&zone("other"), || 7).await;
            (answered, started.elapsed())
        });
        assert_eq!(hostile, Err(NotEvaluated::Overrun));
        assert_eq!(other.0, Ok(7));
        assert!(other.1 < DEADLINE, "the other zone did not wait for it");
        let again = pool.run(&zone("hostile"), || 1).await;
        assert_eq!(again, Err(NotEvaluated::Busy), "one zone has one of two slots");
        assert_eq!(pool.run(&zone("other"), || 8).await, Ok(8));
        release.send(()).unwrap();
        assert_eq!(
            pool.run(&zone("hostile"), || 2).await,
            Ok(2),
            "its place came back"
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_zone_that_runs_out_of_time_three_times_is_suspended_and_then_tried_again() {
        let (pool, clock) = pool(2, 8);
        let slow = || {
            let until = Instant::now() + OVERRUN;
            while Instant::now() < until {
                std::hint::spin_loop();
            }
        };
        for _ in 0..OVERRUNS_MAX {
            assert_eq!(pool.run(&zone("z"), slow).await, Ok(()));
        }
        assert_eq!(pool.run(&zone("z"), || ()).await, Err(NotEvaluated::Suspended));
        assert_eq!(pool.run(&zone("other"), || ()).await, Ok(()));
        clock.advance(Duration::from_secs(11));
        assert_eq!(pool.run(&zone("z"), || ()).await, Ok(()));
        assert_eq!(
            pool.run(&zone("z"), slow).await,
            Ok(()),
            "a good one forgave the others"
        );
        assert_eq!(pool.run(&zone("z"), || ()).await, Ok(()));
    }

    #[tokio::test]
    async fn the_queue_is_bounded_and_a_panic_is_no_answer() {
        let (pool, _) = pool(1, 0);
        assert_eq!(pool.run(&zone("z"), || ()).await, Err(NotEvaluated::Busy));
        let (pool, _) = self::pool(1, 1);
        let outcome = pool
            .run(&zone("z"), || panic!("a fault of the interpreter"))
            .await;
        assert_eq!(outcome, Err::<(), _>(NotEvaluated::Lost));
        assert_eq!(pool.run(&zone("z"), || 3).await, Ok(3), "its place came back");
    }
}
