//! Black-box tests of the whole product: real processes, real stores, real sockets. One file per promise.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test that meets something unexpected stops, and says where"
)]

mod acme;
mod changes;
mod channel;
mod clients;
mod cost;
mod crash;
mod crate_rules;
mod dev;
mod generated;
mod keys;
mod large_bodies;
mod lying_dns;
mod operations;
mod outage;
mod protected_call;
mod refusals;
mod replay;
mod replicas;
mod revocation;
mod settings;
mod stack_paths;
mod streams;
mod upgrade;
mod world;
