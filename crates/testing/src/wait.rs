//! How does a test wait for something that happens elsewhere? By asking again, never by guessing a time.

use std::future::Future;
use std::panic::Location;
use std::time::Duration;

use tokio::time::Instant;

/// Time between two looks: short enough that a test loses nothing, long enough that looking costs nothing.
const PAUSE: Duration = Duration::from_millis(5);

/// Returns when `condition` holds.
///
/// # Panics
/// When it does not hold within `deadline`, naming the caller's line.
#[track_caller]
pub fn wait_until(deadline: Duration, mut condition: impl AsyncFnMut() -> bool) -> impl Future<Output = ()> {
    let caller = Location::caller();
    async move {
        let until = Instant::now() + deadline;
        while !condition().await {
            assert!(
                Instant::now() < until,
                "the condition at {caller} did not hold within {deadline:?}"
            );
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Returns what `attempt` gives as soon as it gives something.
///
/// # Panics
/// When it gives nothing within `deadline`, naming the caller's line.
#[track_caller]
pub fn wait_for<T>(
    deadline: Duration,
    mut attempt: impl AsyncFnMut() -> Option<T>,
) -> impl Future<Output = T> {
    let caller = Location::caller();
    async move {
        let until = Instant::now() + deadline;
        loop {
            if let Some(value) = attempt().await {
                return value;
            }
            assert!(
                Instant::now() < until,
                "nothing came at {caller} within {deadline:?}"
            );
            tokio::time::sleep(PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiting_ends_with_the_condition() {
        let mut looks = 0;
        wait_until(Duration::from_secs(5), async || {
            looks += 1;
            looks == 3
        })
        .await;
        assert_eq!(looks, 3);
        let mut looks = 0;
        let value = wait_for(Duration::from_secs(5), async || {
            looks += 1;
            (looks == 2).then_some("here")
        })
        .await;
        assert_eq!(value, "here");
    }

    #[tokio::test]
    #[should_panic(expected = "wait.rs")]
    async fn a_condition_that_never_holds_names_the_line_that_waited() {
        wait_until(Duration::ZERO, async || false).await;
    }
}
