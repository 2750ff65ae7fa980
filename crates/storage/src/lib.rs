//! The only SQL: one file per aggregate.
//!
//! Every statement runs in a [`tx::ReadTx`] or [`tx::WriteTx`] begun from a [`pool::Database`]. Who writes which table
//! is listed in this crate's README and enforced by the grants of the migrations.

pub mod admin_audit;
pub mod audit_event;
pub mod authority_record;
pub mod error;
pub mod outbox;
pub mod pool;
pub mod revocation;
pub mod schema_version;
pub mod secret;
pub mod session_graph;
pub mod signing_key;
pub mod tx;
pub mod zone_model;

pub use error::StorageError;
pub use pool::{Database, PoolLimits};
pub use tx::{ReadTx, WriteTx, ZoneScope};
