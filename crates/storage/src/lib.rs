//! The only SQL: one file per aggregate.
//!
//! Every statement runs in a [`tx::ReadTx`] or [`tx::WriteTx`] begun from a [`pool::Database`]. Who writes which table
//! is listed in this crate's README and enforced by the grants of the migrations.

pub mod admin_audit;
pub mod admin_token;
pub mod application;
pub mod approval;
pub mod audit_event;
pub mod audit_read;
pub mod authority_record;
pub mod binding;
pub mod delegated_grant;
pub mod delegation;
pub mod error;
pub mod gateway_document;
pub mod idempotency;
pub mod oauth_state;
pub mod outbox;
pub mod page;
pub mod policy;
pub mod policy_set;
pub mod pool;
pub mod provider;
pub mod provider_connection;
pub mod resource;
pub mod revocation;
pub mod revocation_cascade;
pub mod schema_version;
pub mod sealed;
pub mod secret;
pub mod session;
pub mod session_graph;
pub mod signing_key;
pub mod subject;
pub mod subject_issuer;
pub mod tx;
pub mod workload;
pub mod zone;
pub mod zone_model;

pub use error::StorageError;
pub use pool::{Database, PoolLimits};
pub use tx::{AnyTx, ReadTx, WriteTx, ZoneScope};
