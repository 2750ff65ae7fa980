//! What does this stream entry say?
//!
//! One type per message of `docs/contract/streams.md`, each written to flat fields and read back from them. Bookkeeping
//! fields of the outbox (`outbox_id`, `dedupe_key`, `_sig`) are added later and ignored here, as is every field a message
//! does not know.

mod configuration;
mod fields;
mod graph;
mod lifecycle;
mod mints;
mod revocation;
mod watermark;

pub use configuration::{KeysInvalidate, PolicyInvalidate, ZonesInvalidate};
pub use fields::EventError;
pub use graph::{DelegationsInvalidate, EdgeEvent};
pub use lifecycle::{AgentsLifecycle, InvocationEvent, InvocationsLifecycle, LifecycleEvent};
pub use mints::{BUCKETS_MAX, CountedBucket, MintsCounted};
pub use revocation::SessionsRevoke;
pub use watermark::Watermark;
