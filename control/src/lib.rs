//! The admin API: zones, applications, providers, resources, policies, and taking authority back.
//!
//! Owns the configuration tables, the admin tokens and the record of administrative changes. Never sits on the path of
//! a governed request, never signs a mandate, and never calls another service: policies are compiled here with the code
//! that will decide.
//!
//! A request passes `http` (limits, token, authorization) and reaches one handler, which reads its input, calls one use
//! case, and maps the result. A use case that changes something works in a `change::Change`, whose commit needs the
//! audit record: there is no change without its record and no record without its change. What a change means for
//! others is announced by the outbox of the same transaction, which the relay publishes.

mod admin_token;
mod application;
mod approval;
mod attempt;
mod authority;
mod binding;
mod body;
mod caller;
mod change;
mod config;
mod connection;
mod control;
mod cursor;
mod evaluation;
mod grant;
mod http;
mod ids;
mod job;
mod metrics;
mod naming;
mod policy;
mod policy_set;
mod provider;
mod rate_limit;
mod refusal;
mod reserved;
mod resource;
mod run;
mod subject;
mod subject_issuer;
mod timestamp;
mod token_service;
mod workload;
mod zone;

pub use admin_token::{Effect, Place};
pub use config::Config;
pub use http::{RouteFacts, route_list};
pub use refusal::Code;
pub use run::{Addresses, Deps, RunError, run};
