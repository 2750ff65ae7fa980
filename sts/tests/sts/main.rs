//! The service on a real PostgreSQL and a real Redis, asked over HTTP. One file per promise.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that meets the unexpected has failed"
)]

mod approval_decisions;
mod approval_order;
mod approvals;
mod certificate;
mod channel;
mod client;
mod client_keys;
mod configuration;
mod control_key;
mod decision_policy;
mod dpop;
mod endpoints;
mod federation;
mod gateway;
mod gateway_documents;
mod gateway_operations;
mod idp;
mod ledger;
mod mac;
mod metrics;
mod mint;
mod order_of_checks;
mod outage;
mod policy;
mod policy_data;
mod references;
mod request;
mod resources;
mod revocation;
mod revocation_race;
mod rotation;
mod run;
mod seed;
mod stack;
mod standard;
mod upstream_credentials;
