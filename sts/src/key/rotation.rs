//! How does a zone change its signing key?
//!
//! A new key is published before it signs, because verifiers out there keep a key set for minutes and do not look for a key
//! they do not know. Somebody who cannot wait skips that, and may withdraw the keys before it. The new key, its announcement
//! to gateways and replicas, and the end of the withdrawn ones are one transaction, recorded before it commits.

use bytes::Bytes;
use caracal_model::{EventId, KeyId, UnixMicros, UnixSeconds, ZoneId};
use caracal_storage::signing_key::{self, SealedSigningKey};
use caracal_storage::{ZoneScope, outbox};
use caracal_wire::audit::{AuditEvent, decision, event_type, status};
use caracal_wire::event::KeysInvalidate;
use caracal_wire::stream::KEYS_INVALIDATE;
use serde_json::json;

use super::create::{CreateKeyError, fresh};
use crate::state::Sts;
use crate::unique_id::unique_id;

/// How long a key waits before it signs, in seconds: ten minutes for verifiers that keep a key set, and one for our
/// replicas and gateways to publish it.
pub(crate) const WAIT_SECONDS: i64 = 660;
/// Keys that may still verify; a key set is bounded by its readers, and nobody needs more in two days.
const KEYS_MAX: i64 = 24;

/// How much of a hurry a rotation is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// The new key waits until every verifier can know it.
    Planned,
    /// The new key signs at once: verifiers that keep an old key set refuse it for a while.
    Emergency,
    /// The new key signs at once, and nothing signed by an older one is believed any more.
    Compromise,
}

impl Urgency {
    fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Emergency => "emergency",
            Self::Compromise => "compromise",
        }
    }
}

/// What a rotation came to.
#[derive(Debug)]
pub(crate) struct Rotation {
    /// The key that signs next, or already.
    pub(crate) kid: KeyId,
    pub(crate) signs_from: UnixSeconds,
    /// False when a key was waiting already: that one is named, and none was made.
    pub(crate) is_new: bool,
    pub(crate) withdrawn: Vec<KeyId>,
}

/// Makes the next key of `zone`. `request_id` names the request in the evidence.
///
/// # Errors
/// [`CreateKeyError`].
pub(crate) async fn rotate(
    sts: &Sts,
    zone: &ZoneId,
    urgency: Urgency,
    request_id: &str,
) -> Result<Rotation, CreateKeyError> {
    let now = UnixSeconds(sts.clock.unix_seconds());
    let mut tx = sts.database.write(ZoneScope::Zone(zone)).await?;
    let newest = signing_key::lock_newest(&mut tx, zone).await?;
    if let Some(rotation) = newest
        .as_ref()
        .and_then(|newest| already_waiting(newest, urgency, now))
    {
        return Ok(rotation);
    }
    let count = signing_key::count_recent(&mut tx, zone).await?;
    if count >= KEYS_MAX && urgency != Urgency::Compromise {
        return Err(CreateKeyError::TooMany(count));
    }
    let (kid, envelope) = fresh(sts)?;
    let signs_from = match (urgency, &newest) {
        (Urgency::Planned, Some(_)) => now + WAIT_SECONDS,
        _ => now,
    };
    signing_key::insert_scheduled(&mut tx, zone, &kid, &envelope, signs_from).await?;
    let withdrawn = if urgency == Urgency::Compromise {
        signing_key::withdraw_all_but(&mut tx, zone, &kid).await?
    } else {
        Vec::new()
    };
    let announcement = KeysInvalidate {
        zone_id: zone.clone(),
    };
    outbox::enqueue(&mut tx, KEYS_INVALIDATE, &announcement.to_fields()).await?;
    let rotation = Rotation {
        kid,
        signs_from,
        is_new: true,
        withdrawn,
    };
    record(sts, zone, urgency, newest.as_ref(), &rotation, request_id).await?;
    tx.commit().await?;
    tracing::info!(zone.id = %zone, key.id = %rotation.kid, urgency = urgency.as_str(), "rotated the signing key of a zone");
    // It is done: a replica that cannot read it now reads it by the announcement, as every other does.
    if let Err(error) = sts.zones.reload(zone).await {
        tracing::warn!(zone.id = %zone, error = &error as &dyn std::error::Error, "the zone is read again later");
        sts.zones.note_change(zone, None);
    }
    Ok(rotation)
}

/// A planned rotation while a key waits is that same rotation, asked for again.
fn already_waiting(newest: &SealedSigningKey, urgency: Urgency, now: UnixSeconds) -> Option<Rotation> {
    let signs_from = UnixSeconds(newest.signs_from?.unix_timestamp());
    (urgency == Urgency::Planned && signs_from > now).then(|| Rotation {
        kid: newest.id.clone(),
        signs_from,
        is_new: false,
        withdrawn: Vec::new(),
    })
}

async fn record(
    sts: &Sts,
    zone: &ZoneId,
    urgency: Urgency,
    newest: Option<&SealedSigningKey>,
    rotation: &Rotation,
    request_id: &str,
) -> Result<(), CreateKeyError> {
    let id = EventId::try_from(unique_id(sts.clock.unix_millis())?)?;
    let occurred_at = UnixMicros(sts.clock.unix_micros());
    let mut event = AuditEvent::new(id, zone.clone(), event_type::SIGNING_KEY_ROTATED, occurred_at);
    event.request_id = Some(request_id.to_owned());
    decision::ALLOW.clone_into(&mut event.decision);
    status::COMPLETE.clone_into(&mut event.evaluation_status);
    event.metadata_json = json!({
        "key_id": rotation.kid,
        "previous_key_id": newest.map(|newest| &newest.id),
        "signs_from": rotation.signs_from.to_rfc3339(),
        "urgency": urgency.as_str(),
        "withdrawn_key_ids": rotation.withdrawn,
    });
    let line = event.to_json().or(Err(CreateKeyError::NotRecorded))?;
    sts.spool.append(Bytes::from(line)).await.map_err(|error| {
        sts.metrics.audit_sink_errors.inc();
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "evidence cannot be spooled"
        );
        CreateKeyError::NotRecorded
    })
}
