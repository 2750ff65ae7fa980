//! Which zones exist, and who owns them?

use caracal_model::ZoneId;
use sqlx::PgExecutor;
use time::OffsetDateTime;

use crate::error::StorageError;
use crate::page::{Attribution, By, Page};
use crate::tx::WriteTx;

/// A zone that is not archived.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Zone {
    /// Its id.
    #[sqlx(try_from = "String")]
    pub id: ZoneId,
    /// Its display name.
    pub name: String,
    /// Its short name, unique over all zones, archived ones included.
    pub slug: String,
    /// Whether applications may register themselves.
    pub dcr_enabled: bool,
    /// Whether changes made with an assistant's help are marked.
    pub operator_coauthor_badge: bool,
    /// Whether the assistant's calls are themselves governed.
    pub operator_governed: bool,
    /// What a decision policy may do: `restrict` or `sole`.
    pub policy_mode: String,
    /// The console account that owns it.
    pub owner_account_id: Option<String>,
    /// Who made and changed it.
    #[sqlx(flatten)]
    pub attribution: Attribution,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// When it was changed last.
    pub updated_at: OffsetDateTime,
}

/// A zone to be made.
#[derive(Debug)]
pub struct NewZone<'a> {
    /// Its id.
    pub id: &'a ZoneId,
    /// Its display name.
    pub name: &'a str,
    /// Its short name.
    pub slug: &'a str,
    /// Whether applications may register themselves.
    pub dcr_enabled: bool,
    /// The console account that will own it.
    pub owner_account_id: Option<&'a str>,
    /// Who makes it.
    pub by: By<'a>,
}

/// What to change about a zone; `None` leaves a column as it is.
#[derive(Debug, Default)]
pub struct ZoneChange<'a> {
    /// Display name.
    pub name: Option<&'a str>,
    /// Short name.
    pub slug: Option<&'a str>,
    /// Whether applications may register themselves.
    pub dcr_enabled: Option<bool>,
    /// Whether changes made with an assistant's help are marked.
    pub operator_coauthor_badge: Option<bool>,
    /// Whether the assistant's calls are themselves governed.
    pub operator_governed: Option<bool>,
    /// What a decision policy may do: `restrict` or `sole`.
    pub policy_mode: Option<&'a str>,
}

/// Zones that are not archived and not the platform's own, newest first; only those of `owner` when one is given.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn list<'t>(
    tx: impl PgExecutor<'t>,
    page: &Page,
    owner: Option<&str>,
) -> Result<Vec<Zone>, StorageError> {
    Ok(sqlx::query_as(
        "SELECT id, name, slug, dcr_enabled, operator_coauthor_badge, operator_governed, policy_mode,
             owner_account_id,
             created_by, created_via_operator, updated_by, updated_via_operator, created_at, updated_at
         FROM zones
         WHERE archived_at IS NULL AND name NOT ILIKE 'caracal.sys/%' AND slug NOT ILIKE 'caracal-sys-%'
           AND ($1::text IS NULL OR owner_account_id = $1)
           AND (created_at, id) < (coalesce($2::timestamptz, 'infinity'), $3)
         ORDER BY created_at DESC, id DESC LIMIT $4",
    )
    .bind(owner)
    .bind(page.after_time())
    .bind(page.after_id())
    .bind(page.limit)
    .fetch_all(tx)
    .await?)
}

/// One zone, unless it is archived.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn find<'t>(tx: impl PgExecutor<'t>, zone: &ZoneId) -> Result<Option<Zone>, StorageError> {
    Ok(sqlx::query_as(
        "SELECT id, name, slug, dcr_enabled, operator_coauthor_badge, operator_governed, policy_mode,
             owner_account_id,
             created_by, created_via_operator, updated_by, updated_via_operator, created_at, updated_at
         FROM zones WHERE id = $1 AND archived_at IS NULL",
    )
    .bind(zone.as_str())
    .fetch_optional(tx)
    .await?)
}

/// Whether there is or was a zone with this id.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn exists<'t>(tx: impl PgExecutor<'t>, zone: &ZoneId) -> Result<bool, StorageError> {
    Ok(
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM zones WHERE id = $1)")
            .bind(zone.as_str())
            .fetch_one(tx)
            .await?,
    )
}

/// Keeps the zone from being archived until the transaction ends; answers false when it is missing or archived.
///
/// # Errors
/// [`StorageError::Contention`] when the lock is not free in time.
pub async fn hold(tx: &mut WriteTx, zone: &ZoneId) -> Result<bool, StorageError> {
    let held: Option<i32> =
        sqlx::query_scalar("SELECT 1 FROM zones WHERE id = $1 AND archived_at IS NULL FOR SHARE")
            .bind(zone.as_str())
            .fetch_optional(tx)
            .await?;
    Ok(held.is_some())
}

/// Keeps everybody else from changing the zone until the transaction ends; answers it, unless it is archived.
///
/// # Errors
/// [`StorageError::Contention`] when the lock is not free in time.
pub async fn lock(tx: &mut WriteTx, zone: &ZoneId) -> Result<Option<Zone>, StorageError> {
    Ok(sqlx::query_as(
        "SELECT id, name, slug, dcr_enabled, operator_coauthor_badge, operator_governed, policy_mode,
             owner_account_id,
             created_by, created_via_operator, updated_by, updated_via_operator, created_at, updated_at
         FROM zones WHERE id = $1 AND archived_at IS NULL FOR UPDATE",
    )
    .bind(zone.as_str())
    .fetch_optional(tx)
    .await?)
}

/// Which of `candidates` are taken, by archived zones as well.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn taken_slugs<'t>(
    tx: impl PgExecutor<'t>,
    candidates: &[String],
) -> Result<Vec<String>, StorageError> {
    Ok(sqlx::query_scalar("SELECT slug FROM zones WHERE slug = ANY($1)")
        .bind(candidates)
        .fetch_all(tx)
        .await?)
}

/// Makes a zone, with its configuration version and its delegation graph epoch.
///
/// # Errors
/// [`StorageError::Conflict`] on `zones_slug_key` when the slug is taken.
pub async fn insert(tx: &mut WriteTx, zone: &NewZone<'_>) -> Result<Zone, StorageError> {
    let made: Zone = sqlx::query_as(
        "INSERT INTO zones (id, name, slug, dcr_enabled, owner_account_id, created_by, created_via_operator)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         RETURNING id, name, slug, dcr_enabled, operator_coauthor_badge, operator_governed, policy_mode,
             owner_account_id,
             created_by, created_via_operator, updated_by, updated_via_operator, created_at, updated_at",
    )
    .bind(zone.id.as_str())
    .bind(zone.name)
    .bind(zone.slug)
    .bind(zone.dcr_enabled)
    .bind(zone.owner_account_id)
    .bind(zone.by.name)
    .bind(zone.by.via_operator)
    .fetch_one(&mut *tx)
    .await?;
    sqlx::query("INSERT INTO delegation_graph_epochs (zone_id) VALUES ($1) ON CONFLICT DO NOTHING")
        .bind(zone.id.as_str())
        .execute(tx)
        .await?;
    Ok(made)
}

/// Changes a zone; `None` when it is missing or archived.
///
/// # Errors
/// [`StorageError::Conflict`] on `zones_slug_key` when the slug is taken.
pub async fn update(
    tx: &mut WriteTx,
    zone: &ZoneId,
    change: &ZoneChange<'_>,
    by: By<'_>,
) -> Result<Option<Zone>, StorageError> {
    Ok(sqlx::query_as(
        "UPDATE zones SET name = coalesce($2, name), slug = coalesce($3, slug),
             dcr_enabled = coalesce($4, dcr_enabled),
             operator_coauthor_badge = coalesce($5, operator_coauthor_badge),
             operator_governed = coalesce($6, operator_governed), policy_mode = coalesce($7, policy_mode),
             updated_by = $8, updated_via_operator = $9, updated_at = now()
         WHERE id = $1 AND archived_at IS NULL
         RETURNING id, name, slug, dcr_enabled, operator_coauthor_badge, operator_governed, policy_mode,
             owner_account_id,
             created_by, created_via_operator, updated_by, updated_via_operator, created_at, updated_at",
    )
    .bind(zone.as_str())
    .bind(change.name)
    .bind(change.slug)
    .bind(change.dcr_enabled)
    .bind(change.operator_coauthor_badge)
    .bind(change.operator_governed)
    .bind(change.policy_mode)
    .bind(by.name)
    .bind(by.via_operator)
    .fetch_optional(tx)
    .await?)
}

/// Archives a zone; false when it is missing or archived already.
///
/// # Errors
/// [`StorageError::Contention`] when a lock is not free in time.
pub async fn archive(tx: &mut WriteTx, zone: &ZoneId, by: By<'_>) -> Result<bool, StorageError> {
    let archived = sqlx::query(
        "UPDATE zones SET archived_at = now(), updated_at = now(), updated_by = $2, updated_via_operator = $3
         WHERE id = $1 AND archived_at IS NULL",
    )
    .bind(zone.as_str())
    .bind(by.name)
    .bind(by.via_operator)
    .execute(tx)
    .await?;
    Ok(archived.rows_affected() == 1)
}
