//! The security token service: token exchange (RFC 8693), zone signing keys and key sets (RFC 7517).
//!
//! It decides from memory. In steady state an exchange costs one policy decision, one signature and one append to the local
//! evidence spool; no SQL and no round trip to the event bus. What memory holds, and how it stays true:
//!
//! | what | read | replaced |
//! |---|---|---|
//! | configuration of a zone (`zone`) | when it is first asked for | when its version moves |
//! | sessions and delegations (`session_graph`) | when first presented, one statement | when they are announced to have changed |
//! | revocations | at start | by every announcement, and again after a loss |
//! | tokens of upstream providers (`upstream_credential`) | when first needed, one call | ahead of their end, in the background |
//!
//! Announcements come by the event streams (`feed`). When the streams have not proved within the freshness bound that
//! nothing is missing, every exchange is refused with 503.
//!
//! The life of a request: `http` reads it, `exchange` is the order of all checks, `exchange::refusal` is every
//! way to say no. This service never forwards traffic, and never acts without evidence.

mod approval;
mod config;
#[cfg(test)]
mod cost;
mod exchange;
mod feed;
mod http;
mod introspection;
mod issuer_keys;
mod key;
mod limit;
mod metrics;
#[cfg(test)]
mod rig;
mod run;
mod session_graph;
mod state;
mod token_revocation;
mod unique_id;
mod upstream_credential;
mod workload;
mod zone;

pub use config::Config;
pub use run::{Addresses, Deps, RunError, run};
