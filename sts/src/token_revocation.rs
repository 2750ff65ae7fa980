//! How does the holder of a token end it? (RFC 7009)
//!
//! Tokens are not stored, so what is revoked is the anchor every token has of its own: its authority record, `sid`. For a
//! reusable mandate that ends everything that was started under it as well; for the others exactly that token.

use bytes::Bytes;
use caracal_model::{Anchor, Anchors, EventId, IdError, UnixMicros};
use caracal_storage::{StorageError, ZoneScope, authority_record, outbox, revocation, revocation_cascade};
use caracal_token::Claims;
use caracal_wire::audit::{AuditEvent, decision, event_type, status};
use caracal_wire::event::SessionsRevoke;
use caracal_wire::stream::SESSIONS_REVOKE;
use serde_json::json;

use crate::state::Sts;
use crate::unique_id::unique_id;

const REASON: &str = "token_revoked";
/// How long this process remembers the revocation without the durable log, in seconds; the log may say longer.
const REMEMBERED_SECONDS: i64 = 86_400;

/// Why a token was not revoked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RevokeError {
    #[error("the revocation cannot be stored")]
    Storage(#[from] StorageError),
    #[error("there is no randomness")]
    Randomness(#[from] aws_lc_rs::error::Unspecified),
    #[error("the event id is not an id")]
    Id(#[from] IdError),
    #[error("the revocation cannot be recorded")]
    NotRecorded,
}

/// Ends the token with these proven claims: durable, recorded, announced to every gateway and replica, and in force here
/// when this returns. Repeating it changes nothing, and costs nothing while this process remembers.
///
/// # Errors
/// [`RevokeError`]; the token may then be revoked or not.
pub(crate) async fn revoke(sts: &Sts, claims: &Claims, request_id: &str) -> Result<(), RevokeError> {
    let anchor = Anchor::AuthorityRecord(claims.sid.clone());
    let zone = &claims.zone_id;
    let itself = Anchors {
        sid: claims.sid.clone(),
        root_sid: claims.sid.clone(),
        session: None,
        delegation: None,
    };
    // What is remembered here came from the durable log, or was stored in it before.
    if sts.revocations.is_revoked(&itself).is_some() {
        return Ok(());
    }
    let mut tx = sts.database.write(ZoneScope::Zone(zone)).await?;
    revocation_cascade::lock_out(&mut tx, zone).await?;
    authority_record::end(&mut tx, zone, &claims.sid, REASON).await?;
    if revocation::record(&mut tx, zone, &anchor, REASON).await? {
        let message = SessionsRevoke::of(zone.clone(), anchor.clone(), REASON);
        outbox::enqueue_for_request(&mut tx, SESSIONS_REVOKE, &message.to_fields(), Some(request_id)).await?;
        record(sts, claims, request_id).await?;
    }
    tx.commit().await?;
    let until = sts.clock.unix_seconds().saturating_add(REMEMBERED_SECONDS);
    sts.revocations.insert(&anchor, until);
    Ok(())
}

async fn record(sts: &Sts, claims: &Claims, request_id: &str) -> Result<(), RevokeError> {
    let id = EventId::try_from(unique_id(sts.clock.unix_millis())?)?;
    let occurred_at = UnixMicros(sts.clock.unix_micros());
    let mut event = AuditEvent::new(id, claims.zone_id.clone(), event_type::TOKEN_REVOKED, occurred_at);
    event.request_id = Some(request_id.to_owned());
    decision::ALLOW.clone_into(&mut event.decision);
    status::COMPLETE.clone_into(&mut event.evaluation_status);
    event.metadata_json = json!({
        "application_id": claims.client_id,
        "token_id": claims.jti,
        "token_use": claims.r#use.as_str(),
        "token_sid": claims.sid,
        "token_root_sid": claims.root_sid,
    });
    let line = event.to_json().or(Err(RevokeError::NotRecorded))?;
    sts.spool.append(Bytes::from(line)).await.map_err(|error| {
        sts.metrics.audit_sink_errors.inc();
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "evidence cannot be spooled"
        );
        RevokeError::NotRecorded
    })
}
