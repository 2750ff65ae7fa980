//! Which authorizations of upstream accounts have been started, and are not finished?
//!
//! Whoever finishes one takes its row away, so a state is good once. States are stored by digest: who reads the table cannot
//! finish somebody else's authorization.

use caracal_model::{ProviderId, SubjectId, ZoneId};
use time::OffsetDateTime;

use crate::error::StorageError;
use crate::tx::WriteTx;

/// A started authorization.
#[derive(Clone, sqlx::FromRow)]
pub struct OAuthState {
    /// The zone it was started in.
    #[sqlx(try_from = "String")]
    pub zone_id: ZoneId,
    /// Whose account is to be connected.
    #[sqlx(try_from = "String")]
    pub subject_id: SubjectId,
    /// With which provider.
    #[sqlx(try_from = "String")]
    pub provider_id: ProviderId,
    /// The sealed code verifier.
    pub code_verifier_ct: Vec<u8>,
    /// Whether it was still good when it was taken.
    pub is_live: bool,
}

impl std::fmt::Debug for OAuthState {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("OAuthState")
            .field("zone_id", &self.zone_id)
            .field("provider_id", &self.provider_id)
            .finish_non_exhaustive()
    }
}

/// Remembers an authorization that was started, and forgets those of the zone that have run out. Answers when it runs out.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn insert(
    tx: &mut WriteTx,
    state_sha256: &[u8; 32],
    zone: &ZoneId,
    subject: &SubjectId,
    provider: &ProviderId,
    code_verifier_ct: &[u8],
    seconds: i32,
) -> Result<OffsetDateTime, StorageError> {
    sqlx::query("DELETE FROM provider_oauth_states WHERE zone_id = $1 AND expires_at < now()")
        .bind(zone.as_str())
        .execute(&mut *tx)
        .await?;
    Ok(sqlx::query_scalar(
        "INSERT INTO provider_oauth_states
             (state_sha256, zone_id, subject_id, provider_id, code_verifier_ct, expires_at)
         VALUES ($1, $2, $3, $4, $5, now() + make_interval(secs => $6))
         RETURNING expires_at",
    )
    .bind(state_sha256.as_slice())
    .bind(zone.as_str())
    .bind(subject.as_str())
    .bind(provider.as_str())
    .bind(code_verifier_ct)
    .bind(f64::from(seconds))
    .fetch_one(tx)
    .await?)
}

/// Forgets every authorization that was started with `provider`.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn delete_of_provider(
    tx: &mut WriteTx,
    zone: &ZoneId,
    provider: &ProviderId,
) -> Result<(), StorageError> {
    sqlx::query("DELETE FROM provider_oauth_states WHERE zone_id = $1 AND provider_id = $2")
        .bind(zone.as_str())
        .bind(provider.as_str())
        .execute(tx)
        .await?;
    Ok(())
}

/// Takes an authorization away, whatever its zone; `None` when there is none, or no more.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn take(tx: &mut WriteTx, state_sha256: &[u8; 32]) -> Result<Option<OAuthState>, StorageError> {
    Ok(sqlx::query_as(
        "DELETE FROM provider_oauth_states WHERE state_sha256 = $1
         RETURNING zone_id, subject_id, provider_id, code_verifier_ct, expires_at > now() AS is_live",
    )
    .bind(state_sha256.as_slice())
    .fetch_optional(tx)
    .await?)
}
