//! Who waits for a human, and who wakes them?
//!
//! Whoever asks `GET /approvals/{id}?wait=N` is registered in memory. One connection listens for decisions; the one who
//! listens reads the approval once and tells all who wait for it. So an approval that is waited for costs nothing while
//! nothing happens, and one statement when it is decided, however many wait.

mod jobs;
mod waiters;

pub(crate) use jobs::{listen, sweep};
pub(crate) use waiters::{Told, Waiters};
