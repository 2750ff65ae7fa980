//! Which upstream accounts are connected, and who refreshes their tokens?
//!
//! Tokens are sealed by whoever writes them; here they are bytes. A refresh is done by whoever holds the row's lease: the
//! lease is in the row it protects, so that the tokens and the right to replace them cannot disagree.

use caracal_model::{ProviderId, SubjectId, ZoneId};
use sqlx::PgExecutor;
use time::OffsetDateTime;

use crate::error::{StorageError, checked};
use crate::page::Page;
use crate::tx::WriteTx;

/// A connection as it is listed: without its tokens.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Connection {
    /// Its id.
    pub id: String,
    /// Its zone.
    #[sqlx(try_from = "String")]
    pub zone_id: ZoneId,
    /// Whose account, or the shared one.
    pub subject_id: String,
    /// The provider.
    #[sqlx(try_from = "String")]
    pub provider_id: ProviderId,
    /// `active`, `revoked` or `expired`.
    pub status: String,
    /// When the access token runs out, if that is known.
    pub expires_at: Option<OffsetDateTime>,
    /// When the tokens were refreshed last.
    pub refreshed_at: Option<OffsetDateTime>,
    /// Whether there is a refresh token.
    pub renewable: bool,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// When it was changed last.
    pub updated_at: OffsetDateTime,
}

/// The sealed tokens of an active connection.
#[derive(Clone, sqlx::FromRow)]
pub struct SealedTokens {
    /// The connection.
    pub id: String,
    /// The sealed access token.
    pub access_token_ct: Option<Vec<u8>>,
    /// The sealed refresh token.
    pub refresh_token_ct: Option<Vec<u8>>,
    /// When the access token runs out, in Unix seconds.
    pub expires_at: Option<i64>,
    /// Since when it is held, in Unix seconds.
    pub obtained_at: i64,
    /// Moves with every change of the tokens.
    pub refresh_token_version: i32,
}

impl std::fmt::Debug for SealedTokens {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("SealedTokens")
            .field("id", &self.id)
            .field("expires_at", &self.expires_at)
            .field("refresh_token_version", &self.refresh_token_version)
            .finish_non_exhaustive()
    }
}

/// Tokens to be stored, sealed.
#[derive(Clone, Copy)]
pub struct NewTokens<'a> {
    /// The sealed access token.
    pub access_token_ct: &'a [u8],
    /// The sealed refresh token.
    pub refresh_token_ct: Option<&'a [u8]>,
    /// When the access token runs out, in Unix seconds.
    pub expires_at: Option<i64>,
}

impl std::fmt::Debug for NewTokens<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("NewTokens")
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// What to list.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filter<'a> {
    /// Only of this provider.
    pub provider_id: Option<&'a str>,
    /// Only of this subject.
    pub subject_id: Option<&'a str>,
    /// Only in this status.
    pub status: Option<&'a str>,
}

/// Connections of a zone, newest first.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn list<'t>(
    tx: impl PgExecutor<'t>,
    zone: &ZoneId,
    filter: Filter<'_>,
    page: &Page,
) -> Result<Vec<Connection>, StorageError> {
    Ok(sqlx::query_as(
        "SELECT id, zone_id, subject_id, provider_id, status, expires_at, refreshed_at,
             refresh_token_ct IS NOT NULL AS renewable, created_at, updated_at
         FROM provider_connections
         WHERE zone_id = $1 AND ($5::text IS NULL OR provider_id = $5) AND ($6::text IS NULL OR subject_id = $6)
           AND ($7::text IS NULL OR status = $7)
           AND (created_at, id) < (coalesce($2::timestamptz, 'infinity'), $3)
         ORDER BY created_at DESC, id DESC LIMIT $4",
    )
    .bind(zone.as_str())
    .bind(page.after_time())
    .bind(page.after_id())
    .bind(page.limit)
    .bind(filter.provider_id)
    .bind(filter.subject_id)
    .bind(filter.status)
    .fetch_all(tx)
    .await?)
}

/// Stores the tokens of an account that was connected: in the active connection of (zone, subject, provider), or in a new
/// one with the id `id`.
///
/// # Errors
/// [`StorageError::Contention`] when a lock is not free in time.
pub async fn connect(
    tx: &mut WriteTx,
    id: &str,
    zone: &ZoneId,
    subject: &SubjectId,
    provider: &ProviderId,
    tokens: NewTokens<'_>,
) -> Result<Connection, StorageError> {
    Ok(sqlx::query_as(
        "INSERT INTO provider_connections AS c
             (id, zone_id, subject_id, provider_id, access_token_ct, refresh_token_ct, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, to_timestamp($7::bigint))
         ON CONFLICT (zone_id, subject_id, provider_id) WHERE status = 'active' DO UPDATE
             SET access_token_ct = excluded.access_token_ct, refresh_token_ct = excluded.refresh_token_ct,
                 expires_at = excluded.expires_at, refreshed_at = now(), updated_at = now(),
                 refresh_token_version = c.refresh_token_version + 1, generation = c.generation + 1,
                 refresh_lease = NULL, refresh_lease_until = NULL
         RETURNING id, zone_id, subject_id, provider_id, status, expires_at, refreshed_at,
             refresh_token_ct IS NOT NULL AS renewable, created_at, updated_at",
    )
    .bind(id)
    .bind(zone.as_str())
    .bind(subject.as_str())
    .bind(provider.as_str())
    .bind(tokens.access_token_ct)
    .bind(tokens.refresh_token_ct)
    .bind(tokens.expires_at)
    .fetch_one(tx)
    .await?)
}

/// Ends the active connection of (zone, subject, provider) and forgets its tokens, which are returned sealed so that the
/// provider can be asked to forget them too.
///
/// # Errors
/// [`StorageError::Contention`] when a lock is not free in time.
pub async fn revoke(
    tx: &mut WriteTx,
    zone: &ZoneId,
    subject: &SubjectId,
    provider: &ProviderId,
) -> Result<Option<(Connection, SealedTokens)>, StorageError> {
    let tokens: Option<SealedTokens> = sqlx::query_as(
        "SELECT id, access_token_ct, refresh_token_ct, floor(extract(epoch FROM expires_at))::bigint AS expires_at,
             floor(extract(epoch FROM coalesce(refreshed_at, created_at)))::bigint AS obtained_at, refresh_token_version
         FROM provider_connections
         WHERE zone_id = $1 AND subject_id = $2 AND provider_id = $3 AND status = 'active' FOR UPDATE",
    )
    .bind(zone.as_str())
    .bind(subject.as_str())
    .bind(provider.as_str())
    .fetch_optional(&mut *tx)
    .await?;
    let Some(tokens) = tokens else { return Ok(None) };
    let connection = sqlx::query_as(
        "UPDATE provider_connections
         SET status = 'revoked', access_token_ct = NULL, refresh_token_ct = NULL, updated_at = now(),
             refresh_token_version = refresh_token_version + 1, refresh_lease = NULL, refresh_lease_until = NULL
         WHERE zone_id = $1 AND id = $2
         RETURNING id, zone_id, subject_id, provider_id, status, expires_at, refreshed_at,
             refresh_token_ct IS NOT NULL AS renewable, created_at, updated_at",
    )
    .bind(zone.as_str())
    .bind(&tokens.id)
    .fetch_one(tx)
    .await?;
    Ok(Some((connection, tokens)))
}

/// Ends every active connection of a subject and forgets their tokens. Answers the provider of each with the tokens,
/// sealed, so that the providers can be asked to forget them too.
///
/// # Errors
/// [`StorageError::Contention`] when a lock is not free in time.
pub async fn revoke_all(
    tx: &mut WriteTx,
    zone: &ZoneId,
    subject: &SubjectId,
) -> Result<Vec<(ProviderId, SealedTokens)>, StorageError> {
    let providers: Vec<String> = sqlx::query_scalar(
        "SELECT provider_id FROM provider_connections
         WHERE zone_id = $1 AND subject_id = $2 AND status = 'active' ORDER BY provider_id",
    )
    .bind(zone.as_str())
    .bind(subject.as_str())
    .fetch_all(&mut *tx)
    .await?;
    let mut ended = Vec::with_capacity(providers.len());
    for provider in providers {
        let provider = checked(provider, "provider_connections", "provider_id", zone.as_str())?;
        if let Some((_, tokens)) = revoke(tx, zone, subject, &provider).await? {
            ended.push((provider, tokens));
        }
    }
    Ok(ended)
}

/// Ends every active connection with `provider` and forgets its tokens.
///
/// # Errors
/// [`StorageError::Contention`] when a lock is not free in time.
pub async fn revoke_of_provider(
    tx: &mut WriteTx,
    zone: &ZoneId,
    provider: &ProviderId,
) -> Result<u64, StorageError> {
    let ended = sqlx::query(
        "UPDATE provider_connections
         SET status = 'revoked', access_token_ct = NULL, refresh_token_ct = NULL, updated_at = now(),
             refresh_token_version = refresh_token_version + 1, refresh_lease = NULL, refresh_lease_until = NULL
         WHERE zone_id = $1 AND provider_id = $2 AND status = 'active'",
    )
    .bind(zone.as_str())
    .bind(provider.as_str())
    .execute(tx)
    .await?;
    Ok(ended.rows_affected())
}

/// The active connection to `provider` of `subject`, or else of `shared`; the newest when there are several.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn find_active<'t>(
    tx: impl PgExecutor<'t>,
    zone: &ZoneId,
    provider: &ProviderId,
    subject: &SubjectId,
    shared: &str,
) -> Result<Option<SealedTokens>, StorageError> {
    Ok(sqlx::query_as(
        "SELECT id, access_token_ct, refresh_token_ct, floor(extract(epoch FROM expires_at))::bigint AS expires_at,
             floor(extract(epoch FROM coalesce(refreshed_at, created_at)))::bigint AS obtained_at, refresh_token_version
         FROM provider_connections
         WHERE zone_id = $1 AND provider_id = $2 AND subject_id IN ($3, $4) AND status = 'active'
         ORDER BY (subject_id = $3) DESC, created_at DESC, id DESC LIMIT 1",
    )
    .bind(zone.as_str())
    .bind(provider.as_str())
    .bind(subject.as_str())
    .bind(shared)
    .fetch_optional(tx)
    .await?)
}

/// Takes the right to refresh a connection whose tokens are still at `version`, for `seconds`; false when somebody else
/// has it, or the tokens have moved on.
///
/// # Errors
/// [`StorageError::Contention`] when a lock is not free in time.
pub async fn lease(
    tx: &mut WriteTx,
    zone: &ZoneId,
    connection: &str,
    version: i32,
    lease: &str,
    seconds: i32,
) -> Result<bool, StorageError> {
    let taken = sqlx::query(
        "UPDATE provider_connections
         SET refresh_lease = $4, refresh_lease_until = clock_timestamp() + make_interval(secs => $5)
         WHERE zone_id = $1 AND id = $2 AND refresh_token_version = $3 AND status = 'active'
           AND (refresh_lease_until IS NULL OR refresh_lease_until < clock_timestamp())",
    )
    .bind(zone.as_str())
    .bind(connection)
    .bind(version)
    .bind(lease)
    .bind(f64::from(seconds))
    .execute(tx)
    .await?;
    Ok(taken.rows_affected() == 1)
}

/// Stores what the refresh token of `version` was spent for, and ends any lease; false when the connection has ended, was
/// connected anew or has been refreshed since: then these tokens are of no use. Not the lease decides: a holder who was too
/// slow has the only good tokens, and whoever leased after him can get none.
///
/// # Errors
/// [`StorageError::Contention`] when a lock is not free in time.
pub async fn store_refreshed(
    tx: &mut WriteTx,
    zone: &ZoneId,
    connection: &str,
    version: i32,
    tokens: NewTokens<'_>,
) -> Result<bool, StorageError> {
    let stored = sqlx::query(
        "UPDATE provider_connections
         SET access_token_ct = $4, refresh_token_ct = coalesce($5, refresh_token_ct), expires_at = to_timestamp($6::bigint),
             refreshed_at = now(), updated_at = now(), refresh_token_version = refresh_token_version + 1,
             refresh_lease = NULL, refresh_lease_until = NULL
         WHERE zone_id = $1 AND id = $2 AND refresh_token_version = $3 AND status = 'active'",
    )
    .bind(zone.as_str())
    .bind(connection)
    .bind(version)
    .bind(tokens.access_token_ct)
    .bind(tokens.refresh_token_ct)
    .bind(tokens.expires_at)
    .execute(tx)
    .await?;
    Ok(stored.rows_affected() == 1)
}

/// Gives a lease back without new tokens.
///
/// # Errors
/// [`StorageError::Contention`] when a lock is not free in time.
pub async fn release(
    tx: &mut WriteTx,
    zone: &ZoneId,
    connection: &str,
    lease: &str,
) -> Result<(), StorageError> {
    sqlx::query(
        "UPDATE provider_connections SET refresh_lease = NULL, refresh_lease_until = NULL
         WHERE zone_id = $1 AND id = $2 AND refresh_lease = $3",
    )
    .bind(zone.as_str())
    .bind(connection)
    .bind(lease)
    .execute(tx)
    .await?;
    Ok(())
}

/// Ends a connection that cannot be refreshed any more, unless its tokens have moved on from `version`.
///
/// # Errors
/// [`StorageError::Contention`] when a lock is not free in time.
pub async fn expire(
    tx: &mut WriteTx,
    zone: &ZoneId,
    connection: &str,
    version: i32,
) -> Result<bool, StorageError> {
    let ended = sqlx::query(
        "UPDATE provider_connections
         SET status = 'expired', access_token_ct = NULL, refresh_token_ct = NULL, updated_at = now(),
             refresh_token_version = refresh_token_version + 1, refresh_lease = NULL, refresh_lease_until = NULL
         WHERE zone_id = $1 AND id = $2 AND refresh_token_version = $3 AND status = 'active'",
    )
    .bind(zone.as_str())
    .bind(connection)
    .bind(version)
    .execute(tx)
    .await?;
    Ok(ended.rows_affected() == 1)
}
