//! What became of each message of a batch that was offered to the bus?

use std::collections::BTreeMap;

use caracal_bus::{BusError, Publisher};
use caracal_storage::outbox::Claimed;
use caracal_wire::stream::{DEDUPE_KEY, Fields, OUTBOX_ID};

/// The rows of one batch, sorted by what happened to them. Rows in none of the lists were not offered or their fate is
/// unknown; they stay as they are.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// The bus has them.
    pub(crate) published: Vec<Claimed>,
    /// The bus is there and said no.
    pub(crate) refused: Vec<Claimed>,
    /// Can never be signed, so can never go out.
    pub(crate) unsignable: Vec<Claimed>,
    /// Why the bus said no, or why it could not be asked.
    pub(crate) error: Option<BusError>,
    /// The bus could not be asked: stop and back off.
    pub(crate) is_outage: bool,
}

/// Publishes `rows`, the messages of each stream together and in order, until the bus cannot be reached.
pub(crate) async fn publish(publisher: &Publisher, rows: Vec<Claimed>) -> Outcome {
    let mut outcome = Outcome::default();
    for (stream, rows) in by_stream(rows) {
        publish_stream(publisher, &stream, rows, &mut outcome).await;
        if outcome.is_outage {
            break;
        }
    }
    outcome
}

/// Groups rows by stream; the order within a stream is kept.
fn by_stream(rows: Vec<Claimed>) -> BTreeMap<String, Vec<Claimed>> {
    let mut streams: BTreeMap<String, Vec<Claimed>> = BTreeMap::new();
    for row in rows {
        streams.entry(row.stream.clone()).or_default().push(row);
    }
    streams
}

async fn publish_stream(publisher: &Publisher, stream: &str, rows: Vec<Claimed>, outcome: &mut Outcome) {
    match offer(publisher, stream, &rows).await {
        Ok(()) => outcome.published.extend(rows),
        // One of them cannot be signed, and so none went out: find it, and let the others go.
        Err(BusError::ControlCharacter) => publish_singly(publisher, stream, rows, outcome).await,
        Err(error) => outcome.failed(rows, error),
    }
}

async fn publish_singly(publisher: &Publisher, stream: &str, rows: Vec<Claimed>, outcome: &mut Outcome) {
    for row in rows {
        let row = vec![row];
        match offer(publisher, stream, &row).await {
            Ok(()) => outcome.published.extend(row),
            Err(error @ BusError::ControlCharacter) => {
                outcome.unsignable.extend(row);
                outcome.error = Some(error);
            }
            Err(error) => outcome.failed(row, error),
        }
        if outcome.is_outage {
            return;
        }
    }
}

impl Outcome {
    fn failed(&mut self, rows: Vec<Claimed>, error: BusError) {
        match error {
            BusError::Refused(_) | BusError::Unexpected(_) => self.refused.extend(rows),
            _ => self.is_outage = true,
        }
        self.error = Some(error);
    }
}

async fn offer(publisher: &Publisher, stream: &str, rows: &[Claimed]) -> Result<(), BusError> {
    let messages = rows.iter().map(message).collect();
    publisher.publish_signed(stream, messages).await.map(|_ids| ())
}

/// The fields that go out: those stored, plus the row's id and its deduplication key if it has one.
fn message(row: &Claimed) -> Fields {
    let mut fields = row.fields.clone();
    fields.insert(OUTBOX_ID.to_owned(), row.id.clone());
    if let Some(key) = &row.dedupe_key {
        fields.insert(DEDUPE_KEY.to_owned(), key.clone());
    }
    fields
}
