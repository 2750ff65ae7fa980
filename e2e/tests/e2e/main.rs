//! Black-box tests of the whole product: real processes, real stores, real sockets. One file per promise.

mod cost;
mod crash;
mod crate_rules;
mod dev;
mod lying_dns;
mod outage;
mod protected_call;
mod python_client;
mod refusals;
mod replay;
mod revocation;
mod settings;
mod world;
