//! How does spooled evidence reach the audit stream?

use std::borrow::Cow;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use caracal_wire::audit;
use caracal_wire::stream::{AUDIT_EVENTS, Fields, SIG};
use futures_util::FutureExt;
use serde::Deserialize;

use super::reader;
use super::{Shared, Spool};
use crate::backoff::Backoff;
use crate::bus::Bus;
use crate::error::BusError;
use crate::signing::{HmacKey, StreamKeys};

const WHAT: &str = "publishing evidence";
/// Time between the first event of a batch and the batch, and between batches that are not full: events of the same moment
/// share the files' reading, the round trip and the new position, here and at whoever reads the stream. Evidence is late by
/// this much and the batch under way, and it is in the files before that.
const GATHER: Duration = Duration::from_millis(20);

/// How long a service that stops goes on publishing what is left.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Moves what is spooled to `caracal.audit.events`, oldest first, in batches of one round trip each, until `shutdown`
/// resolves and what is left then is published, or a second later. Tries again for as long as the bus is down. A batch interrupted by a crash is sent again: every event is
/// published at least once.
///
/// Each entry has `id` (the event's), `data` (the event as it was appended), `sig` under `audit_key` and `_sig` under
/// `stream_keys`; without an audit key (mode `dev`) there is no `sig`. One publisher serves a spool at a time; a second
/// one returns at once.
pub async fn run_publisher(
    spool: Spool,
    bus: Arc<dyn Bus>,
    audit_key: Option<HmacKey>,
    stream_keys: StreamKeys,
    shutdown: impl Future<Output = ()> + Send,
) {
    let Some(_turn) = Turn::take(&spool) else {
        tracing::error!("a publisher of this evidence spool is running already");
        return;
    };
    let publisher = EvidencePublisher {
        shared: Arc::clone(&spool.0.shared),
        bus,
        audit_key,
        stream_keys,
    };
    let mut shutdown = pin!(shutdown);
    let mut backoff = Backoff::new();
    while shutdown.as_mut().now_or_never().is_none() {
        let pause = match publisher.publish_batch().await {
            Ok(published) => {
                backoff.succeeded(WHAT);
                match published {
                    Published::Full => continue,
                    Published::Some => Some(GATHER),
                    Published::Nothing => None,
                }
            }
            Err(error) => Some(backoff.failed(WHAT, &error)),
        };
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            () = publisher.wait(pause) => {}
        }
    }
    publisher.finish().await;
}

/// The right to publish a spool; given back when dropped, also when the task is aborted.
struct Turn<'s>(&'s Spool);

impl<'s> Turn<'s> {
    fn take(spool: &'s Spool) -> Option<Self> {
        let taken = spool.0.shared.publishing.swap(true, Ordering::AcqRel);
        (!taken).then_some(Self(spool))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.0.shared.publishing.store(false, Ordering::Release);
    }
}

struct EvidencePublisher {
    shared: Arc<Shared>,
    bus: Arc<dyn Bus>,
    audit_key: Option<HmacKey>,
    stream_keys: StreamKeys,
}

enum Published {
    /// As many events as a batch holds: more are waiting.
    Full,
    Some,
    Nothing,
}

#[derive(Debug, thiserror::Error)]
enum PublishError {
    #[error("the evidence spool cannot be read")]
    Spool(#[from] io::Error),
    #[error(transparent)]
    Bus(#[from] BusError),
}

impl EvidencePublisher {
    /// Not cancelled by a shutdown: it takes as long as the bus may take to answer, and a batch that the bus has is
    /// then not sent again at the next start.
    async fn publish_batch(&self) -> Result<Published, PublishError> {
        let Some(batch) = self.on_disk(reader::next_batch).await? else {
            return Ok(Published::Nothing);
        };
        let entries: Vec<Fields> = batch.events.iter().map(|event| self.entry(event)).collect();
        self.bus.publish(AUDIT_EVENTS, &entries).await?;
        let is_full = batch.is_full;
        self.on_disk(move |shared| reader::settle(shared, &batch)).await?;
        Ok(if is_full { Published::Full } else { Published::Some })
    }

    /// Publishes what is left, as far as the bus takes it at once: the disk may go away with the service.
    async fn finish(&self) {
        let rest = async { while let Ok(Published::Full | Published::Some) = self.publish_batch().await {} };
        let _late = tokio::time::timeout(LAST_WORDS, rest).await;
    }

    /// Until the next try, or without one, until events were written.
    async fn wait(&self, pause: Option<Duration>) {
        if pause.is_none() {
            self.shared.written.notified().await;
        }
        tokio::time::sleep(pause.unwrap_or(GATHER)).await;
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || work(&shared))
            .await
            .map_err(io::Error::other)?
    }

    fn entry(&self, event: &Bytes) -> Fields {
        let data = match String::from_utf8(event.to_vec()) {
            Ok(data) => data,
            Err(other) => String::from_utf8_lossy(other.as_bytes()).into_owned(),
        };
        let mut fields = Fields::new();
        if let Some(id) = id_of(&data) {
            fields.insert("id".to_owned(), id.into_owned());
        }
        if let Some(key) = &self.audit_key {
            fields.insert("sig".to_owned(), audit::sign_data(key.expose(), data.as_bytes()));
        }
        fields.insert("data".to_owned(), data);
        // What was spooled can be signed; if it could not, `sig` would still cover it.
        if let Ok(Some(signature)) = self.stream_keys.signature(AUDIT_EVENTS, &fields) {
            fields.insert(SIG.to_owned(), signature);
        }
        fields
    }
}

/// The id of an event. It is what our events begin with, so that the others are rarely read to their end.
fn id_of(event: &str) -> Option<Cow<'_, str>> {
    let first = event
        .strip_prefix(r#"{"id":""#)
        .and_then(|rest| rest.split_once('"'));
    match first {
        Some((id, _rest)) if !id.contains('\\') => Some(Cow::Borrowed(id)),
        _ => serde_json::from_str(event).ok().map(|Identified { id }| id),
    }
}

#[derive(Deserialize)]
struct Identified<'e> {
    #[serde(borrow)]
    id: Cow<'e, str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_found_wherever_and_however_it_stands() {
        for (event, id) in [
            (r#"{"id":"e-1","zone_id":"z"}"#, Some("e-1")),
            (r#"{"zone_id":"z","id":"e-1"}"#, Some("e-1")),
            (r#"{ "id" : "e-1" }"#, Some("e-1")),
            (r#"{"id":"e\u002d1"}"#, Some("e-1")),
            (r#"{"zone_id":"z"}"#, None),
            ("not json", None),
        ] {
            assert_eq!(id_of(event).as_deref(), id, "{event}");
        }
    }
}
