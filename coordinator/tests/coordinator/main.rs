//! Does the coordinator keep docs/contract/sessions-and-delegations.md? Against a real PostgreSQL, under the service's own role.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot be set up has failed"
)]

mod authorization;
mod concurrency;
mod delegation;
mod idempotency;
mod keys;
mod narrowing;
mod outage;
mod sender_constraint;
mod session;
mod world;
