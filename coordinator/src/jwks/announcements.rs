//! When are known keys not to be believed any longer? When the STS announces that the keys of their zone have changed.

use std::sync::Arc;
use std::time::Duration;

use caracal_bus::cursor::{Cursor, CursorEvent};
use caracal_bus::{Bus, StreamKeys};
use caracal_chassis::shutdown::Shutdown;
use caracal_wire::event::KeysInvalidate;
use caracal_wire::stream::KEYS_INVALIDATE;

use super::KeySets;

/// Pause between attempts to find the end of the stream.
const RETRY: Duration = Duration::from_millis(500);

/// The reader of the announcements.
pub(crate) struct Announcements {
    bus: Arc<dyn Bus>,
    stream_keys: StreamKeys,
    /// Absent while the bus does not answer.
    cursor: Option<Cursor>,
}

impl Announcements {
    /// Marks the end of the stream, if the bus answers: everything announced from now on will be heard.
    pub(crate) async fn mark(bus: Arc<dyn Bus>, stream_keys: StreamKeys) -> Self {
        let mut announcements = Self {
            bus,
            stream_keys,
            cursor: None,
        };
        announcements.cursor = announcements.try_mark().await;
        announcements
    }

    async fn try_mark(&self) -> Option<Cursor> {
        let streams = [KEYS_INVALIDATE];
        let started = Cursor::start(Arc::clone(&self.bus), self.stream_keys.clone(), &streams).await;
        started
            .inspect_err(|error| {
                tracing::warn!(
                    error = error as &dyn std::error::Error,
                    "announcements about keys cannot be followed yet"
                );
            })
            .ok()
    }

    /// Tells `keys` what is announced, until the shutdown. While the bus is away, keys are believed for their ordinary
    /// time.
    pub(crate) async fn follow(mut self, keys: Arc<KeySets>, shutdown: Shutdown) {
        let cursor = loop {
            if let Some(cursor) = self.cursor.take() {
                break cursor;
            }
            tokio::select! {
                () = shutdown.requested() => return,
                () = tokio::time::sleep(RETRY) => {}
            }
            self.cursor = self.try_mark().await;
            // What was fetched before the mark may have been announced as changed since.
            keys.note_loss();
        };
        cursor
            .run(|event| apply(&keys, event), shutdown.requested())
            .await;
    }
}

fn apply(keys: &KeySets, event: CursorEvent<'_>) {
    match event {
        CursorEvent::Entry { entry, .. } => match KeysInvalidate::from_fields(&entry.fields) {
            Ok(message) => keys.note_change(&message.zone_id),
            Err(error) => {
                tracing::warn!(entry.id = %entry.id, %error, "a message about keys cannot be read");
                keys.note_loss();
            }
        },
        CursorEvent::Lost(reload) => {
            keys.note_loss();
            reload.done();
        }
    }
}
