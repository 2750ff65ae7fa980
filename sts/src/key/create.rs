//! How does a zone come by its first signing key?
//!
//! Zones get it with their creation; this makes the one of a zone that has none. Always under the zone's lock, so that
//! replicas never both make the first.

use aws_lc_rs::error::Unspecified;
use caracal_model::{IdError, KeyId, ZoneId};
use caracal_storage::{StorageError, ZoneScope, signing_key};
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
    #[error("it cannot be recorded")]
    NotRecorded,
    #[error("the zone has {0} keys that may still verify")]
    TooMany(i64),
}

/// Makes the first key of `zone`, unless somebody else has meanwhile.
///
/// # Errors
/// [`CreateKeyError`].
pub(crate) async fn create_first(sts: &Sts, zone: &ZoneId) -> Result<(), CreateKeyError> {
    let mut tx = sts.database.write(ZoneScope::Zone(zone)).await?;
    if signing_key::lock_newest(&mut tx, zone).await?.is_none() {
        let (id, envelope) = fresh(sts)?;
        signing_key::insert(&mut tx, zone, &id, &envelope).await?;
        tx.commit().await?;
        tracing::info!(zone.id = %zone, key.id = %id, "made the first signing key of a zone");
    }
    Ok(())
}

/// A fresh key: its id and its sealed form.
///
/// # Errors
/// [`CreateKeyError`].
pub(super) fn fresh(sts: &Sts) -> Result<(KeyId, Vec<u8>), CreateKeyError> {
    let id = KeyId::try_from(unique_id(sts.clock.unix_millis())?)?;
    let pem = SigningKey::generate(id.clone())?.to_sec1_pem()?;
    let envelope = sts
        .keyring
        .seal(pem.as_bytes(), ZONE_SIGNING_KEY_AAD.as_bytes())?;
    Ok((id, envelope))
}
