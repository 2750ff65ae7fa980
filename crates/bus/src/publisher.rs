//! How a signed message gets onto a stream.

use std::sync::Arc;

use caracal_wire::stream::Fields;

use crate::bus::Bus;
use crate::entry::EntryId;
use crate::error::BusError;
use crate::signing::StreamKeys;

/// Signs messages and publishes them.
#[derive(Clone, Debug)]
pub struct Publisher {
    bus: Arc<dyn Bus>,
    keys: StreamKeys,
}

impl Publisher {
    /// Publishes on `bus`, signing with the current key of `keys`.
    pub fn new(bus: Arc<dyn Bus>, keys: StreamKeys) -> Self {
        Self { bus, keys }
    }

    /// Signs each message of `batch` and publishes all of them in order in one round trip.
    ///
    /// # Errors
    /// [`BusError::ControlCharacter`] when a message cannot be signed (nothing was published then), else
    /// [`BusError`] when the bus did not confirm the batch.
    pub async fn publish_signed(&self, stream: &str, batch: Vec<Fields>) -> Result<Vec<EntryId>, BusError> {
        let signed: Result<Vec<Fields>, BusError> = batch
            .into_iter()
            .map(|fields| self.keys.sign(stream, fields))
            .collect();
        self.bus.publish(stream, &signed?).await
    }

    /// The bus messages go to.
    pub fn bus(&self) -> &Arc<dyn Bus> {
        &self.bus
    }
}
