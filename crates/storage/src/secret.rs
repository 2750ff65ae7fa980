//! Which sealed secret is stored under a reference?
//!
//! Rows of `secret_store`. The envelope is opaque here: sealing and opening belong to the token crate.

use caracal_model::ZoneId;
use sqlx::Row;

use crate::error::{StorageError, checked};
use crate::tx::{AnyTx, WriteTx};

/// A sealed secret.
#[derive(Clone)]
pub struct SealedSecret {
    /// Reference, e.g. `application/<id>/client_secret`.
    pub reference: String,
    /// Zone it belongs to.
    pub zone_id: ZoneId,
    /// The sealed bytes.
    pub envelope: Vec<u8>,
    /// Counts replacements, from 1.
    pub version: i32,
}

impl std::fmt::Debug for SealedSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedSecret")
            .field("reference", &self.reference)
            .field("zone_id", &self.zone_id)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

fn sealed(row: &sqlx::postgres::PgRow) -> Result<SealedSecret, StorageError> {
    let reference: String = row.try_get("ref")?;
    Ok(SealedSecret {
        zone_id: checked(row.try_get("zone_id")?, "secret_store", "zone_id", &reference)?,
        envelope: row.try_get("envelope")?,
        version: row.try_get("version")?,
        reference,
    })
}

/// The secret stored under `reference` in `zone`, if any.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn find<'t>(
    tx: impl AnyTx<'t>,
    zone: &ZoneId,
    reference: &str,
) -> Result<Option<SealedSecret>, StorageError> {
    sqlx::query("SELECT ref, zone_id, envelope, version FROM secret_store WHERE zone_id = $1 AND ref = $2")
        .bind(zone.as_str())
        .bind(reference)
        .fetch_optional(tx)
        .await?
        .as_ref()
        .map(sealed)
        .transpose()
}

/// Every secret of `zone`, for building a zone's model in one snapshot.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn list<'t>(tx: impl AnyTx<'t>, zone: &ZoneId) -> Result<Vec<SealedSecret>, StorageError> {
    sqlx::query("SELECT ref, zone_id, envelope, version FROM secret_store WHERE zone_id = $1 ORDER BY ref")
        .bind(zone.as_str())
        .fetch_all(tx)
        .await?
        .iter()
        .map(sealed)
        .collect()
}

/// Stores `envelope` under `reference`, replacing what was there. Answers the version.
///
/// # Errors
/// [`StorageError::Inconsistent`] when another zone already uses the reference.
pub async fn put(
    tx: &mut WriteTx,
    zone: &ZoneId,
    reference: &str,
    envelope: &[u8],
) -> Result<i32, StorageError> {
    let version: Option<i32> = sqlx::query_scalar(
        "INSERT INTO secret_store (ref, zone_id, envelope) VALUES ($1, $2, $3)
         ON CONFLICT (ref) DO UPDATE
             SET envelope = excluded.envelope, version = secret_store.version + 1, updated_at = now()
             WHERE secret_store.zone_id = excluded.zone_id
         RETURNING version",
    )
    .bind(reference)
    .bind(zone.as_str())
    .bind(envelope)
    .fetch_optional(tx)
    .await?;
    version.ok_or_else(|| StorageError::inconsistent("secret_store", "zone_id", reference))
}

/// Deletes the secret under `reference`. Answers whether there was one.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn delete(tx: &mut WriteTx, zone: &ZoneId, reference: &str) -> Result<bool, StorageError> {
    let deleted = sqlx::query("DELETE FROM secret_store WHERE zone_id = $1 AND ref = $2")
        .bind(zone.as_str())
        .bind(reference)
        .execute(tx)
        .await?;
    Ok(deleted.rows_affected() == 1)
}
