//! The gateway as a client, an upstream, an STS and the ledger see it: one file per promise.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on has failed"
)]

mod acme;
mod addresses;
mod admin;
mod client;
mod credentials;
mod cut_mandates;
mod denial_table;
mod doors;
mod egress;
mod executable;
mod failover;
mod forwarding;
mod grpc;
mod health_checks;
mod http2;
mod http2_upstream;
mod late_revocation;
mod listener_tls;
mod macs;
mod mid_stream;
mod operations;
mod outages;
mod passage;
mod refusals;
mod reload;
mod repeats;
mod replay;
mod replicas;
mod rig;
mod routes;
mod sender_constraint;
mod smuggling;
mod spy_bus;
mod stalled;
mod streaming;
mod sts;
mod tls_upstream;
mod upgrades;
mod upstream_trust;
