//! The HTTP surface: routes, and the translation between requests, use cases and answers.

mod answer;
mod approval_decision;
mod approvals;
mod channel;
#[cfg(test)]
mod counted;
mod direct;
mod gateway;
mod gateway_documents;
mod gateway_operations;
mod internal;
mod jwks;
mod policy;
mod policy_data;
mod router;
mod run;
mod sender;
mod signing_keys;
mod standard;
mod token;

pub(crate) use direct::TokenEndpoint;
pub(crate) use router::router;
