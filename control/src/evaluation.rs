//! May a text be compiled or tried now? On a few threads beside those that serve.
//!
//! Texts are programs of administrators of zones, and one of them must not keep the others from their work: a few are looked
//! at at a time, a few more wait, and whoever waits is answered in time, whatever the text does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::refusal::{Code, Refusal};

/// Texts that are looked at at a time.
const AT_A_TIME: usize = 2;
/// Who may wait for a turn.
const WAITING_MAX: usize = 16;
/// How long whoever asks waits for an answer, the queue included. Longer than what the interpreter allows itself.
const DEADLINE: Duration = Duration::from_secs(8);

/// The turns for looking at texts.
#[derive(Debug)]
pub(crate) struct EvaluationPool {
    turns: Arc<Semaphore>,
    waiting: AtomicUsize,
    deadline: Duration,
}

impl EvaluationPool {
    pub(crate) fn new() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(AT_A_TIME)),
            waiting: AtomicUsize::new(0),
            deadline: DEADLINE,
        }
    }

    /// Does `work` off the request threads. When its caller is answered first, the work goes on to its end and keeps its
    /// turn until then.
    ///
    /// # Errors
    /// [`Code::RateLimited`] when no turn comes in time or too many wait; [`Code::InvalidPolicyBundle`] when the work takes
    /// too long.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let deadline = Instant::now() + self.deadline;
        let turn = {
            let _place = Place::take(&self.waiting).ok_or_else(busy)?;
            let turn = timeout_at(deadline, Arc::clone(&self.turns).acquire_owned()).await;
            turn.map_err(|_elapsed| busy())?.map_err(Refusal::internal)?
        };
        let working = tokio::task::spawn_blocking(move || {
            let outcome = work();
            drop(turn);
            outcome
        });
        let outcome = timeout_at(deadline, working).await;
        let too_long = |_elapsed| Refusal::because(Code::InvalidPolicyBundle, "The documents take too long");
        outcome.map_err(too_long)?.map_err(Refusal::internal)
    }
}

fn busy() -> Refusal {
    Refusal::because(
        Code::RateLimited,
        "Too many policies are being checked; try again",
    )
}

/// A place in the queue, given back on drop, also when the caller goes away.
#[derive(Debug)]
struct Place<'q>(&'q AtomicUsize);

impl<'q> Place<'q> {
    fn take(waiting: &'q AtomicUsize) -> Option<Self> {
        let place = Place(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < WAITING_MAX).then_some(place)
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

    use futures_util::future::join_all;

    use super::*;

    fn pool(deadline: Duration) -> EvaluationPool {
        EvaluationPool {
            deadline,
            ..EvaluationPool::new()
        }
    }

    fn code<T>(answer: Result<T, Refusal>) -> Option<Code> {
        answer.err().map(|refusal| refusal.code())
    }

    #[tokio::test]
    async fn whoever_waits_is_answered_although_the_work_never_ends() {
        let pool = pool(Duration::from_millis(50));
        let mut held = Vec::new();
        for _ in 0..AT_A_TIME {
            let (release, stuck) = mpsc::channel::<()>();
            held.push(release);
            let answer = pool.run(move || stuck.recv()).await;
            assert_eq!(code(answer), Some(Code::InvalidPolicyBundle));
        }
        assert_eq!(
            code(pool.run(|| ()).await),
            Some(Code::RateLimited),
            "all turns are taken"
        );
        drop(held);
        caracal_testing::wait_until(Duration::from_secs(20), async || pool.run(|| ()).await.is_ok()).await;
    }

    #[tokio::test]
    async fn no_more_than_a_few_wait() {
        let pool = pool(Duration::from_millis(200));
        let (release, stuck) = mpsc::channel::<()>();
        let stuck = Arc::new(std::sync::Mutex::new(stuck));
        let asked = join_all((0..AT_A_TIME + WAITING_MAX + 3).map(|_| {
            let stuck = Arc::clone(&stuck);
            pool.run(move || stuck.lock().map(|stuck| stuck.recv()).is_ok())
        }));
        let answers = asked.await;
        assert!(
            answers.iter().all(Result::is_err),
            "none was answered while the work did not end"
        );
        drop(release);
        caracal_testing::wait_until(Duration::from_secs(20), async || pool.run(|| ()).await.is_ok()).await;
    }
}
