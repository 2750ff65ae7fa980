//! What the event bus promises, on Redis and in process; and what the revoked set and the spool promise on top of it.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed, and says where"
)]

mod both;
mod claims;
mod consumer;
mod cursor;
mod flaky;
mod freshness;
mod groups;
mod journal;
mod outage;
mod revocation;
mod spool;
mod streams;
