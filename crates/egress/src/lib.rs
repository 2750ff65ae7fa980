//! Where may a service connect on behalf of somebody, and how?
//!
//! A [`Guard`] turns a URL into checked addresses: the gateway's for the upstreams of agents, another for the identity
//! and credential providers that zones name. [`Client`] is an HTTPS client that can reach nothing but what its guard
//! lets through. No domain word is needed for either, and no configuration is read here.

mod address;
mod client;
mod dns;
mod guard;
mod resolve;

pub use address::Blocked;
pub use client::{Client, ClientError, Request, Response, Settings, TrustError};
pub use guard::{EgressError, Guard, Target};
pub use resolve::{DnsServer, Resolve, SystemResolver};
