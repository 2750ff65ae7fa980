//! Does the ledger keep docs/contract/audit-events.md? Against a real PostgreSQL, under the service's own role, on both buses.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot be set up has failed"
)]

mod documents;
mod ingest;
mod operator;
mod outage;
mod tampering;
mod world;
