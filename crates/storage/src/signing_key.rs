//! Which sealed signing keys does a zone have?
//!
//! Rows of `secrets` named `zone_signing_key`. The row's id is the key id (`kid`). The newest key whose time has come signs.

use caracal_model::{KeyId, UnixSeconds, ZoneId};
use sqlx::Row;
use time::OffsetDateTime;

use crate::error::{StorageError, checked};
use crate::tx::{AnyTx, WriteTx};

const NAME: &str = "zone_signing_key";

/// A zone signing key as stored.
#[derive(Clone)]
pub struct SealedSigningKey {
    /// Key id, the `kid` of every token it signs.
    pub id: KeyId,
    /// Zone it signs for.
    pub zone_id: ZoneId,
    /// The private key in SEC1 PEM, sealed.
    pub envelope: Vec<u8>,
    /// Row version, from 1.
    pub version: i32,
    /// When it was created; the order of keys.
    pub created_at: OffsetDateTime,
    /// From when on it signs; since its creation when absent.
    pub signs_from: Option<OffsetDateTime>,
}

impl std::fmt::Debug for SealedSigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SealedSigningKey")
            .field("id", &self.id)
            .field("zone_id", &self.zone_id)
            .field("created_at", &self.created_at)
            .finish_non_exhaustive()
    }
}

const NEWEST_FIRST: &str = "SELECT id, zone_id, envelope, version, created_at, signs_from FROM secrets
     WHERE zone_id = $1 AND entity_id = $1 AND name = $2 ORDER BY created_at DESC, id DESC LIMIT $3";

fn sealed(row: &sqlx::postgres::PgRow) -> Result<SealedSigningKey, StorageError> {
    let id: String = row.try_get("id")?;
    Ok(SealedSigningKey {
        zone_id: checked(row.try_get("zone_id")?, "secrets", "zone_id", &id)?,
        envelope: row.try_get("envelope")?,
        version: row.try_get("version")?,
        created_at: row.try_get("created_at")?,
        signs_from: row.try_get("signs_from")?,
        id: checked(id.clone(), "secrets", "id", &id)?,
    })
}

/// The newest `count` keys of `zone`, newest first.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn newest<'t>(
    tx: impl AnyTx<'t>,
    zone: &ZoneId,
    count: i64,
) -> Result<Vec<SealedSigningKey>, StorageError> {
    sqlx::query(NEWEST_FIRST)
        .bind(zone.as_str())
        .bind(NAME)
        .bind(count)
        .fetch_all(tx)
        .await?
        .iter()
        .map(sealed)
        .collect()
}

/// Waits until no other transaction creates a key for `zone`, then answers the newest key there is now.
///
/// The caller inserts a key only if the answer does not satisfy it, so that two replicas never both create the first.
/// The lock is `pg_advisory_xact_lock(hashtext('zone_signing_key:' || zone))` and ends with the transaction.
///
/// # Errors
/// [`StorageError::Contention`] when the lock is not free in time.
pub async fn lock_newest(tx: &mut WriteTx, zone: &ZoneId) -> Result<Option<SealedSigningKey>, StorageError> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtext('zone_signing_key:' || $1))")
        .bind(zone.as_str())
        .execute(&mut *tx)
        .await?;
    // A second statement, because the first one's snapshot is older than the lock.
    sqlx::query(NEWEST_FIRST)
        .bind(zone.as_str())
        .bind(NAME)
        .bind(1_i64)
        .fetch_optional(tx)
        .await?
        .as_ref()
        .map(sealed)
        .transpose()
}

/// Stores a new key, which from now on is the newest of `zone` and signs at once.
///
/// # Errors
/// [`StorageError::Conflict`] when the key id is taken, [`StorageError::Reference`] when the zone does not exist.
pub async fn insert(
    tx: &mut WriteTx,
    zone: &ZoneId,
    id: &KeyId,
    envelope: &[u8],
) -> Result<(), StorageError> {
    insert_row(tx, zone, id, envelope, None).await
}

/// Stores a new key, which from now on is the newest of `zone` and signs from `signs_from` on.
///
/// # Errors
/// As [`insert`].
pub async fn insert_scheduled(
    tx: &mut WriteTx,
    zone: &ZoneId,
    id: &KeyId,
    envelope: &[u8],
    signs_from: UnixSeconds,
) -> Result<(), StorageError> {
    insert_row(tx, zone, id, envelope, Some(signs_from.get())).await
}

async fn insert_row(
    tx: &mut WriteTx,
    zone: &ZoneId,
    id: &KeyId,
    envelope: &[u8],
    signs_from: Option<i64>,
) -> Result<(), StorageError> {
    sqlx::query(
        "INSERT INTO secrets (id, zone_id, entity_id, name, type, envelope, created_at, signs_from)
         VALUES ($1, $2, $2, $3, 'token', $4, clock_timestamp(), to_timestamp($5::double precision))",
    )
    .bind(id.as_str())
    .bind(zone.as_str())
    .bind(NAME)
    .bind(envelope)
    .bind(signs_from)
    .execute(tx)
    .await?;
    Ok(())
}

/// Withdraws every key of `zone` but `kept`: what they signed is no longer verified. Answers their ids.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn withdraw_all_but(
    tx: &mut WriteTx,
    zone: &ZoneId,
    kept: &KeyId,
) -> Result<Vec<KeyId>, StorageError> {
    let ids: Vec<String> = sqlx::query_scalar(
        "UPDATE secrets SET withdrawn_at = now(), updated_at = now()
         WHERE zone_id = $1 AND entity_id = $1 AND name = $2 AND id <> $3 AND withdrawn_at IS NULL
         RETURNING id",
    )
    .bind(zone.as_str())
    .bind(NAME)
    .bind(kept.as_str())
    .fetch_all(tx)
    .await?;
    ids.into_iter()
        .map(|id| checked(id.clone(), "secrets", "id", &id))
        .collect()
}

/// How many keys of `zone` were made in the last two days and not withdrawn.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn count_recent<'t>(tx: impl AnyTx<'t>, zone: &ZoneId) -> Result<i64, StorageError> {
    Ok(sqlx::query_scalar(
        "SELECT count(*) FROM secrets
         WHERE zone_id = $1 AND entity_id = $1 AND name = $2 AND withdrawn_at IS NULL
           AND created_at > now() - interval '2 days'",
    )
    .bind(zone.as_str())
    .bind(NAME)
    .fetch_one(tx)
    .await?)
}
