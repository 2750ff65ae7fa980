//! Which policies does a zone have, and what do their versions say?
//!
//! Versions are immutable: the database refuses to change one.

use caracal_model::{PolicyId, PolicyVersionId, ZoneId};
use sqlx::PgExecutor;
use time::OffsetDateTime;

use crate::error::StorageError;
use crate::page::{Attribution, By, Page};
use crate::tx::WriteTx;

/// A policy.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Policy {
    /// Its id.
    #[sqlx(try_from = "String")]
    pub id: PolicyId,
    /// Its zone.
    #[sqlx(try_from = "String")]
    pub zone_id: ZoneId,
    /// Its name, unique among the zone's policies that are not archived.
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
}

/// One text of a policy.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct PolicyVersion {
    /// Its id.
    #[sqlx(try_from = "String")]
    pub id: PolicyVersionId,
    /// The policy it belongs to.
    #[sqlx(try_from = "String")]
    pub policy_id: PolicyId,
    /// Counts from 1.
    pub version: i32,
    /// The text.
    pub content: String,
    /// Lower-case hex SHA-256 of the text.
    pub content_sha256: String,
    /// Version of the input document it was written for.
    pub schema_version: String,
    /// Who made it.
    pub created_by: String,
    /// Whether an assistant helped making it.
    pub created_via_operator: bool,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// When it was archived.
    pub archived_at: Option<OffsetDateTime>,
}

/// The newest text of a policy.
#[derive(Debug, sqlx::FromRow)]
pub struct Newest {
    /// The policy.
    #[sqlx(try_from = "String")]
    pub policy_id: PolicyId,
    /// The text.
    #[sqlx(try_from = "String")]
    pub version_id: PolicyVersionId,
    /// Lower-case hex SHA-256 of the text.
    pub content_sha256: String,
}

/// A text to be added.
#[derive(Debug)]
pub struct NewPolicyVersion<'a> {
    /// Its id.
    pub id: &'a PolicyVersionId,
    /// The text.
    pub content: &'a str,
    /// Lower-case hex SHA-256 of the text.
    pub content_sha256: &'a str,
    /// Version of the input document it was written for.
    pub schema_version: &'a str,
}

/// A text of a manifest, with the zone it belongs to.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct ManifestDocument {
    /// Its id.
    #[sqlx(try_from = "String")]
    pub id: PolicyVersionId,
    /// The zone of its policy.
    #[sqlx(try_from = "String")]
    pub zone_id: ZoneId,
    /// The text.
    pub content: String,
    /// Version of the input document it was written for.
    pub schema_version: String,
}

/// Policies of a zone that are not archived, newest first.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn list<'t>(
    tx: impl PgExecutor<'t>,
    zone: &ZoneId,
    page: &Page,
) -> Result<Vec<Policy>, StorageError> {
    Ok(sqlx::query_as(
        "SELECT id, zone_id, name, description, created_by, created_via_operator, updated_by, updated_via_operator,
             created_at, updated_at
         FROM policies
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

/// One policy, unless it is archived.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn find<'t>(
    tx: impl PgExecutor<'t>,
    zone: &ZoneId,
    policy: &PolicyId,
) -> Result<Option<Policy>, StorageError> {
    Ok(sqlx::query_as(
        "SELECT id, zone_id, name, description, created_by, created_via_operator, updated_by, updated_via_operator,
             created_at, updated_at
         FROM policies WHERE zone_id = $1 AND id = $2 AND archived_at IS NULL",
    )
    .bind(zone.as_str())
    .bind(policy.as_str())
    .fetch_optional(tx)
    .await?)
}

/// Every version of a policy, newest first.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn versions<'t>(
    tx: impl PgExecutor<'t>,
    policy: &PolicyId,
) -> Result<Vec<PolicyVersion>, StorageError> {
    Ok(sqlx::query_as(
        "SELECT id, policy_id, version, content, content_sha256, schema_version, created_by, created_via_operator,
             created_at, archived_at
         FROM policy_versions WHERE policy_id = $1 ORDER BY version DESC",
    )
    .bind(policy.as_str())
    .fetch_all(tx)
    .await?)
}

/// Makes a policy, without any version yet.
///
/// # Errors
/// [`StorageError::Conflict`] on `policies_zone_id_name_key` when the name is taken.
pub async fn insert(
    tx: &mut WriteTx,
    zone: &ZoneId,
    policy: &PolicyId,
    name: &str,
    description: Option<&str>,
    by: By<'_>,
) -> Result<Policy, StorageError> {
    Ok(sqlx::query_as(
        "INSERT INTO policies (id, zone_id, name, description, created_by, created_via_operator)
         VALUES ($1, $2, $3, $4, $5, $6)
         RETURNING id, zone_id, name, description, created_by, created_via_operator, updated_by, updated_via_operator,
             created_at, updated_at",
    )
    .bind(policy.as_str())
    .bind(zone.as_str())
    .bind(name)
    .bind(description)
    .bind(by.name)
    .bind(by.via_operator)
    .fetch_one(tx)
    .await?)
}

/// Adds a text to a policy under the next number; `None` when the policy is missing or archived.
///
/// Two transactions that add to the same policy queue on its row.
///
/// # Errors
/// [`StorageError::Contention`] when the other transaction does not end in time.
pub async fn add_version(
    tx: &mut WriteTx,
    zone: &ZoneId,
    policy: &PolicyId,
    version: &NewPolicyVersion<'_>,
    by: By<'_>,
) -> Result<Option<PolicyVersion>, StorageError> {
    let held: Option<String> = sqlx::query_scalar(
        "UPDATE policies SET updated_at = now(), updated_by = $3, updated_via_operator = $4
         WHERE zone_id = $1 AND id = $2 AND archived_at IS NULL RETURNING id",
    )
    .bind(zone.as_str())
    .bind(policy.as_str())
    .bind(by.name)
    .bind(by.via_operator)
    .fetch_optional(&mut *tx)
    .await?;
    if held.is_none() {
        return Ok(None);
    }
    insert_version(tx, policy, version, by).await.map(Some)
}

/// Adds the first text of a policy made in the same transaction.
///
/// # Errors
/// [`StorageError::Reference`] when the policy does not exist.
pub async fn insert_version(
    tx: &mut WriteTx,
    policy: &PolicyId,
    version: &NewPolicyVersion<'_>,
    by: By<'_>,
) -> Result<PolicyVersion, StorageError> {
    Ok(sqlx::query_as(
        "INSERT INTO policy_versions
             (id, policy_id, version, content, content_sha256, schema_version, created_by, created_via_operator)
         SELECT $1, $2, coalesce(max(version), 0) + 1, $3, $4, $5, $6, $7 FROM policy_versions WHERE policy_id = $2
         RETURNING id, policy_id, version, content, content_sha256, schema_version, created_by, created_via_operator,
             created_at, archived_at",
    )
    .bind(version.id.as_str())
    .bind(policy.as_str())
    .bind(version.content)
    .bind(version.content_sha256)
    .bind(version.schema_version)
    .bind(by.name)
    .bind(by.via_operator)
    .fetch_one(tx)
    .await?)
}

/// The newest text of the policy with this name that is not archived, and its SHA-256; no other transaction changes it until
/// this one ends.
///
/// # Errors
/// [`StorageError::Contention`] when another transaction does not let go in time.
pub async fn newest(tx: &mut WriteTx, zone: &ZoneId, name: &str) -> Result<Option<Newest>, StorageError> {
    Ok(sqlx::query_as(
        "SELECT p.id AS policy_id, v.id AS version_id, v.content_sha256
         FROM policies p
         CROSS JOIN LATERAL (
             SELECT id, content_sha256 FROM policy_versions WHERE policy_id = p.id ORDER BY version DESC LIMIT 1
         ) v
         WHERE p.zone_id = $1 AND p.name = $2 AND p.archived_at IS NULL
         FOR UPDATE OF p",
    )
    .bind(zone.as_str())
    .bind(name)
    .fetch_optional(tx)
    .await?)
}

/// Archives a policy; false when it is missing or archived already. Policy sets that use its versions go on working.
///
/// # Errors
/// [`StorageError::Contention`] when a lock is not free in time.
pub async fn archive(
    tx: &mut WriteTx,
    zone: &ZoneId,
    policy: &PolicyId,
    by: By<'_>,
) -> Result<bool, StorageError> {
    let archived = sqlx::query(
        "UPDATE policies SET archived_at = now(), updated_at = now(), updated_by = $3, updated_via_operator = $4
         WHERE zone_id = $1 AND id = $2 AND archived_at IS NULL",
    )
    .bind(zone.as_str())
    .bind(policy.as_str())
    .bind(by.name)
    .bind(by.via_operator)
    .execute(tx)
    .await?;
    Ok(archived.rows_affected() == 1)
}

/// The texts with these ids, in any order, whatever zone they belong to.
///
/// `policy_versions` has no row-level security of its own: the join brings the zone, and the caller compares it.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn documents<'t>(
    tx: impl PgExecutor<'t>,
    ids: &[PolicyVersionId],
) -> Result<Vec<ManifestDocument>, StorageError> {
    let ids: Vec<&str> = ids.iter().map(PolicyVersionId::as_str).collect();
    Ok(sqlx::query_as(
        "SELECT v.id, p.zone_id, v.content, v.schema_version
         FROM policy_versions v JOIN policies p ON p.id = v.policy_id
         WHERE v.id = ANY($1)",
    )
    .bind(ids)
    .fetch_all(tx)
    .await?)
}
