//! The public keys with which an application proves itself instead of with its secret (RFC 7523, `private_key_jwt`).

use caracal_model::{ApplicationId, ZoneId};
use caracal_storage::{ZoneScope, application};
use caracal_token::{JwkSet, KeySet, KeySetError};
use serde_json::{Map, Value};

use super::done;
use crate::caller::Caller;
use crate::change::{Change, Kind};
use crate::control::Control;
use crate::refusal::{Code, Refusal};

/// Most keys of one application: the present one, the next one, and a few processes.
pub(crate) const KEYS_MAX: usize = 8;

/// The keys of an application.
///
/// # Errors
/// [`Code::ApplicationNotFound`] and [`Code::ApplicationKeysNotFound`].
pub(crate) async fn find(control: &Control, zone: &ZoneId, id: &ApplicationId) -> Result<Value, Refusal> {
    let mut tx = control.database.read_in(ZoneScope::Zone(zone)).await?;
    let keys = application::keys(&mut tx, zone, id)
        .await?
        .ok_or(Code::ApplicationNotFound)?;
    keys.ok_or_else(|| Code::ApplicationKeysNotFound.into())
}

/// Replaces the keys of an application; what was signed with one that is gone proves nothing any more.
///
/// # Errors
/// [`Code::ApplicationNotFound`].
pub(crate) async fn put(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    id: &ApplicationId,
    keys: &JwkSet,
    members: &Map<String, Value>,
) -> Result<Value, Refusal> {
    let keys = serde_json::to_value(keys).map_err(Refusal::internal)?;
    let mut change = Change::in_zone(control, caller, zone).await?;
    if !application::set_keys(change.tx(), zone, id, Some(&keys), caller.by()).await? {
        return Err(Code::ApplicationNotFound.into());
    }
    change
        .commit(done(zone, id, 200, Kind::Update, Some(members)))
        .await?;
    Ok(keys)
}

/// Takes the keys of an application away.
///
/// # Errors
/// [`Code::ApplicationNotFound`].
pub(crate) async fn delete(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    id: &ApplicationId,
) -> Result<(), Refusal> {
    let mut change = Change::in_zone(control, caller, zone).await?;
    if !application::set_keys(change.tx(), zone, id, None, caller.by()).await? {
        return Err(Code::ApplicationNotFound.into());
    }
    change.commit(done(zone, id, 204, Kind::Update, None)).await
}

/// Whether the keys can verify: each on the curve, no two with one id.
///
/// # Errors
/// [`KeySetError`].
pub(crate) fn check(keys: &JwkSet) -> Result<(), KeySetError> {
    KeySet::from_jwks(keys).map(drop)
}
