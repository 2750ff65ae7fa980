//! Which admin tokens exist, and what may each do?
//!
//! Only the SHA-256 of a token is stored: `docs/decisions/` explains why that is enough for 256 random bits.

use caracal_model::{AdminTokenId, ZoneId};
use sqlx::PgExecutor;

use crate::error::StorageError;
use crate::tx::WriteTx;

/// A token that is in force.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct AdminToken {
    /// Its id.
    #[sqlx(try_from = "String")]
    pub id: AdminTokenId,
    /// Its name.
    pub name: String,
    /// `global` or `zone`.
    pub scope: String,
    /// `read`, `write` or `approve`.
    pub capability: String,
    /// The zone of a zone token.
    pub zone_id: Option<String>,
    /// Who made it, or `env-...` for a seeded one.
    pub created_by: String,
}

/// A token that must exist at every start.
#[derive(Debug)]
pub struct SeededToken<'a> {
    /// Id for the case that it does not exist yet.
    pub id: &'a AdminTokenId,
    /// Its name.
    pub name: &'a str,
    /// SHA-256 of its value.
    pub sha256: &'a [u8; 32],
    /// `read`, `write` or `approve`.
    pub capability: &'a str,
    /// Which of the seeded tokens it is.
    pub created_by: &'a str,
}

/// The token with this digest, unless it is revoked or has expired.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn find_active<'t>(
    tx: impl PgExecutor<'t>,
    sha256: &[u8; 32],
) -> Result<Option<AdminToken>, StorageError> {
    Ok(sqlx::query_as(
        "SELECT id, name, scope, capability, zone_id, created_by FROM admin_tokens
         WHERE token_sha256 = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())",
    )
    .bind(sha256.as_slice())
    .fetch_optional(tx)
    .await?)
}

/// Notes that a token was used, at most once per `debounce_seconds`.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn touch(
    tx: &mut WriteTx,
    token: &AdminTokenId,
    debounce_seconds: i64,
) -> Result<(), StorageError> {
    sqlx::query(
        "UPDATE admin_tokens SET last_used_at = now()
         WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < now() - $2 * interval '1 second')",
    )
    .bind(token.as_str())
    .bind(debounce_seconds)
    .execute(tx)
    .await?;
    Ok(())
}

/// Makes the seeded tokens exist and revokes the ones they replace; replicas that start together queue here.
///
/// A token whose digest exists already is left as it is, even when it was revoked: revoking the bootstrap token locks the
/// environment's value out until that value changes.
///
/// # Errors
/// [`StorageError::Contention`] when another replica does not end in time.
pub async fn seed(tx: &mut WriteTx, tokens: &[SeededToken<'_>]) -> Result<(), StorageError> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('admin_token_seed', 0))")
        .execute(&mut *tx)
        .await?;
    for token in tokens {
        sqlx::query(
            "INSERT INTO admin_tokens (id, name, token_sha256, scope, capability, created_by)
             SELECT $1, $2, $3, 'global', $4, $5
             WHERE NOT EXISTS (SELECT FROM admin_tokens WHERE token_sha256 = $3)",
        )
        .bind(token.id.as_str())
        .bind(token.name)
        .bind(token.sha256.as_slice())
        .bind(token.capability)
        .bind(token.created_by)
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "UPDATE admin_tokens SET revoked_at = now()
             WHERE created_by = $1 AND token_sha256 <> $2 AND revoked_at IS NULL",
        )
        .bind(token.created_by)
        .bind(token.sha256.as_slice())
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

/// Revokes every token of a zone, because the zone ends. Answers how many.
///
/// # Errors
/// [`StorageError::Contention`] when a lock is not free in time.
pub async fn revoke_of_zone(tx: &mut WriteTx, zone: &ZoneId) -> Result<u64, StorageError> {
    let revoked =
        sqlx::query("UPDATE admin_tokens SET revoked_at = now() WHERE zone_id = $1 AND revoked_at IS NULL")
            .bind(zone.as_str())
            .execute(tx)
            .await?;
    Ok(revoked.rows_affected())
}
