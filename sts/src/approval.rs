//! Who waits for a human, and who wakes them?
//!
//! Whoever asks `GET /approvals/{id}?wait=N` is registered in memory. One connection listens for decisions and wakes the
//! waiters of that approval; they then look once. So an approval that is waited for costs nothing while nothing happens,
//! however many wait.

mod jobs;
mod waiters;

pub(crate) use jobs::{listen, sweep};
pub(crate) use waiters::Waiters;
