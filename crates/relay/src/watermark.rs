//! Up to which moment is everything that was committed on the streams?

use std::collections::BTreeMap;

use caracal_bus::{BusError, Publisher};
use caracal_storage::{Database, StorageError, outbox};
use caracal_wire::event::Watermark;
use caracal_wire::stream;
use thiserror::Error;
use tokio::sync::watch;

use crate::RelaySettings;
use crate::wait::{Outage, pause};

/// The streams a watermark speaks of: all that are fed by the outboxes and from which somebody derives authority.
pub const STREAMS: [&str; 7] = [
    stream::SESSIONS_REVOKE,
    stream::AGENTS_LIFECYCLE,
    stream::DELEGATIONS_INVALIDATE,
    stream::ZONES_INVALIDATE,
    stream::POLICY_INVALIDATE,
    stream::KEYS_INVALIDATE,
    stream::INVOCATIONS_LIFECYCLE,
];

#[derive(Debug, Error)]
enum WatermarkError {
    #[error("the watermark could not be established")]
    Storage(#[from] StorageError),
    #[error("the watermark could not be published")]
    Bus(#[from] BusError),
}

/// Publishes watermarks until told to stop. While it cannot, nobody's knowledge is proved, which is the point.
pub(crate) async fn run(
    database: &Database,
    publisher: &Publisher,
    settings: &RelaySettings,
    mut stopped: watch::Receiver<bool>,
) {
    let mut outage = Outage::new("publishing watermarks");
    while !*stopped.borrow() {
        let wait = match publish(database, publisher, settings).await {
            Ok(()) => {
                outage.succeeded();
                settings.watermark_every
            }
            Err(error) => {
                settings.stats.count_outage();
                outage.failed(&error)
            }
        };
        pause(&mut stopped, wait).await;
    }
}

/// Publishes one watermark.
///
/// The order is the proof. First the database says up to which moment `W` no committed row waits (see
/// [`outbox::watermark`]); every row committed before `W` is therefore on its stream by now, because rows are marked only
/// after the bus has taken them. Then the bus says where its streams end; the entries of all those rows are at or before
/// these ends. Asking in the other order would claim entries that came after the ends were read.
async fn publish(
    database: &Database,
    publisher: &Publisher,
    settings: &RelaySettings,
) -> Result<(), WatermarkError> {
    let mut tx = database.read().await?;
    let established = outbox::watermark(&mut tx).await?;
    drop(tx);
    let extents = publisher.bus().extents(&STREAMS).await?;
    let last_ids: BTreeMap<String, String> = STREAMS
        .iter()
        .zip(&extents)
        .map(|(stream, extent)| ((*stream).to_owned(), extent.last.to_string()))
        .collect();
    let as_of_unix_us = unix_microseconds(established.as_of);
    let watermark = Watermark {
        relay: settings.name.clone(),
        as_of_unix_us,
        last_ids,
    };
    publisher
        .publish_signed(stream::WATERMARKS, vec![watermark.to_fields()])
        .await?;
    settings.stats.set_watermark(as_of_unix_us);
    Ok(())
}

/// Rounded down, so that the watermark never claims more than was established.
fn unix_microseconds(time: time::OffsetDateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos().div_euclid(1_000)).unwrap_or_default()
}
