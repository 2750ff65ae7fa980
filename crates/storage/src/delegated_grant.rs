//! What have users allowed applications to do for them? A record for people; no exchange reads it.

use caracal_model::{ApplicationId, GrantId, ResourceId, SubjectId, ZoneId};
use sqlx::PgExecutor;
use time::OffsetDateTime;

use crate::error::StorageError;
use crate::page::{Attribution, By, Page};
use crate::tx::WriteTx;

/// A grant.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Grant {
    /// Its id.
    #[sqlx(try_from = "String")]
    pub id: GrantId,
    /// Its zone.
    #[sqlx(try_from = "String")]
    pub zone_id: ZoneId,
    /// Who may act.
    pub application_id: Option<String>,
    /// For whom.
    #[sqlx(try_from = "String")]
    pub user_id: SubjectId,
    /// On what.
    pub resource_id: String,
    /// With which scopes.
    pub scopes: Vec<String>,
    /// `active` or `revoked`.
    pub status: String,
    /// Who made and changed it.
    #[sqlx(flatten)]
    pub attribution: Attribution,
    /// When it was made.
    pub created_at: OffsetDateTime,
}

/// A grant with the names of what it is about.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct NamedGrant {
    /// The grant.
    #[sqlx(flatten)]
    pub grant: Grant,
    /// The application's name.
    pub application_name: Option<String>,
    /// The resource's name.
    pub resource_name: Option<String>,
    /// The provider of the resource's upstream credential.
    pub provider_id: Option<String>,
    /// Its name.
    pub provider_name: Option<String>,
    /// Its kind.
    pub provider_kind: Option<String>,
}

/// Which grants are wanted; `None` stands for any.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this application.
    pub application_id: Option<String>,
    /// Of this user.
    pub user_id: Option<String>,
    /// On this resource.
    pub resource_id: Option<String>,
    /// On resources with this provider.
    pub provider_id: Option<String>,
    /// In this state.
    pub status: Option<&'static str>,
    /// With all of these scopes.
    pub scopes: Option<Vec<String>>,
}

/// A grant to be made.
#[derive(Debug)]
pub struct NewGrant<'a> {
    /// Its id.
    pub id: &'a GrantId,
    /// Who may act.
    pub application_id: &'a ApplicationId,
    /// For whom.
    pub user_id: &'a SubjectId,
    /// On what.
    pub resource_id: &'a ResourceId,
    /// With which scopes.
    pub scopes: &'a [String],
}

/// Grants of a zone, newest first.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn list<'t>(
    tx: impl PgExecutor<'t>,
    zone: &ZoneId,
    filter: &Filter,
    page: &Page,
) -> Result<Vec<NamedGrant>, StorageError> {
    Ok(sqlx::query_as(
        "SELECT g.id, g.zone_id, g.application_id, g.user_id, g.resource_id, g.scopes, g.status, g.created_by,
             g.created_via_operator, g.updated_by, g.updated_via_operator, g.created_at, a.name AS application_name,
             r.name AS resource_name, p.id AS provider_id, p.name AS provider_name, p.provider_kind
         FROM delegated_grants g
         LEFT JOIN applications a ON a.zone_id = g.zone_id AND a.id = g.application_id
         LEFT JOIN resources r ON r.zone_id = g.zone_id AND r.id = g.resource_id
         LEFT JOIN providers p ON p.zone_id = r.zone_id AND p.id = r.credential_provider_id
         WHERE g.zone_id = $1
           AND ($5::text IS NULL OR g.application_id = $5) AND ($6::text IS NULL OR g.user_id = $6)
           AND ($7::text IS NULL OR g.resource_id = $7) AND ($8::text IS NULL OR p.id = $8)
           AND ($9::text IS NULL OR g.status = $9) AND ($10::text[] IS NULL OR g.scopes @> $10)
           AND (g.created_at, g.id) < (coalesce($2::timestamptz, 'infinity'), $3)
         ORDER BY g.created_at DESC, g.id DESC LIMIT $4",
    )
    .bind(zone.as_str())
    .bind(page.after_time())
    .bind(page.after_id())
    .bind(page.limit)
    .bind(&filter.application_id)
    .bind(&filter.user_id)
    .bind(&filter.resource_id)
    .bind(&filter.provider_id)
    .bind(filter.status)
    .bind(&filter.scopes)
    .fetch_all(tx)
    .await?)
}

/// One grant, whatever its state.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn find<'t>(
    tx: impl PgExecutor<'t>,
    zone: &ZoneId,
    id: &GrantId,
) -> Result<Option<Grant>, StorageError> {
    Ok(sqlx::query_as(
        "SELECT id, zone_id, application_id, user_id, resource_id, scopes, status, created_by, created_via_operator,
             updated_by, updated_via_operator, created_at
         FROM delegated_grants WHERE zone_id = $1 AND id = $2",
    )
    .bind(zone.as_str())
    .bind(id.as_str())
    .fetch_optional(tx)
    .await?)
}

/// Makes a grant. There may be several alike.
///
/// # Errors
/// [`StorageError::Reference`] when the application or the resource does not exist in the zone.
pub async fn insert(
    tx: &mut WriteTx,
    zone: &ZoneId,
    grant: &NewGrant<'_>,
    by: By<'_>,
) -> Result<Grant, StorageError> {
    Ok(sqlx::query_as(
        "INSERT INTO delegated_grants
             (id, zone_id, application_id, user_id, resource_id, scopes, created_by, created_via_operator)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         RETURNING id, zone_id, application_id, user_id, resource_id, scopes, status, created_by,
             created_via_operator, updated_by, updated_via_operator, created_at",
    )
    .bind(grant.id.as_str())
    .bind(zone.as_str())
    .bind(grant.application_id.as_str())
    .bind(grant.user_id.as_str())
    .bind(grant.resource_id.as_str())
    .bind(grant.scopes)
    .bind(by.name)
    .bind(by.via_operator)
    .fetch_one(tx)
    .await?)
}

/// Revokes a grant and answers whose it was; `None` when there is none, or it was revoked before.
///
/// # Errors
/// [`StorageError::Contention`] when a lock is not free in time.
pub async fn revoke(
    tx: &mut WriteTx,
    zone: &ZoneId,
    id: &GrantId,
    by: By<'_>,
) -> Result<Option<Grant>, StorageError> {
    Ok(sqlx::query_as(
        "UPDATE delegated_grants
         SET status = 'revoked', updated_by = $3, updated_via_operator = $4, updated_at = now()
         WHERE zone_id = $1 AND id = $2 AND status <> 'revoked'
         RETURNING id, zone_id, application_id, user_id, resource_id, scopes, status, created_by,
             created_via_operator, updated_by, updated_via_operator, created_at",
    )
    .bind(zone.as_str())
    .bind(id.as_str())
    .bind(by.name)
    .bind(by.via_operator)
    .fetch_optional(tx)
    .await?)
}
