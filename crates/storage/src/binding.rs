//! Which application may present a reusable mandate for a resource at the gateway?
//!
//! Rows of `gateway_resource_bindings`, keyed by zone and resource identifier.

use caracal_model::{ApplicationId, ZoneId};
use sqlx::PgExecutor;
use time::OffsetDateTime;

use crate::error::StorageError;
use crate::tx::WriteTx;

/// A binding.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Binding {
    /// Identifier of the resource.
    pub resource_identifier: String,
    /// The application it names.
    #[sqlx(try_from = "String")]
    pub application_id: ApplicationId,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// When it was changed last.
    pub updated_at: OffsetDateTime,
}

/// The binding of one resource.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn find<'t>(
    tx: impl PgExecutor<'t>,
    zone: &ZoneId,
    resource_identifier: &str,
) -> Result<Option<Binding>, StorageError> {
    Ok(sqlx::query_as(
        "SELECT resource_identifier, application_id, created_at, updated_at FROM gateway_resource_bindings
         WHERE zone_id = $1 AND resource_identifier = $2 AND application_id IS NOT NULL",
    )
    .bind(zone.as_str())
    .bind(resource_identifier)
    .fetch_optional(tx)
    .await?)
}

/// Binds a resource to an application, in place of any other.
///
/// # Errors
/// [`StorageError::Reference`] when the application does not exist in the zone.
pub async fn put(
    tx: &mut WriteTx,
    zone: &ZoneId,
    resource_identifier: &str,
    application: &ApplicationId,
) -> Result<Binding, StorageError> {
    Ok(sqlx::query_as(
        "INSERT INTO gateway_resource_bindings (zone_id, resource_identifier, application_id) VALUES ($1, $2, $3)
         ON CONFLICT (zone_id, resource_identifier)
             DO UPDATE SET application_id = excluded.application_id, updated_at = now()
         RETURNING resource_identifier, application_id, created_at, updated_at",
    )
    .bind(zone.as_str())
    .bind(resource_identifier)
    .bind(application.as_str())
    .fetch_one(tx)
    .await?)
}

/// Follows a resource to its new identifier.
///
/// # Errors
/// [`StorageError::Contention`] when a lock is not free in time.
pub async fn rename(tx: &mut WriteTx, zone: &ZoneId, from: &str, to: &str) -> Result<(), StorageError> {
    sqlx::query("DELETE FROM gateway_resource_bindings WHERE zone_id = $1 AND resource_identifier = $2")
        .bind(zone.as_str())
        .bind(to)
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "UPDATE gateway_resource_bindings SET resource_identifier = $3, updated_at = now()
         WHERE zone_id = $1 AND resource_identifier = $2",
    )
    .bind(zone.as_str())
    .bind(from)
    .bind(to)
    .execute(tx)
    .await?;
    Ok(())
}

/// Removes the binding of a resource; false when there was none.
///
/// # Errors
/// [`StorageError::Contention`] when a lock is not free in time.
pub async fn delete(
    tx: &mut WriteTx,
    zone: &ZoneId,
    resource_identifier: &str,
) -> Result<bool, StorageError> {
    let deleted =
        sqlx::query("DELETE FROM gateway_resource_bindings WHERE zone_id = $1 AND resource_identifier = $2")
            .bind(zone.as_str())
            .bind(resource_identifier)
            .execute(tx)
            .await?;
    Ok(deleted.rows_affected() == 1)
}

/// Removes every binding to an application; answers the identifiers it was bound to.
///
/// # Errors
/// [`StorageError::Contention`] when a lock is not free in time.
pub async fn delete_of(
    tx: &mut WriteTx,
    zone: &ZoneId,
    application: &ApplicationId,
) -> Result<Vec<String>, StorageError> {
    Ok(sqlx::query_scalar(
        "DELETE FROM gateway_resource_bindings WHERE zone_id = $1 AND application_id = $2
         RETURNING resource_identifier",
    )
    .bind(zone.as_str())
    .bind(application.as_str())
    .fetch_all(tx)
    .await?)
}
