//! Which protected resources does a zone have?

use caracal_model::{ProviderId, ResourceId, ZoneId};
use serde_json::Value;
use sqlx::PgExecutor;
use time::OffsetDateTime;

use crate::error::StorageError;
use crate::page::{Attribution, By, Page};
use crate::tx::WriteTx;

/// A resource.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Resource {
    /// Its id.
    #[sqlx(try_from = "String")]
    pub id: ResourceId,
    /// Its zone.
    #[sqlx(try_from = "String")]
    pub zone_id: ZoneId,
    /// Its display name.
    pub name: String,
    /// Its identifier, unique among the zone's resources that are not archived.
    pub identifier: String,
    /// Where the gateway forwards to.
    pub upstream_url: Option<String>,
    /// Declared scopes.
    pub scopes: Vec<String>,
    /// Provider of the upstream credential.
    pub credential_provider_id: Option<String>,
    /// The application that may present a reusable mandate for it at the gateway.
    pub gateway_application_id: Option<String>,
    /// An array of `{method, path, scope}`.
    pub operations: Value,
    /// `enforced` or `transport_uniform`.
    pub operation_enforcement: String,
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

/// Everything about a resource that a caller decides.
#[derive(Debug)]
pub struct ResourceContent<'a> {
    /// Its display name.
    pub name: &'a str,
    /// Its identifier.
    pub identifier: &'a str,
    /// Where the gateway forwards to.
    pub upstream_url: Option<&'a str>,
    /// Declared scopes.
    pub scopes: &'a [String],
    /// Provider of the upstream credential.
    pub credential_provider_id: &'a ProviderId,
    /// An array of `{method, path, scope}`.
    pub operations: &'a Value,
    /// `enforced` or `transport_uniform`.
    pub operation_enforcement: &'a str,
}

/// Resources of a zone that are not archived, newest first; without the one whose identifier is `hidden`.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn list<'t>(
    tx: impl PgExecutor<'t>,
    zone: &ZoneId,
    hidden: Option<&str>,
    page: &Page,
) -> Result<Vec<Resource>, StorageError> {
    Ok(sqlx::query_as(
        "SELECT r.id, r.zone_id, r.name, r.identifier, r.upstream_url, r.scopes, r.credential_provider_id,
             b.application_id AS gateway_application_id, r.operations, r.operation_enforcement, r.created_by,
             r.created_via_operator, r.updated_by, r.updated_via_operator, r.created_at, r.updated_at, r.archived_at
         FROM resources r
         LEFT JOIN gateway_resource_bindings b ON b.zone_id = r.zone_id AND b.resource_identifier = r.identifier
         WHERE r.zone_id = $1 AND r.archived_at IS NULL AND r.identifier IS DISTINCT FROM $2
           AND (r.created_at, r.id) < (coalesce($3::timestamptz, 'infinity'), $4)
         ORDER BY r.created_at DESC, r.id DESC LIMIT $5",
    )
    .bind(zone.as_str())
    .bind(hidden)
    .bind(page.after_time())
    .bind(page.after_id())
    .bind(page.limit)
    .fetch_all(tx)
    .await?)
}

/// One resource, unless it is archived.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn find<'t>(
    tx: impl PgExecutor<'t>,
    zone: &ZoneId,
    resource: &ResourceId,
) -> Result<Option<Resource>, StorageError> {
    Ok(sqlx::query_as(
        "SELECT r.id, r.zone_id, r.name, r.identifier, r.upstream_url, r.scopes, r.credential_provider_id,
             b.application_id AS gateway_application_id, r.operations, r.operation_enforcement, r.created_by,
             r.created_via_operator, r.updated_by, r.updated_via_operator, r.created_at, r.updated_at, r.archived_at
         FROM resources r
         LEFT JOIN gateway_resource_bindings b ON b.zone_id = r.zone_id AND b.resource_identifier = r.identifier
         WHERE r.zone_id = $1 AND r.id = $2 AND r.archived_at IS NULL",
    )
    .bind(zone.as_str())
    .bind(resource.as_str())
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
    resource: &ResourceId,
) -> Result<Option<Resource>, StorageError> {
    Ok(sqlx::query_as(
        "SELECT r.id, r.zone_id, r.name, r.identifier, r.upstream_url, r.scopes, r.credential_provider_id,
             b.application_id AS gateway_application_id, r.operations, r.operation_enforcement, r.created_by,
             r.created_via_operator, r.updated_by, r.updated_via_operator, r.created_at, r.updated_at, r.archived_at
         FROM resources r
         LEFT JOIN gateway_resource_bindings b ON b.zone_id = r.zone_id AND b.resource_identifier = r.identifier
         WHERE r.zone_id = $1 AND r.id = $2 AND r.archived_at IS NULL
         FOR UPDATE OF r",
    )
    .bind(zone.as_str())
    .bind(resource.as_str())
    .fetch_optional(tx)
    .await?)
}

/// Which of `candidates` are identifiers of the zone's resources, archived ones included.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn taken_identifiers<'t>(
    tx: impl PgExecutor<'t>,
    zone: &ZoneId,
    candidates: &[String],
) -> Result<Vec<String>, StorageError> {
    Ok(
        sqlx::query_scalar("SELECT identifier FROM resources WHERE zone_id = $1 AND identifier = ANY($2)")
            .bind(zone.as_str())
            .bind(candidates)
            .fetch_all(tx)
            .await?,
    )
}

/// Whether the zone may have one more resource under a limit of `resources_max`.
///
/// Two transactions that ask for the same zone queue here until the first ends, so the limit cannot be passed together.
///
/// # Errors
/// [`StorageError::Contention`] when the other transaction does not end in time.
pub async fn has_room(tx: &mut WriteTx, zone: &ZoneId, resources_max: i64) -> Result<bool, StorageError> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('resource_quota:' || $1, 0))")
        .bind(zone.as_str())
        .execute(&mut *tx)
        .await?;
    let count: i64 =
        sqlx::query_scalar("SELECT count(*) FROM resources WHERE zone_id = $1 AND archived_at IS NULL")
            .bind(zone.as_str())
            .fetch_one(tx)
            .await?;
    Ok(count < resources_max)
}

/// Makes a resource.
///
/// # Errors
/// [`StorageError::Conflict`] on `resources_zone_id_identifier_key` when the identifier is taken.
pub async fn insert(
    tx: &mut WriteTx,
    zone: &ZoneId,
    resource: &ResourceId,
    content: &ResourceContent<'_>,
    by: By<'_>,
) -> Result<Resource, StorageError> {
    Ok(sqlx::query_as(
        "INSERT INTO resources
             (zone_id, id, name, identifier, upstream_url, scopes, credential_provider_id, operations,
              operation_enforcement, created_by, created_via_operator)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
         RETURNING id, zone_id, name, identifier, upstream_url, scopes, credential_provider_id,
             NULL::text AS gateway_application_id, operations, operation_enforcement, created_by, created_via_operator,
             updated_by, updated_via_operator, created_at, updated_at, archived_at",
    )
    .bind(zone.as_str())
    .bind(resource.as_str())
    .bind(content.name)
    .bind(content.identifier)
    .bind(content.upstream_url)
    .bind(content.scopes)
    .bind(content.credential_provider_id.as_str())
    .bind(content.operations)
    .bind(content.operation_enforcement)
    .bind(by.name)
    .bind(by.via_operator)
    .fetch_one(tx)
    .await?)
}

/// Replaces what a resource says; `None` when it is missing or archived. Its binding is not touched.
///
/// # Errors
/// [`StorageError::Conflict`] on `resources_zone_id_identifier_key` when the identifier is taken.
pub async fn update(
    tx: &mut WriteTx,
    zone: &ZoneId,
    resource: &ResourceId,
    content: &ResourceContent<'_>,
    by: By<'_>,
) -> Result<Option<Resource>, StorageError> {
    Ok(sqlx::query_as(
        "UPDATE resources SET name = $3, identifier = $4, upstream_url = $5, scopes = $6, credential_provider_id = $7,
             operations = $8, operation_enforcement = $9, updated_by = $10, updated_via_operator = $11,
             updated_at = now()
         WHERE zone_id = $1 AND id = $2 AND archived_at IS NULL
         RETURNING id, zone_id, name, identifier, upstream_url, scopes, credential_provider_id,
             NULL::text AS gateway_application_id, operations, operation_enforcement, created_by, created_via_operator,
             updated_by, updated_via_operator, created_at, updated_at, archived_at",
    )
    .bind(zone.as_str())
    .bind(resource.as_str())
    .bind(content.name)
    .bind(content.identifier)
    .bind(content.upstream_url)
    .bind(content.scopes)
    .bind(content.credential_provider_id.as_str())
    .bind(content.operations)
    .bind(content.operation_enforcement)
    .bind(by.name)
    .bind(by.via_operator)
    .fetch_optional(tx)
    .await?)
}

/// Archives a resource; false when it is missing or archived already.
///
/// # Errors
/// [`StorageError::Contention`] when a lock is not free in time.
pub async fn archive(
    tx: &mut WriteTx,
    zone: &ZoneId,
    resource: &ResourceId,
    by: By<'_>,
) -> Result<bool, StorageError> {
    let archived = sqlx::query(
        "UPDATE resources SET archived_at = now(), updated_at = now(), updated_by = $3, updated_via_operator = $4
         WHERE zone_id = $1 AND id = $2 AND archived_at IS NULL",
    )
    .bind(zone.as_str())
    .bind(resource.as_str())
    .bind(by.name)
    .bind(by.via_operator)
    .execute(tx)
    .await?;
    Ok(archived.rows_affected() == 1)
}
