//! Where does an entry go that no consumer can do, and what is kept of it?

use caracal_wire::stream::{Fields, dead_letter, printable};

use crate::bus::Bus;
use crate::entry::Entry;
use crate::error::BusError;
use crate::signing::StreamKeys;

/// Dead letters kept for each stream; older ones go when newer ones come.
pub const DEAD_LETTERS_KEPT: usize = 10_000;

/// An entry put aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Stream it goes to.
    pub stream: String,
    /// What it says.
    pub fields: Fields,
}

impl DeadLetter {
    /// `<stream>.dead` with `original_id`, `error` and `values` (the entry's fields as a JSON object), as
    /// docs/contract/event-bus.md, "Consumer groups", says.
    pub fn standard(stream: &str, entry: &Entry, reason: &str) -> Self {
        let values = serde_json::to_string(&entry.fields).unwrap_or_default();
        let fields = Fields::from([
            ("original_id".to_owned(), entry.id.to_string()),
            ("error".to_owned(), printable(reason)),
            ("values".to_owned(), printable(&values)),
        ]);
        Self {
            stream: dead_letter(stream),
            fields,
        }
    }

    /// Signs and publishes the letter. One whose fields cannot be signed goes unsigned rather than be lost.
    pub(super) async fn publish(&self, bus: &dyn Bus, keys: &StreamKeys) -> Result<(), BusError> {
        let fields = keys
            .sign(&self.stream, self.fields.clone())
            .unwrap_or_else(|_unsignable| self.fields.clone());
        bus.publish(&self.stream, &[fields]).await.map(drop)
    }
}
