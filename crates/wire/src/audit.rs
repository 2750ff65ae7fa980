//! What happened, who can prove it, and is the ledger whole?
//!
//! - [`AuditEvent`]: one event as a producer writes it;
//! - [`EventLine`]: the same, borrowed, for the request path;
//! - [`Details`]: what it says besides its fixed members;
//! - [`sign_data`], [`verify_data`]: the producer's signature over the bytes of an event;
//! - [`ReceivedEvent`]: one event as ingest reads it, its documents untouched;
//! - [`jsonb_text`]: a document as the database will give it back;
//! - [`content_hash`], [`chain_hmac`]: the links of a zone's hash chain.
//!
//! The formats are those of `docs/contract/audit-events.md`.

mod chain;
mod details;
mod document;
mod event;
mod line;
mod names;
mod received;

pub use chain::{Content, chain_hmac, content_hash, verify_chain_hmac};
pub use details::Details;
pub use document::jsonb_text;
pub use event::{AuditEvent, sign_data, verify_data};
pub use line::EventLine;
pub use names::{decision, event_type, status};
pub use received::{ReceivedError, ReceivedEvent};

/// The stream field with the JSON text of an event.
pub const DATA: &str = "data";
/// The stream field with the signature over [`DATA`].
pub const DATA_SIG: &str = "sig";
/// The stream field with a copy of the event's id.
pub const ID: &str = "id";
