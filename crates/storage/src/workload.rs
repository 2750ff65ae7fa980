//! Which workloads does a zone have, and what are they launched with?

use caracal_model::ZoneId;
use serde_json::Value;
use sqlx::PgExecutor;
use time::OffsetDateTime;

use crate::error::StorageError;
use crate::page::{Attribution, By, Page};
use crate::tx::WriteTx;

/// A workload, without its secret.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Workload {
    /// Its id.
    pub id: String,
    /// Its zone.
    #[sqlx(try_from = "String")]
    pub zone_id: ZoneId,
    /// Its name, unique in the zone whatever the case.
    pub name: String,
    /// What it is launched with: an array of `{env, resource, scopes?, optional?, on_failure?}`.
    pub bindings: Value,
    /// Who made and changed it.
    #[sqlx(flatten)]
    pub attribution: Attribution,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// When it was changed last.
    pub updated_at: OffsetDateTime,
}

/// What a workload is authenticated by, and launched with.
#[derive(Clone, sqlx::FromRow)]
pub struct Credentials {
    /// Its zone.
    #[sqlx(try_from = "String")]
    pub zone_id: ZoneId,
    /// The stored form of its secret.
    pub secret_hash: String,
    /// As [`Workload::bindings`].
    pub bindings: Value,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Credentials")
            .field("zone_id", &self.zone_id)
            .finish_non_exhaustive()
    }
}

/// What to change about a workload; `None` leaves a column as it is.
#[derive(Default)]
pub struct WorkloadChange<'a> {
    /// Name.
    pub name: Option<&'a str>,
    /// Bindings, replaced as a whole.
    pub bindings: Option<&'a Value>,
    /// The stored form of the secret.
    pub secret_hash: Option<&'a str>,
}

impl std::fmt::Debug for WorkloadChange<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("WorkloadChange")
            .field("name", &self.name)
            .field("bindings", &self.bindings)
            .finish_non_exhaustive()
    }
}

/// Workloads of a zone, newest first.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn list<'t>(
    tx: impl PgExecutor<'t>,
    zone: &ZoneId,
    page: &Page,
) -> Result<Vec<Workload>, StorageError> {
    Ok(sqlx::query_as(
        "SELECT id, zone_id, name, bindings, created_by, created_via_operator, updated_by, updated_via_operator,
             created_at, updated_at
         FROM workloads
         WHERE zone_id = $1 AND (created_at, id) < (coalesce($2::timestamptz, 'infinity'), $3)
         ORDER BY created_at DESC, id DESC LIMIT $4",
    )
    .bind(zone.as_str())
    .bind(page.after_time())
    .bind(page.after_id())
    .bind(page.limit)
    .fetch_all(tx)
    .await?)
}

/// One workload.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn find<'t>(
    tx: impl PgExecutor<'t>,
    zone: &ZoneId,
    workload: &str,
) -> Result<Option<Workload>, StorageError> {
    Ok(sqlx::query_as(
        "SELECT id, zone_id, name, bindings, created_by, created_via_operator, updated_by, updated_via_operator,
             created_at, updated_at
         FROM workloads WHERE zone_id = $1 AND id = $2",
    )
    .bind(zone.as_str())
    .bind(workload)
    .fetch_optional(tx)
    .await?)
}

/// What a workload of any zone that exists is authenticated by.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn credentials<'t>(
    tx: impl PgExecutor<'t>,
    workload: &str,
) -> Result<Option<Credentials>, StorageError> {
    Ok(sqlx::query_as(
        "SELECT w.zone_id, w.secret_hash, w.bindings
         FROM workloads w JOIN zones z ON z.id = w.zone_id WHERE w.id = $1 AND z.archived_at IS NULL",
    )
    .bind(workload)
    .fetch_optional(tx)
    .await?)
}

/// Makes a workload without bindings.
///
/// # Errors
/// [`StorageError::Conflict`] on `workloads_zone_name_key` when the name is taken.
pub async fn insert(
    tx: &mut WriteTx,
    id: &str,
    zone: &ZoneId,
    name: &str,
    secret_hash: &str,
    by: By<'_>,
) -> Result<Workload, StorageError> {
    Ok(sqlx::query_as(
        "INSERT INTO workloads (id, zone_id, name, secret_hash, created_by, created_via_operator)
         VALUES ($1, $2, $3, $4, $5, $6)
         RETURNING id, zone_id, name, bindings, created_by, created_via_operator, updated_by, updated_via_operator,
             created_at, updated_at",
    )
    .bind(id)
    .bind(zone.as_str())
    .bind(name)
    .bind(secret_hash)
    .bind(by.name)
    .bind(by.via_operator)
    .fetch_one(tx)
    .await?)
}

/// Changes a workload; `None` when it does not exist.
///
/// # Errors
/// [`StorageError::Conflict`] on `workloads_zone_name_key` when the name is taken.
pub async fn update(
    tx: &mut WriteTx,
    zone: &ZoneId,
    workload: &str,
    change: &WorkloadChange<'_>,
    by: By<'_>,
) -> Result<Option<Workload>, StorageError> {
    Ok(sqlx::query_as(
        "UPDATE workloads SET name = coalesce($3, name), bindings = coalesce($4, bindings),
             secret_hash = coalesce($5, secret_hash), updated_by = $6, updated_via_operator = $7, updated_at = now()
         WHERE zone_id = $1 AND id = $2
         RETURNING id, zone_id, name, bindings, created_by, created_via_operator, updated_by, updated_via_operator,
             created_at, updated_at",
    )
    .bind(zone.as_str())
    .bind(workload)
    .bind(change.name)
    .bind(change.bindings)
    .bind(change.secret_hash)
    .bind(by.name)
    .bind(by.via_operator)
    .fetch_optional(tx)
    .await?)
}

/// Deletes a workload; false when it does not exist.
///
/// # Errors
/// [`StorageError::Contention`] when a lock is not free in time.
pub async fn delete(tx: &mut WriteTx, zone: &ZoneId, workload: &str) -> Result<bool, StorageError> {
    let deleted = sqlx::query("DELETE FROM workloads WHERE zone_id = $1 AND id = $2")
        .bind(zone.as_str())
        .bind(workload)
        .execute(tx)
        .await?;
    Ok(deleted.rows_affected() == 1)
}
