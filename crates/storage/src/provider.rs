//! Which upstream credential providers does a zone have?
//!
//! The public half of a provider. Its secrets are sealed in `secret_store` (see [`crate::secret`]).

use caracal_model::{ProviderId, ZoneId};
use serde_json::Value;
use sqlx::PgExecutor;
use time::OffsetDateTime;

use crate::error::StorageError;
use crate::page::{Attribution, By, Page};
use crate::tx::WriteTx;

/// A provider, without its secrets.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Provider {
    /// Its id.
    #[sqlx(try_from = "String")]
    pub id: ProviderId,
    /// Its zone.
    #[sqlx(try_from = "String")]
    pub zone_id: ZoneId,
    /// Its display name.
    pub name: String,
    /// `provider://...`, unique among the zone's providers that are not archived.
    pub identifier: String,
    /// One of the provider kinds.
    pub provider_kind: String,
    /// Public configuration.
    pub config_json: Value,
    /// Names of the sealed members.
    pub secret_config_keys: Vec<String>,
    /// Since when nobody has shown that it can be reached.
    pub connectivity_failed_at: Option<OffsetDateTime>,
    /// Who made and changed it.
    #[sqlx(flatten)]
    pub attribution: Attribution,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// When it was changed last.
    pub updated_at: OffsetDateTime,
    /// When it was archived.
    pub archived_at: Option<OffsetDateTime>,
}

/// A provider to be made.
#[derive(Debug)]
pub struct NewProvider<'a> {
    /// Its id.
    pub id: &'a ProviderId,
    /// Its zone.
    pub zone_id: &'a ZoneId,
    /// Its display name.
    pub name: &'a str,
    /// Its identifier.
    pub identifier: &'a str,
    /// Its kind.
    pub kind: &'a str,
    /// Public configuration.
    pub config: &'a Value,
    /// Names of the sealed members.
    pub secret_keys: &'a [&'a str],
    /// Whether it starts as not yet shown to be reachable.
    pub is_unproven: bool,
    /// Who makes it.
    pub by: By<'a>,
}

/// What to change about a provider; `None` leaves a column as it is.
#[derive(Debug, Default)]
pub struct ProviderChange<'a> {
    /// Display name.
    pub name: Option<&'a str>,
    /// Identifier.
    pub identifier: Option<&'a str>,
    /// Kind.
    pub kind: Option<&'a str>,
    /// Public configuration, replaced as a whole.
    pub config: Option<&'a Value>,
    /// Names of the sealed members.
    pub secret_keys: Option<&'a [&'a str]>,
}

/// Providers of a zone that are not archived, newest first.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn list<'t>(
    tx: impl PgExecutor<'t>,
    zone: &ZoneId,
    page: &Page,
) -> Result<Vec<Provider>, StorageError> {
    Ok(sqlx::query_as(
        "SELECT id, zone_id, name, identifier, provider_kind, config_json, secret_config_keys, connectivity_failed_at,
             created_by, created_via_operator, updated_by, updated_via_operator, created_at, updated_at, archived_at
         FROM providers
         WHERE zone_id = $1 AND archived_at IS NULL
           AND (created_at, id) < (coalesce($2::timestamptz, 'infinity'), $3)
         ORDER BY created_at DESC, id DESC LIMIT $4",
    )
    .bind(zone.as_str())
    .bind(page.after_time())
    .bind(page.after_id())
    .bind(page.limit)
    .fetch_all(tx)
    .await?)
}

/// One provider, unless it is archived.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn find<'t>(
    tx: impl PgExecutor<'t>,
    zone: &ZoneId,
    provider: &ProviderId,
) -> Result<Option<Provider>, StorageError> {
    Ok(sqlx::query_as(
        "SELECT id, zone_id, name, identifier, provider_kind, config_json, secret_config_keys, connectivity_failed_at,
             created_by, created_via_operator, updated_by, updated_via_operator, created_at, updated_at, archived_at
         FROM providers WHERE zone_id = $1 AND id = $2 AND archived_at IS NULL",
    )
    .bind(zone.as_str())
    .bind(provider.as_str())
    .fetch_optional(tx)
    .await?)
}

/// As [`find`], and keeps everybody else from changing it until the transaction ends.
///
/// # Errors
/// [`StorageError::Contention`] when the lock is not free in time.
pub async fn lock(
    tx: &mut WriteTx,
    zone: &ZoneId,
    provider: &ProviderId,
) -> Result<Option<Provider>, StorageError> {
    Ok(sqlx::query_as(
        "SELECT id, zone_id, name, identifier, provider_kind, config_json, secret_config_keys, connectivity_failed_at,
             created_by, created_via_operator, updated_by, updated_via_operator, created_at, updated_at, archived_at
         FROM providers WHERE zone_id = $1 AND id = $2 AND archived_at IS NULL FOR UPDATE",
    )
    .bind(zone.as_str())
    .bind(provider.as_str())
    .fetch_optional(tx)
    .await?)
}

/// Which of `candidates` are identifiers of the zone's providers that are not archived.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn taken_identifiers<'t>(
    tx: impl PgExecutor<'t>,
    zone: &ZoneId,
    candidates: &[String],
) -> Result<Vec<String>, StorageError> {
    Ok(sqlx::query_scalar(
        "SELECT identifier FROM providers WHERE zone_id = $1 AND identifier = ANY($2) AND archived_at IS NULL",
    )
    .bind(zone.as_str())
    .bind(candidates)
    .fetch_all(tx)
    .await?)
}

/// Makes a provider.
///
/// # Errors
/// [`StorageError::Conflict`] on `providers_zone_identifier_active_uidx` when the identifier is taken.
pub async fn insert(tx: &mut WriteTx, provider: &NewProvider<'_>) -> Result<Provider, StorageError> {
    Ok(sqlx::query_as(
        "INSERT INTO providers
             (id, zone_id, name, identifier, provider_kind, config_json, secret_config_keys, connectivity_failed_at,
              created_by, created_via_operator)
         VALUES ($1, $2, $3, $4, $5, $6, $7, CASE WHEN $8 THEN now() END, $9, $10)
         RETURNING id, zone_id, name, identifier, provider_kind, config_json, secret_config_keys,
             connectivity_failed_at, created_by, created_via_operator, updated_by, updated_via_operator, created_at,
             updated_at, archived_at",
    )
    .bind(provider.id.as_str())
    .bind(provider.zone_id.as_str())
    .bind(provider.name)
    .bind(provider.identifier)
    .bind(provider.kind)
    .bind(provider.config)
    .bind(provider.secret_keys)
    .bind(provider.is_unproven)
    .bind(provider.by.name)
    .bind(provider.by.via_operator)
    .fetch_one(tx)
    .await?)
}

/// Changes a provider; `None` when it is missing or archived.
///
/// # Errors
/// [`StorageError::Conflict`] on `providers_zone_identifier_active_uidx` when the identifier is taken.
pub async fn update(
    tx: &mut WriteTx,
    zone: &ZoneId,
    provider: &ProviderId,
    change: &ProviderChange<'_>,
    by: By<'_>,
) -> Result<Option<Provider>, StorageError> {
    Ok(sqlx::query_as(
        "UPDATE providers SET name = coalesce($3, name), identifier = coalesce($4, identifier),
             provider_kind = coalesce($5, provider_kind), config_json = coalesce($6, config_json),
             secret_config_keys = coalesce($7, secret_config_keys),
             updated_by = $8, updated_via_operator = $9, updated_at = now()
         WHERE zone_id = $1 AND id = $2 AND archived_at IS NULL
         RETURNING id, zone_id, name, identifier, provider_kind, config_json, secret_config_keys,
             connectivity_failed_at, created_by, created_via_operator, updated_by, updated_via_operator, created_at,
             updated_at, archived_at",
    )
    .bind(zone.as_str())
    .bind(provider.as_str())
    .bind(change.name)
    .bind(change.identifier)
    .bind(change.kind)
    .bind(change.config)
    .bind(change.secret_keys)
    .bind(by.name)
    .bind(by.via_operator)
    .fetch_optional(tx)
    .await?)
}

/// Archives a provider; false when it is missing or archived already.
///
/// # Errors
/// [`StorageError::Contention`] when a lock is not free in time.
pub async fn archive(
    tx: &mut WriteTx,
    zone: &ZoneId,
    provider: &ProviderId,
    by: By<'_>,
) -> Result<bool, StorageError> {
    let archived = sqlx::query(
        "UPDATE providers SET archived_at = now(), updated_at = now(), updated_by = $3, updated_via_operator = $4,
             secret_config_keys = '{}'
         WHERE zone_id = $1 AND id = $2 AND archived_at IS NULL",
    )
    .bind(zone.as_str())
    .bind(provider.as_str())
    .bind(by.name)
    .bind(by.via_operator)
    .execute(tx)
    .await?;
    Ok(archived.rows_affected() == 1)
}
