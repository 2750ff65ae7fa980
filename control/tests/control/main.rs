//! The admin API over HTTP, on a real PostgreSQL, as the login the service has in production.
//!
//! One binary; a file for each promise.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "these files are tests; a failed expectation is a failed test"
)]

mod applications;
mod approvals;
mod audit;
mod authorization;
mod bindings;
mod cascade;
mod connections;
mod grants;
mod harness;
mod lists;
mod opa_bundles;
mod policies;
mod policy_sets;
mod providers;
mod records;
mod resources;
mod seeding;
mod service;
mod subject_issuers;
mod subjects;
mod workloads;
mod zones;
