//! Which policy sets does a zone have, and which version of which set decides?
//!
//! A set's versions are immutable. At most one set of a zone is active; none means that everything is denied.

use caracal_model::{PolicySetId, PolicySetVersionId, ZoneId};
use serde_json::Value;
use sqlx::PgExecutor;
use time::OffsetDateTime;

use crate::error::StorageError;
use crate::page::{Attribution, By, Page};
use crate::tx::WriteTx;

/// A policy set.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct PolicySet {
    /// Its id.
    #[sqlx(try_from = "String")]
    pub id: PolicySetId,
    /// Its zone.
    #[sqlx(try_from = "String")]
    pub zone_id: ZoneId,
    /// Its name, unique among the zone's sets that are not archived.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// Who made and changed it.
    #[sqlx(flatten)]
    pub attribution: Attribution,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// When it was changed last.
    pub updated_at: OffsetDateTime,
    /// The version that decides, if this set is the active one.
    pub active_version_id: Option<String>,
    /// The version on trial, if there is one.
    pub shadow_version_id: Option<String>,
}

/// One manifest of a set.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct PolicySetVersion {
    /// Its id.
    #[sqlx(try_from = "String")]
    pub id: PolicySetVersionId,
    /// The set it belongs to.
    #[sqlx(try_from = "String")]
    pub policy_set_id: PolicySetId,
    /// Counts from 1.
    pub version: i32,
    /// An array of `{"policy_version_id": id}`.
    pub manifest_json: Value,
    /// Lower-case hex SHA-256 of the compact manifest.
    pub manifest_sha256: String,
    /// Version of the input document its policies were written for.
    pub schema_version: String,
    /// Who made it.
    pub created_by: String,
    /// Whether an assistant helped making it.
    pub created_via_operator: bool,
    /// When it was made.
    pub created_at: OffsetDateTime,
}

/// A manifest to be added.
#[derive(Debug)]
pub struct NewPolicySetVersion<'a> {
    /// Its id.
    pub id: &'a PolicySetVersionId,
    /// The manifest.
    pub manifest: &'a Value,
    /// Lower-case hex SHA-256 of the compact manifest.
    pub manifest_sha256: &'a str,
    /// Version of the input document its policies were written for.
    pub schema_version: &'a str,
}

/// Sets of a zone that are not archived, newest first.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn list<'t>(
    tx: impl PgExecutor<'t>,
    zone: &ZoneId,
    page: &Page,
) -> Result<Vec<PolicySet>, StorageError> {
    Ok(sqlx::query_as(
        "SELECT s.id, s.zone_id, s.name, s.description, s.created_by, s.created_via_operator, s.updated_by,
             s.updated_via_operator, s.created_at, s.updated_at, b.active_version_id,
             b.shadow_version_id
         FROM policy_sets s
         LEFT JOIN policy_set_bindings b ON b.zone_id = s.zone_id AND b.policy_set_id = s.id
         WHERE s.zone_id = $1 AND s.archived_at IS NULL
           AND (s.created_at, s.id) < (coalesce($2::timestamptz, 'infinity'), $3)
         ORDER BY s.created_at DESC, s.id DESC LIMIT $4",
    )
    .bind(zone.as_str())
    .bind(page.after_time())
    .bind(page.after_id())
    .bind(page.limit)
    .fetch_all(tx)
    .await?)
}

/// One set, unless it is archived.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn find<'t>(
    tx: impl PgExecutor<'t>,
    zone: &ZoneId,
    set: &PolicySetId,
) -> Result<Option<PolicySet>, StorageError> {
    Ok(sqlx::query_as(
        "SELECT s.id, s.zone_id, s.name, s.description, s.created_by, s.created_via_operator, s.updated_by,
             s.updated_via_operator, s.created_at, s.updated_at, b.active_version_id,
             b.shadow_version_id
         FROM policy_sets s
         LEFT JOIN policy_set_bindings b ON b.zone_id = s.zone_id AND b.policy_set_id = s.id
         WHERE s.zone_id = $1 AND s.id = $2 AND s.archived_at IS NULL",
    )
    .bind(zone.as_str())
    .bind(set.as_str())
    .fetch_optional(tx)
    .await?)
}

/// Keeps everybody else from changing the set until the transaction ends; false when it is missing or archived.
///
/// # Errors
/// [`StorageError::Contention`] when the lock is not free in time.
pub async fn lock(tx: &mut WriteTx, zone: &ZoneId, set: &PolicySetId) -> Result<bool, StorageError> {
    let held: Option<i32> = sqlx::query_scalar(
        "SELECT 1 FROM policy_sets WHERE zone_id = $1 AND id = $2 AND archived_at IS NULL FOR UPDATE",
    )
    .bind(zone.as_str())
    .bind(set.as_str())
    .fetch_optional(tx)
    .await?;
    Ok(held.is_some())
}

/// Makes a set that decides nothing yet.
///
/// # Errors
/// [`StorageError::Conflict`] on `policy_sets_zone_id_name_key` when the name is taken.
pub async fn insert(
    tx: &mut WriteTx,
    zone: &ZoneId,
    set: &PolicySetId,
    name: &str,
    description: Option<&str>,
    by: By<'_>,
) -> Result<PolicySet, StorageError> {
    let made = sqlx::query_as(
        "INSERT INTO policy_sets (id, zone_id, name, description, created_by, created_via_operator)
         VALUES ($1, $2, $3, $4, $5, $6)
         RETURNING id, zone_id, name, description, created_by, created_via_operator, updated_by, updated_via_operator,
             created_at, updated_at, NULL::text AS active_version_id, NULL::text AS shadow_version_id",
    )
    .bind(set.as_str())
    .bind(zone.as_str())
    .bind(name)
    .bind(description)
    .bind(by.name)
    .bind(by.via_operator)
    .fetch_one(&mut *tx)
    .await?;
    sqlx::query("INSERT INTO policy_set_bindings (zone_id, policy_set_id) VALUES ($1, $2)")
        .bind(zone.as_str())
        .bind(set.as_str())
        .execute(tx)
        .await?;
    Ok(made)
}

/// Archives a set and takes it out of force. Answers whether it was in force; `None` when it is missing or archived.
///
/// # Errors
/// [`StorageError::Contention`] when a lock is not free in time.
pub async fn archive(
    tx: &mut WriteTx,
    zone: &ZoneId,
    set: &PolicySetId,
    by: By<'_>,
) -> Result<Option<bool>, StorageError> {
    // Before any row, as activation does: in another order the two would wait for each other.
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('policy_activation:' || $1, 0))")
        .bind(zone.as_str())
        .execute(&mut *tx)
        .await?;
    let archived = sqlx::query(
        "UPDATE policy_sets SET archived_at = now(), updated_at = now(), updated_by = $3, updated_via_operator = $4
         WHERE zone_id = $1 AND id = $2 AND archived_at IS NULL",
    )
    .bind(zone.as_str())
    .bind(set.as_str())
    .bind(by.name)
    .bind(by.via_operator)
    .execute(&mut *tx)
    .await?;
    if archived.rows_affected() == 0 {
        return Ok(None);
    }
    let was_active = sqlx::query(
        "UPDATE policy_set_bindings SET active_version_id = NULL, updated_at = now()
         WHERE zone_id = $1 AND policy_set_id = $2 AND active_version_id IS NOT NULL",
    )
    .bind(zone.as_str())
    .bind(set.as_str())
    .execute(&mut *tx)
    .await?;
    shadow(tx, zone, set, None).await?;
    Ok(Some(was_active.rows_affected() == 1))
}

/// Versions of a set, newest first.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn versions<'t>(
    tx: impl PgExecutor<'t>,
    set: &PolicySetId,
    page: &Page,
) -> Result<Vec<PolicySetVersion>, StorageError> {
    Ok(sqlx::query_as(
        "SELECT id, policy_set_id, version, manifest_json, manifest_sha256, schema_version, created_by,
             created_via_operator, created_at
         FROM policy_set_versions
         WHERE policy_set_id = $1 AND (created_at, id) < (coalesce($2::timestamptz, 'infinity'), $3)
         ORDER BY created_at DESC, id DESC LIMIT $4",
    )
    .bind(set.as_str())
    .bind(page.after_time())
    .bind(page.after_id())
    .bind(page.limit)
    .fetch_all(tx)
    .await?)
}

/// One version of a set.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn find_version<'t>(
    tx: impl PgExecutor<'t>,
    set: &PolicySetId,
    version: &PolicySetVersionId,
) -> Result<Option<PolicySetVersion>, StorageError> {
    Ok(sqlx::query_as(
        "SELECT id, policy_set_id, version, manifest_json, manifest_sha256, schema_version, created_by,
             created_via_operator, created_at
         FROM policy_set_versions WHERE policy_set_id = $1 AND id = $2",
    )
    .bind(set.as_str())
    .bind(version.as_str())
    .fetch_optional(tx)
    .await?)
}

/// The version of a set that was made last.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn newest_version<'t>(
    tx: impl PgExecutor<'t>,
    set: &PolicySetId,
) -> Result<Option<PolicySetVersion>, StorageError> {
    Ok(sqlx::query_as(
        "SELECT id, policy_set_id, version, manifest_json, manifest_sha256, schema_version, created_by,
             created_via_operator, created_at
         FROM policy_set_versions WHERE policy_set_id = $1 ORDER BY version DESC LIMIT 1",
    )
    .bind(set.as_str())
    .fetch_optional(tx)
    .await?)
}

/// Adds a version under the next number. Call [`lock`] first: numbers are given out one at a time.
///
/// # Errors
/// [`StorageError::Reference`] when the set does not exist.
pub async fn insert_version(
    tx: &mut WriteTx,
    set: &PolicySetId,
    version: &NewPolicySetVersion<'_>,
    by: By<'_>,
) -> Result<PolicySetVersion, StorageError> {
    Ok(sqlx::query_as(
        "INSERT INTO policy_set_versions
             (id, policy_set_id, version, manifest_json, manifest_sha256, schema_version, created_by,
              created_via_operator)
         SELECT $1, $2, coalesce(max(version), 0) + 1, $3, $4, $5, $6, $7
         FROM policy_set_versions WHERE policy_set_id = $2
         RETURNING id, policy_set_id, version, manifest_json, manifest_sha256, schema_version, created_by,
             created_via_operator, created_at",
    )
    .bind(version.id.as_str())
    .bind(set.as_str())
    .bind(version.manifest)
    .bind(version.manifest_sha256)
    .bind(version.schema_version)
    .bind(by.name)
    .bind(by.via_operator)
    .fetch_one(tx)
    .await?)
}

/// Lets one version decide for the zone, in place of whatever decided before.
///
/// Activations of one zone queue on an advisory lock, because the database allows one active set per zone.
///
/// # Errors
/// [`StorageError::Contention`] when another activation does not end in time.
pub async fn activate(
    tx: &mut WriteTx,
    zone: &ZoneId,
    set: &PolicySetId,
    version: &PolicySetVersionId,
) -> Result<(), StorageError> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('policy_activation:' || $1, 0))")
        .bind(zone.as_str())
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "UPDATE policy_set_bindings SET active_version_id = NULL, updated_at = now()
         WHERE zone_id = $1 AND policy_set_id <> $2 AND active_version_id IS NOT NULL",
    )
    .bind(zone.as_str())
    .bind(set.as_str())
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "INSERT INTO policy_set_bindings (zone_id, policy_set_id, active_version_id) VALUES ($1, $2, $3)
         ON CONFLICT (zone_id, policy_set_id)
             DO UPDATE SET active_version_id = excluded.active_version_id, updated_at = now()",
    )
    .bind(zone.as_str())
    .bind(set.as_str())
    .bind(version.as_str())
    .execute(tx)
    .await?;
    Ok(())
}

/// Puts one version of a set on trial in place of any other of the zone; `None` ends the trial of this set. Call [`lock`] first.
///
/// # Errors
/// [`StorageError::Contention`] when another change of the zone does not end in time.
pub async fn shadow(
    tx: &mut WriteTx,
    zone: &ZoneId,
    set: &PolicySetId,
    version: Option<&PolicySetVersionId>,
) -> Result<(), StorageError> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('policy_activation:' || $1, 0))")
        .bind(zone.as_str())
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "UPDATE policy_set_bindings SET shadow_version_id = NULL, updated_at = now()
         WHERE zone_id = $1 AND shadow_version_id IS NOT NULL AND (policy_set_id = $2 OR $3)",
    )
    .bind(zone.as_str())
    .bind(set.as_str())
    .bind(version.is_some())
    .execute(&mut *tx)
    .await?;
    let Some(version) = version else { return Ok(()) };
    sqlx::query(
        "INSERT INTO policy_set_bindings (zone_id, policy_set_id, shadow_version_id) VALUES ($1, $2, $3)
         ON CONFLICT (zone_id, policy_set_id)
             DO UPDATE SET shadow_version_id = excluded.shadow_version_id, updated_at = now()",
    )
    .bind(zone.as_str())
    .bind(set.as_str())
    .bind(version.as_str())
    .execute(tx)
    .await?;
    Ok(())
}

/// A message that announced an activation.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Announcement {
    /// What it says.
    pub payload_json: Value,
    /// How often it could not be published.
    pub attempts: i32,
    /// Whether it was given up.
    pub dead: bool,
    /// Why it could not be published last time.
    pub last_error: Option<String>,
    /// When it was published.
    pub dispatched_at: Option<OffsetDateTime>,
}

/// The message with this id, if it announces a policy set of the zone and has not been pruned yet.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn announcement<'t>(
    tx: impl PgExecutor<'t>,
    zone: &ZoneId,
    id: &str,
) -> Result<Option<Announcement>, StorageError> {
    Ok(sqlx::query_as(
        "SELECT payload_json, attempts, dead, last_error, dispatched_at FROM event_outbox
         WHERE id = $1 AND stream_name = 'caracal.policy.invalidate' AND payload_json ->> 'zone_id' = $2",
    )
    .bind(id)
    .bind(zone.as_str())
    .fetch_optional(tx)
    .await?)
}
