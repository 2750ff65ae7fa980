//! Who owns a background task, and what happens when one ends that should not?

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::shutdown::Shutdown;

/// The background tasks of one service. A task that ends before a shutdown was requested (it returned, failed or
/// panicked) stops the service: a service without its consumer must not look healthy.
#[derive(Clone, Debug)]
pub struct Tasks {
    shutdown: Shutdown,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    running: Vec<(&'static str, JoinHandle<()>)>,
    failures: Vec<Failure>,
}

/// A task that ended by itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("task {name} {problem}")]
pub struct Failure {
    /// The name given to [`Tasks::spawn`].
    pub name: &'static str,
    /// What happened: "ended", "panicked" or "failed: ..." with the chain of causes.
    pub problem: String,
}

/// Why the tasks of a service did not end well.
#[derive(Debug, thiserror::Error)]
pub enum TasksError {
    /// A task ended by itself while the service was running.
    #[error(transparent)]
    Failed(Failure),
    /// These tasks had not ended at the deadline and were cut off.
    #[error("tasks did not stop in time: {}", .0.join(", "))]
    Unfinished(Vec<&'static str>),
}

/// What a background task may return: nothing, or a `Result` whose error is logged once.
pub trait TaskEnd: Send + 'static {
    /// The failure, if it was one, with its causes.
    fn failure(self) -> Option<String>;
}

impl TaskEnd for () {
    fn failure(self) -> Option<String> {
        None
    }
}

impl<E: std::error::Error + Send + 'static> TaskEnd for Result<(), E> {
    fn failure(self) -> Option<String> {
        self.err().map(|error| chain(&error))
    }
}

impl Tasks {
    /// No task yet. `shutdown` is what an unexpected end triggers.
    pub fn new(shutdown: Shutdown) -> Self {
        Self {
            shutdown,
            state: Arc::default(),
        }
    }

    /// Starts `future` under `name`. It must end soon after the shutdown is requested, and not before.
    pub fn spawn<F>(&self, name: &'static str, future: F)
    where
        F: Future + Send + 'static,
        F::Output: TaskEnd,
    {
        let work = tokio::spawn(async move { future.await.failure() });
        let tasks = self.clone();
        let guard = AbortOnDrop(work);
        let watch = tokio::spawn(async move {
            let mut guard = guard;
            let problem = match (&mut guard.0).await {
                Ok(None) => "ended".to_owned(),
                Ok(Some(failure)) => format!("failed: {failure}"),
                Err(_) => "panicked".to_owned(),
            };
            tasks.ended(name, problem);
        });
        self.lock().running.push((name, watch));
    }

    /// The first task that ended by itself, if any.
    pub fn first_failure(&self) -> Option<Failure> {
        self.lock().failures.first().cloned()
    }

    /// Waits until every task has ended, at most `deadline`; the ones still running then are cut off. Request the
    /// shutdown first.
    ///
    /// # Errors
    /// [`TasksError::Failed`] when a task ended by itself earlier; [`TasksError::Unfinished`] with the names that
    /// had to be cut off.
    pub async fn join_all(&self, deadline: Duration) -> Result<(), TasksError> {
        let running = std::mem::take(&mut self.lock().running);
        let until = tokio::time::Instant::now() + deadline;
        let mut unfinished = Vec::new();
        for (name, mut handle) in running {
            if tokio::time::timeout_at(until, &mut handle).await.is_err() {
                handle.abort();
                unfinished.push(name);
            }
        }
        if let Some(failure) = self.first_failure() {
            return Err(TasksError::Failed(failure));
        }
        if unfinished.is_empty() {
            Ok(())
        } else {
            Err(TasksError::Unfinished(unfinished))
        }
    }

    fn ended(&self, name: &'static str, problem: String) {
        if self.shutdown.is_requested() && problem == "ended" {
            return;
        }
        tracing::error!(
            task.name = name,
            task.problem = problem,
            "a background task ended by itself"
        );
        self.lock().failures.push(Failure { name, problem });
        self.shutdown.trigger();
    }

    /// A panic while holding the lock leaves the lists whole, so a poisoned lock is used as it is.
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cutting off the watcher cuts off the work it watches.
struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// `error` and its sources, outermost first.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        fmt::Write::write_fmt(&mut text, format_args!(": {cause}")).unwrap_or_default();
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn tasks_that_end_after_the_request_end_well() {
        let shutdown = Shutdown::new();
        let tasks = Tasks::new(shutdown.clone());
        let seen = shutdown.clone();
        tasks.spawn("reader", async move { seen.requested().await });
        shutdown.trigger();
        tasks.join_all(SOON).await.unwrap();
    }

    #[tokio::test]
    async fn a_task_that_returns_early_stops_the_service() {
        let shutdown = Shutdown::new();
        let tasks = Tasks::new(shutdown.clone());
        tasks.spawn("reader", async {});
        shutdown.requested().await;
        let error = tasks.join_all(SOON).await.unwrap_err();
        assert_eq!(error.to_string(), "task reader ended");
    }

    #[tokio::test]
    async fn a_task_that_fails_reports_the_whole_chain() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot read the stream")]
        struct Outer(#[source] std::io::Error);
        let shutdown = Shutdown::new();
        let tasks = Tasks::new(shutdown.clone());
        tasks.spawn("reader", async {
            Err::<(), _>(Outer(std::io::Error::other("connection reset")))
        });
        shutdown.requested().await;
        assert_eq!(
            tasks.first_failure().unwrap().problem,
            "failed: cannot read the stream: connection reset"
        );
    }

    #[tokio::test]
    async fn a_task_that_panics_stops_the_service() {
        let shutdown = Shutdown::new();
        let tasks = Tasks::new(shutdown.clone());
        tasks.spawn("reader", async {
            assert!(Shutdown::new().is_requested(), "a bug");
        });
        shutdown.requested().await;
        assert_eq!(tasks.first_failure().unwrap().problem, "panicked");
    }

    #[tokio::test]
    async fn a_task_that_does_not_stop_is_cut_off_and_named() {
        struct Dropped(Shutdown);
        impl Drop for Dropped {
            fn drop(&mut self) {
                self.0.trigger();
            }
        }
        let shutdown = Shutdown::new();
        let tasks = Tasks::new(shutdown.clone());
        let cut_off = Shutdown::new();
        let witness = Dropped(cut_off.clone());
        tasks.spawn("stubborn", async move {
            let _witness = witness;
            std::future::pending::<()>().await;
        });
        shutdown.trigger();
        let error = tasks.join_all(Duration::from_millis(10)).await.unwrap_err();
        assert!(matches!(error, TasksError::Unfinished(names) if names == ["stubborn"]));
        cut_off.requested().await;
    }
}
