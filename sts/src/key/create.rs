//! How does a zone come by a signing key?
//!
//! Zones get their first key with their creation; this makes the one of a zone that has none, and the next one when an
//! administrator rotates. Always under the zone's lock, so that replicas never both make the first.

use aws_lc_rs::error::Unspecified;
use caracal_model::{IdError, KeyId, ZoneId};
use caracal_storage::{StorageError, WriteTx, ZoneScope, signing_key};
use caracal_token::envelope::{SealError, ZONE_SIGNING_KEY_AAD};
use caracal_token::{KeyError, SigningKey};

use crate::state::Sts;
use crate::unique_id::unique_id;
use crate::zone::ZoneError;

/// Why no key was made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CreateKeyError {
    #[error("the key cannot be stored")]
    Storage(#[from] StorageError),
    #[error("the key cannot be generated")]
    Key(#[from] KeyError),
    #[error("the key cannot be sealed")]
    Seal(#[from] SealError),
    #[error("there is no randomness")]
    Randomness(#[from] Unspecified),
    #[error("the key id is not an id")]
    Id(#[from] IdError),
    #[error("the zone cannot be read again")]
    Zone(#[from] ZoneError),
}

/// Makes the first key of `zone`, unless somebody else has meanwhile.
///
/// # Errors
/// [`CreateKeyError`].
pub(crate) async fn create_first(sts: &Sts, zone: &ZoneId) -> Result<(), CreateKeyError> {
    let mut tx = sts.database.write(ZoneScope::Zone(zone)).await?;
    if signing_key::lock_newest(&mut tx, zone).await?.is_none() {
        let id = insert(sts, &mut tx, zone).await?;
        tx.commit().await?;
        tracing::info!(zone.id = %zone, key.id = %id, "made the first signing key of a zone");
    }
    Ok(())
}

/// Makes a new key for `zone`, which signs from now on; the older ones go on verifying. Gives its id.
///
/// # Errors
/// [`CreateKeyError`].
pub(crate) async fn rotate(sts: &Sts, zone: &ZoneId) -> Result<KeyId, CreateKeyError> {
    let mut tx = sts.database.write(ZoneScope::Zone(zone)).await?;
    signing_key::lock_newest(&mut tx, zone).await?;
    let id = insert(sts, &mut tx, zone).await?;
    tx.commit().await?;
    tracing::info!(zone.id = %zone, key.id = %id, "rotated the signing key of a zone");
    sts.zones.reload(zone).await?;
    Ok(id)
}

async fn insert(sts: &Sts, tx: &mut WriteTx, zone: &ZoneId) -> Result<KeyId, CreateKeyError> {
    let id = KeyId::try_from(unique_id(sts.clock.unix_millis())?)?;
    let pem = SigningKey::generate(id.clone())?.to_sec1_pem()?;
    let envelope = sts
        .keyring
        .seal(pem.as_bytes(), ZONE_SIGNING_KEY_AAD.as_bytes())?;
    signing_key::insert(tx, zone, &id, &envelope).await?;
    Ok(id)
}
