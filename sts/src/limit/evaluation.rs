//! May this zone's documents be interpreted now? On a few threads beside those that serve, one zone never on all of them.
//!
//! Documents that read `input` are programs of the zone's administrators. What they cost is bounded three times: the interpreter
//! stops itself at its time limit; whoever waits is answered at a deadline, whether or not it did; and a zone whose documents
//! keep running out of time is not interpreted for a while. Zones whose documents are tables never come here.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use caracal_chassis::Clock;
use caracal_model::ZoneId;
use caracal_policy::INTERPRETATION_LIMIT;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
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
/// The part of the waiting places one zone may take while it waits for its own turn.
const WAITING_SHARE: usize = 8;
/// Zones whose conduct is remembered, and for how long after the last evaluation.
const ZONES_MAX: u64 = 20_000;
const MEMORY: Duration = Duration::from_mins(10);

/// The threads for interpreting documents.
#[derive(Debug)]
pub(crate) struct EvaluationPool {
    slots: Arc<Semaphore>,
    /// How many of the slots one zone may hold.
    share: usize,
    /// Who has the zone's turn and waits for a slot.
    waiting: AtomicUsize,
    waiting_max: usize,
    waiting_of_zone_max: usize,
    zones: moka::sync::Cache<ZoneId, Arc<Conduct>>,
    clock: Clock,
}

/// How the documents of one zone have behaved.
#[derive(Debug)]
struct Conduct {
    turns: Arc<Semaphore>,
    /// Who waits for one of the turns.
    waiting: AtomicUsize,
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
    /// `slots` evaluations run at once, and `waiting_max` more may wait for a slot. An eighth as many of one zone may wait
    /// for a turn of that zone: they hold up nobody else.
    pub(crate) fn new(slots: usize, waiting_max: usize, clock: Clock) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(slots)),
            share: slots.saturating_sub(1).max(1),
            waiting: AtomicUsize::new(0),
            waiting_max,
            waiting_of_zone_max: (waiting_max / WAITING_SHARE).max(1),
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
        self.run_judging(zone, work, |_| false).await
    }

    /// As [`Self::run`]; what `is_overrun` says of the outcome counts as running out of time, however little it took.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub(crate) async fn run_judging<T: Send + 'static>(
        &self,
        zone: &ZoneId,
        work: impl FnOnce() -> T + Send + 'static,
        is_overrun: impl FnOnce(&T) -> bool + Send + 'static,
    ) -> Result<T, NotEvaluated> {
        let conduct = self.zones.get_with_by_ref(zone, || self.unblemished());
        conduct.check(&self.clock)?;
        let deadline = Instant::now() + DEADLINE;
        let permits = self.queue(&conduct, deadline).await?;
        let run = Arc::new(Run::new(conduct, self.clock.clone()));
        let running = Arc::clone(&run);
        let working = tokio::task::spawn_blocking(move || {
            let outcome = running.work(work, is_overrun);
            drop(permits);
            outcome
        });
        match timeout_at(deadline, working).await {
            Ok(Ok(outcome)) => Ok(outcome),
            Ok(Err(_panicked)) => Err(NotEvaluated::Lost),
            Err(_elapsed) => {
                run.judge_unfinished();
                Err(NotEvaluated::Overrun)
            }
        }
    }

    /// Waits for one of the zone's turns, then for a slot.
    async fn queue(
        &self,
        conduct: &Conduct,
        deadline: Instant,
    ) -> Result<(OwnedSemaphorePermit, OwnedSemaphorePermit), NotEvaluated> {
        let turn = {
            let _place = Place::take(&conduct.waiting, self.waiting_of_zone_max).ok_or(NotEvaluated::Busy)?;
            permit(&conduct.turns, deadline).await?
        };
        // Those before it may have run out of time while it waited.
        conduct.check(&self.clock)?;
        let _place = Place::take(&self.waiting, self.waiting_max).ok_or(NotEvaluated::Busy)?;
        let slot = permit(&self.slots, deadline).await?;
        Ok((turn, slot))
    }

    /// Every slot, until it is given back.
    #[cfg(test)]
    pub(crate) async fn hold_all(&self) -> OwnedSemaphorePermit {
        let all = u32::try_from(self.slots.available_permits()).unwrap();
        Arc::clone(&self.slots).acquire_many_owned(all).await.unwrap()
    }

    fn unblemished(&self) -> Arc<Conduct> {
        Arc::new(Conduct {
            turns: Arc::new(Semaphore::new(self.share)),
            waiting: AtomicUsize::new(0),
            overruns: AtomicU32::new(0),
            suspended_until: AtomicI64::new(0),
        })
    }
}

async fn permit(of: &Arc<Semaphore>, deadline: Instant) -> Result<OwnedSemaphorePermit, NotEvaluated> {
    let permit = timeout_at(deadline, Arc::clone(of).acquire_owned()).await;
    permit.or(Err(NotEvaluated::Busy))?.or(Err(NotEvaluated::Lost))
}

impl Conduct {
    fn check(&self, clock: &Clock) -> Result<(), NotEvaluated> {
        if self.suspended_until.load(Ordering::Relaxed) > clock.unix_micros() {
            return Err(NotEvaluated::Suspended);
        }
        Ok(())
    }

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

/// One evaluation. It is judged once: at its end, or before that when its caller is answered and it has run too long already.
#[derive(Debug)]
struct Run {
    conduct: Arc<Conduct>,
    clock: Clock,
    started: OnceLock<Instant>,
    is_judged: AtomicBool,
}

impl Run {
    fn new(conduct: Arc<Conduct>, clock: Clock) -> Self {
        Self {
            conduct,
            clock,
            started: OnceLock::new(),
            is_judged: AtomicBool::new(false),
        }
    }

    /// Does the work, on the thread for it: the time it took to get there is not the zone's.
    fn work<T>(&self, work: impl FnOnce() -> T, is_overrun: impl FnOnce(&T) -> bool) -> T {
        let started = *self.started.get_or_init(Instant::now);
        let outcome = work();
        let took = started.elapsed();
        let least = if is_overrun(&outcome) {
            OVERRUN
        } else {
            Duration::ZERO
        };
        self.judge(took.max(least));
        outcome
    }

    /// The caller is answered although the work goes on. What has not run long enough to be an overrun may have lost its time
    /// in the queue, so it is judged when it ends.
    fn judge_unfinished(&self) {
        let took = self.started.get().map_or(Duration::ZERO, Instant::elapsed);
        if took >= OVERRUN {
            self.judge(took);
        }
    }

    fn judge(&self, took: Duration) {
        if !self.is_judged.swap(true, Ordering::Relaxed) {
            self.conduct.judge(took, &self.clock);
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

    use caracal_testing::wait_until;
    use futures_util::future::join_all;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);
    const AFTER_SUSPENSION: Duration = Duration::from_secs(11);

    fn zone(id: &str) -> ZoneId {
        ZoneId::try_from(id).unwrap()
    }

    fn pool(slots: usize, waiting: usize) -> (EvaluationPool, Clock) {
        let clock = Clock::manual(1_700_000_000);
        (EvaluationPool::new(slots, waiting, clock.clone()), clock)
    }

    /// On a machine far beyond its load an answer may come too late; then it is asked for again.
    async fn until_evaluated(pool: &EvaluationPool, zone: &ZoneId) {
        wait_until(SOON, async || pool.run(zone, || ()).await == Ok(())).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn whoever_waits_is_answered_although_the_work_never_ends_and_other_zones_go_on() {
        let (pool, _) = pool(2, 8);
        let (hostile, other) = (zone("hostile"), zone("other"));
        let (release, stuck) = mpsc::channel::<()>();
        let answer = pool.run(&hostile, move || stuck.recv()).await;
        assert_eq!(answer, Err(NotEvaluated::Overrun));
        let again = pool.run(&hostile, || 1).await;
        assert_eq!(again, Err(NotEvaluated::Busy), "one zone has one of two slots");
        until_evaluated(&pool, &other).await;
        release.send(()).unwrap();
        until_evaluated(&pool, &hostile).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_zone_does_not_fill_the_waiting_places_of_all() {
        let (pool, _) = pool(2, 8);
        let (hostile, other) = (zone("hostile"), zone("other"));
        let (release, stuck) = mpsc::channel::<()>();
        let crowd = join_all((0..16).map(|_| pool.run(&hostile, || ())));
        // In this order, so that the other zone asks while the crowd waits.
        let (first, crowd, answer) = tokio::join!(
            biased;
            pool.run(&hostile, move || stuck.recv()),
            crowd,
            pool.run(&other, || ()),
        );
        assert_eq!(first, Err(NotEvaluated::Overrun));
        assert!(crowd.iter().all(|answer| *answer == Err(NotEvaluated::Busy)));
        assert_ne!(answer, Err(NotEvaluated::Busy));
        release.send(()).unwrap();
        until_evaluated(&pool, &hostile).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn whoever_waited_for_a_turn_of_a_zone_that_was_suspended_meanwhile_is_not_evaluated() {
        let (pool, clock) = pool(2, 8);
        let id = zone("z");
        let (release, stuck) = mpsc::channel::<()>();
        let suspend = async {
            let conduct = pool.zones.get(&id).unwrap();
            conduct
                .suspended_until
                .store(clock.unix_micros() + SUSPENSION_US, Ordering::Relaxed);
            release.send(()).unwrap();
        };
        let (_, second, ()) = tokio::join!(
            biased;
            pool.run(&id, move || stuck.recv()),
            pool.run(&id, || ()),
            suspend,
        );
        // Busy when the first one gave its turn back too late.
        assert!(
            matches!(second, Err(NotEvaluated::Suspended | NotEvaluated::Busy)),
            "{second:?}"
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_zone_that_runs_out_of_time_three_times_is_suspended_and_then_tried_again() {
        let (pool, clock) = pool(2, 8);
        let id = zone("z");
        let evaluated = Arc::new(AtomicU32::new(0));
        // Each may be answered or cut off: what it costs its zone is the same.
        wait_until(SOON, async || {
            let evaluated = Arc::clone(&evaluated);
            let slow = move || {
                evaluated.fetch_add(1, Ordering::Relaxed);
                let until = Instant::now() + OVERRUN;
                while Instant::now() < until {
                    std::hint::spin_loop();
                }
            };
            pool.run(&id, slow).await == Err(NotEvaluated::Suspended)
        })
        .await;
        assert_eq!(evaluated.load(Ordering::Relaxed), OVERRUNS_MAX);
        until_evaluated(&pool, &zone("other")).await;
        assert_eq!(pool.run(&id, || ()).await, Err(NotEvaluated::Suspended));
        wait_until(SOON, async || {
            clock.advance(AFTER_SUSPENSION);
            pool.run(&id, || ()).await == Ok(())
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_spends_its_budget_is_suspended_however_fast_it_does() {
        let (pool, _) = pool(2, 8);
        let id = zone("z");
        let evaluated = Arc::new(AtomicU32::new(0));
        wait_until(SOON, async || {
            let evaluated = Arc::clone(&evaluated);
            let fast = move || evaluated.fetch_add(1, Ordering::Relaxed);
            pool.run_judging(&id, fast, |_| true).await == Err(NotEvaluated::Suspended)
        })
        .await;
        assert_eq!(evaluated.load(Ordering::Relaxed), OVERRUNS_MAX);
        until_evaluated(&pool, &zone("other")).await;
    }

    #[test]
    fn one_more_overrun_suspends_again_and_a_good_evaluation_forgives() {
        let (pool, clock) = pool(2, 8);
        let conduct = pool.unblemished();
        for _ in 0..OVERRUNS_MAX {
            assert_eq!(conduct.check(&clock), Ok(()));
            conduct.judge(OVERRUN, &clock);
        }
        assert_eq!(conduct.check(&clock), Err(NotEvaluated::Suspended));
        clock.advance(AFTER_SUSPENSION);
        assert_eq!(conduct.check(&clock), Ok(()));
        conduct.judge(OVERRUN, &clock);
        assert_eq!(conduct.check(&clock), Err(NotEvaluated::Suspended));
        clock.advance(AFTER_SUSPENSION);
        conduct.judge(Duration::ZERO, &clock);
        conduct.judge(OVERRUN, &clock);
        assert_eq!(conduct.check(&clock), Ok(()), "a good one forgave the others");
    }

    #[test]
    fn an_evaluation_is_judged_once_and_its_wait_in_the_queue_never() {
        let (pool, clock) = pool(2, 8);
        let conduct = pool.unblemished();
        let overruns = || conduct.overruns.load(Ordering::Relaxed);
        let run = || Run::new(Arc::clone(&conduct), clock.clone());
        let long = run();
        let started = Instant::now().checked_sub(OVERRUN).unwrap();
        long.started.set(started).unwrap();
        long.judge_unfinished();
        assert_eq!(overruns(), 1);
        long.judge(OVERRUN);
        long.judge(Duration::ZERO);
        assert_eq!(overruns(), 1, "its end counts no more");
        let waiting = run();
        waiting.judge_unfinished();
        assert_eq!(overruns(), 1, "it neither forgives nor is blamed");
        waiting.judge(OVERRUN);
        assert_eq!(overruns(), 2, "its end counts");
    }

    #[tokio::test]
    async fn the_queue_is_bounded_and_a_panic_is_no_answer() {
        let (pool, _) = pool(1, 0);
        assert_eq!(pool.run(&zone("z"), || ()).await, Err(NotEvaluated::Busy));
        let (pool, _) = self::pool(1, 1);
        wait_until(SOON, async || {
            let outcome: Result<(), _> = pool
                .run(&zone("z"), || panic!("a fault of the interpreter"))
                .await;
            outcome == Err(NotEvaluated::Lost)
        })
        .await;
        until_evaluated(&pool, &zone("z")).await;
    }
}
