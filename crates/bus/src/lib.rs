//! Event streams, consumer groups, cursors, watermarks and the evidence spool.
//!
//! - [`Bus`]: what a bus can do; [`RedisBus`] and [`MemoryBus`] are the two there are.
//! - [`cursor`]: every replica reads everything, knows how complete its knowledge is, and notices what it missed.
//! - [`consumer`]: replicas share the work of a stream.
//! - [`revocation`]: the revoked anchors in memory, and signals that cut open responses.
//! - [`spool`]: evidence on disk before the bus has taken it.
//!
//! What travels is described in docs/contract/event-bus.md, the files in docs/operating/spool.md.

mod backoff;
mod bus;
mod clock;
pub mod consumer;
pub mod cursor;
mod directory;
mod entry;
mod error;
mod frame;
mod freshness;
mod length;
mod memory;
mod publisher;
mod redis;
pub mod revocation;
mod signing;
mod single_use;
pub mod spool;

pub use bus::{Bus, Claim, Extent, GroupStart, Pending, STREAM_LENGTH_DEFAULT};
pub use clock::StoreClock;
pub use consumer::GroupConsumer;
pub use cursor::{Cursor, CursorEvent};
pub use directory::DirectoryError;
pub use entry::{Entry, EntryId, EntryIdError};
pub use error::BusError;
pub use freshness::{CLOCK_SKEW_MAX, Freshness};
pub use length::StreamLengths;
pub use memory::{MemoryBus, MemorySettings};
pub use publisher::Publisher;
pub use redis::{RedisBus, RedisSettings};
pub use revocation::{Revocations, RevokedSignal};
pub use signing::{HmacKey, StreamKeys};
pub use single_use::{SingleUse, Undecided};
pub use spool::Spool;
