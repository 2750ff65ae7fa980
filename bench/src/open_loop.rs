//! An open loop: requests arrive at a constant rate, whether or not those before were answered.
//!
//! The time of a request begins when it was due, not when a connection was free for it, so a service that stalls pays for every
//! request that the stall has kept waiting (no coordinated omission).

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::load::{Connections, send};
use crate::summary::Times;

/// What came of it.
#[derive(Clone, Debug)]
pub(crate) struct Paced {
    pub(crate) times: Times,
    pub(crate) errors: usize,
}

/// Sends each of `requests` over one of `connections` when it is due: `per_second` of them in every second, evenly.
pub(crate) async fn run(
    connections: Connections,
    requests: Vec<Request<Full<Bytes>>>,
    per_second: f64,
) -> anyhow::Result<Paced> {
    let free = Arc::new(Semaphore::new(connections.senders.len()));
    let senders = Arc::new(Mutex::new(connections.senders));
    let mut due = arrivals(requests.len(), per_second)?;
    let mut asked = JoinSet::new();
    for request in requests {
        let due = due.recv().await.context("an arrival for each request")?;
        let (free, senders) = (Arc::clone(&free), Arc::clone(&senders));
        asked.spawn(async move {
            let _place = free.acquire().await?;
            let mut sender = senders.lock().await.pop().context("a free connection")?;
            let answer = send(&mut sender, request).await;
            let took = due.elapsed();
            senders.lock().await.push(sender);
            answer.map(|_answer| took)
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
