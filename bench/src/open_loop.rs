//! An open loop: requests arrive at a constant rate, whether or not those before were answered.
//!
//! The time of a request begins when it was due, not when a connection was free for it, so a service that stalls pays for every
//! request that the stall has kept waiting (no coordinated omission).

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::summary::{Repeats, Times};

/// What came of it.
#[derive(Clone, Debug)]
pub(crate) struct Paced {
    pub(crate) times: Times,
    pub(crate) errors: u64,
}

/// The head of a table of such windows.
pub(crate) const HEAD: [&str; 6] = ["through", "p50", "p90", "p99", "max", "errors"];

/// Asks `count` times, each when it is due and over one of the connections: `per_second` of them in every second, evenly.
pub(crate) async fn run<C, A, F>(
    connections: Vec<C>,
    count: usize,
    per_second: f64,
    ask: A,
) -> anyhow::Result<Paced>
where
    C: Send + 'static,
    A: Fn(C, usize) -> F,
    F: Future<Output = (C, anyhow::Result<()>)> + Send + 'static,
    A: Clone + Send + 'static,
{
    let free = Arc::new(Semaphore::new(connections.len()));
    let connections = Arc::new(Mutex::new(connections));
    let mut due = arrivals(count, per_second)?;
    let mut asked = JoinSet::new();
    for number in 0..count {
        let due = due.recv().await.context("an arrival for each request")?;
        let (free, connections, ask) = (Arc::clone(&free), Arc::clone(&connections), ask.clone());
        asked.spawn(async move {
            let _place = free.acquire().await?;
            let connection = connections.lock().await.pop().context("a free connection")?;
            let (connection, answer) = ask(connection, number).await;
            let took = due.elapsed();
            connections.lock().await.push(connection);
            answer.map(|()| took)
        });
    }
    let (mut times, mut errors) = (Vec::new(), 0);
    while let Some(answer) = asked.join_next().await {
        match answer? {
            Ok(took) => times.push(took),
            Err(_error) => errors += 1,
        }
    }
    Ok(Paced {
        times: Times::of(times),
        errors,
    })
}

/// How many requests a window holds.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "some thousand"
)]
pub(crate) fn count(per_second: f64, window: Duration) -> usize {
    (per_second * window.as_secs_f64()) as usize
}

/// The median of one percentile over several windows, in milliseconds.
pub(crate) fn percentile(of: &[Paced], percent: usize) -> f64 {
    Repeats::of(
        of.iter()
            .map(|paced| paced.times.percentile_ms(percent))
            .collect(),
    )
    .median
}

/// What such windows came to, as a row below [`HEAD`].
pub(crate) fn row(name: &str, of: &[Paced]) -> Vec<String> {
    let mut row = vec![name.to_owned()];
    row.extend([50, 90, 99, 100].map(|percent| format!("{:.2}", percentile(of, percent))));
    row.push(of.iter().map(|paced| paced.errors).sum::<u64>().to_string());
    row
}

/// When each request is due, told when it is: by a thread of its own, because a thread wakes to the tenth of a millisecond and a
/// timer of the runtime to the millisecond.
fn arrivals(count: usize, per_second: f64) -> anyhow::Result<mpsc::UnboundedReceiver<Instant>> {
    let (arrived, arrivals) = mpsc::unbounded_channel();
    let began = Instant::now() + Duration::from_millis(20);
    let arrive = move || {
        let mut due = began;
        for _request in 0..count {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if arrived.send(due).is_err() {
                return;
            }
            due += Duration::from_secs_f64(1.0 / per_second);
        }
    };
    std::thread::Builder::new()
        .name("arrivals".to_owned())
        .spawn(arrive)?;
    Ok(arrivals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_for_a_stalled_connection_pays_for_the_stall() {
        const STALL: Duration = Duration::from_millis(60);
        let ask = |connection: (), number: usize| async move {
            if number == 0 {
                tokio::time::sleep(STALL).await;
            }
            let outcome = if number == 9 {
                Err(anyhow::anyhow!("refused"))
            } else {
                Ok(())
            };
            (connection, outcome)
        };
        // One connection: whatever comes in the first 60 ms waits for the first.
        let paced = run(vec![()], 10, 1_000.0, ask).await.unwrap();
        assert_eq!(paced.errors, 1);
        assert!(
            paced.times.percentile_ms(10) > 45.0,
            "the second waits as long as the first, though it takes no time itself: {:?}",
            paced.times
        );
    }
}
