//! Is this token good now? (RFC 7662)
//!
//! Whatever leaves a doubt is answered as inactive: a token of another zone, a key that was withdrawn, anything the token
//! hangs from that was revoked, an application or a session that is not there any more.

use std::sync::Arc;

use caracal_model::{SessionId, UnixSeconds};
use caracal_storage::session_graph::GraphKey;
use caracal_token::{Claims, Rules, UnverifiedToken, Use, verify};

use crate::session_graph::{Origin, View};
use crate::state::Sts;
use crate::zone::ZoneModel;

/// Clock difference granted to the times of a token, in seconds. The STS minted it, so there is none.
const LEEWAY_SECONDS: i64 = 0;
/// Longest token that is looked at, in bytes; what a gateway takes.
pub(crate) const TOKEN_BYTES_MAX: usize = 16 << 10;

/// Why nothing can be said about a token now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Undecided {
    #[error("what is revoked is not known up to now")]
    RevocationStale,
    #[error("the session of the token cannot be read")]
    SessionState(#[source] Arc<caracal_storage::StorageError>),
}

/// The claims of `token` if it is a mandate of `zone` that holds at `now`; `None` for everything else. Cost: one SHA-256
/// for a token this process minted, else one signature check.
///
/// # Errors
/// [`Undecided`].
pub(crate) async fn active(
    sts: &Sts,
    zone: &ZoneModel,
    token: &str,
    now: UnixSeconds,
) -> Result<Option<Arc<Claims>>, Undecided> {
    if !sts.is_fresh() {
        return Err(Undecided::RevocationStale);
    }
    let Some(claims) = genuine(sts, zone, token, now) else {
        return Ok(None);
    };
    let holds = claims.exp > now.0
        && zone.application(&claims.client_id, now).is_some()
        && sts.revocations.is_revoked(&claims.anchors()).is_none();
    if !holds {
        return Ok(None);
    }
    match &claims.agent_session_id {
        Some(session) if !is_session_live(sts, zone, session, now).await? => Ok(None),
        _ => Ok(Some(claims)),
    }
}

/// The zone as it is now, if it has moved on since `zone`: what memory does not know may be newer than memory. At most one
/// statement for a zone in a tenth of a second.
pub(crate) async fn newer(sts: &Sts, zone: &ZoneModel) -> Option<Arc<ZoneModel>> {
    if sts.zones.catch_up(&zone.id, Some(zone.version)).await {
        sts.zones.model(&zone.id).await.ok()
    } else {
        None
    }
}

/// The claims of `token` if a published key of `zone` signed it, whether or not it still holds.
pub(crate) fn genuine(sts: &Sts, zone: &ZoneModel, token: &str, now: UnixSeconds) -> Option<Arc<Claims>> {
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    let published = zone.keys.published(now).ok()?;
    if let Some(minted) = sts.minted.find(token, &zone.id)
        && published.keys.contains(minted.kid.as_str())
    {
        return Some(Arc::clone(&minted.claims));
    }
    let unverified = UnverifiedToken::parse(token).ok()?;
    let claimed = unverified.unverified_claims();
    let audience = claimed.aud.first()?.clone();
    // The time that counts is looked at by the caller: a token that expired is still ours.
    let then = UnixSeconds(claimed.iat.max(now.0.min(claimed.exp.saturating_sub(1))));
    let rules = Rules {
        issuer: &sts.issuer,
        audience: &audience,
        leeway_seconds: LEEWAY_SECONDS,
        uses: &[Use::Session, Use::Gateway, Use::Resource],
    };
    let claims = verify(unverified, &published.keys, &rules, then).ok()?;
    (claims.zone_id == zone.id).then(|| Arc::new(claims))
}

/// A session that was suspended is not revoked, so it is looked at. What is remembered as dead is read again before it
/// counts as such.
async fn is_session_live(
    sts: &Sts,
    zone: &ZoneModel,
    session: &SessionId,
    now: UnixSeconds,
) -> Result<bool, Undecided> {
    let key = GraphKey {
        zone_id: zone.id.clone(),
        authority_record_id: None,
        session_id: Some(session.clone()),
        delegation_id: None,
    };
    let is_live = |view: &View| {
        view.session(session)
            .is_some_and(|known| !known.has_revoked_record && known.session.is_live(&zone.id, now))
    };
    let (view, origin) = sts.graph.view(&key).await.map_err(Undecided::SessionState)?;
    if is_live(&view) || origin == Origin::Database {
        return Ok(is_live(&view));
    }
    let view = sts.graph.reread(&key).await.map_err(Undecided::SessionState)?;
    Ok(is_live(&view))
}
