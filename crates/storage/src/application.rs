//! Which applications (clients) does a zone have?

use caracal_model::{ApplicationId, ZoneId};
use serde_json::Value;
use sqlx::PgExecutor;
use time::OffsetDateTime;

use crate::error::StorageError;
use crate::page::{Attribution, By, Page};
use crate::tx::WriteTx;

/// An application, without its secret.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Application {
    /// Its id.
    #[sqlx(try_from = "String")]
    pub id: ApplicationId,
    /// Its zone.
    #[sqlx(try_from = "String")]
    pub zone_id: ZoneId,
    /// Its display name.
    pub name: String,
    /// `managed` or `dcr`.
    pub registration_method: String,
    /// What it may do beyond asking for mandates.
    pub traits: Vec<String>,
    /// Which keys its mandates are bound to, whether it likes or not.
    #[sqlx(flatten)]
    pub bound: Bound,
    /// When it stops existing.
    pub expires_at: Option<OffsetDateTime>,
    /// When it was archived.
    pub archived_at: Option<OffsetDateTime>,
    /// Whether it can authenticate.
    pub has_secret: bool,
    /// Who made and changed it.
    #[sqlx(flatten)]
    pub attribution: Attribution,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// When it was changed last.
    pub updated_at: OffsetDateTime,
}

/// Which keys the mandates of an application are bound to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct Bound {
    /// The key of its proofs (RFC 9449): requests without one are refused.
    pub dpop_bound: bool,
    /// Its client certificate (RFC 8705): requests without one are refused.
    pub certificate_bound: bool,
}

/// A managed application to be made.
#[derive(Debug)]
pub struct NewApplication<'a> {
    /// Its id.
    pub id: &'a ApplicationId,
    /// Its zone.
    pub zone_id: &'a ZoneId,
    /// Its display name.
    pub name: &'a str,
    /// What it may do beyond asking for mandates.
    pub traits: &'a [String],
    /// Which keys its mandates are bound to.
    pub bound: Bound,
    /// The stored form of its secret.
    pub client_secret_hash: &'a str,
    /// Who makes it.
    pub by: By<'a>,
}

/// What to change about an application; `None` leaves a column as it is.
#[derive(Debug, Default)]
pub struct ApplicationChange<'a> {
    /// Display name.
    pub name: Option<&'a str>,
    /// Traits.
    pub traits: Option<&'a [String]>,
    /// Whether its mandates are bound to the key of its proofs.
    pub dpop_bound: Option<bool>,
    /// Whether its mandates are bound to its client certificate.
    pub certificate_bound: Option<bool>,
    /// The stored form of a new secret.
    pub client_secret_hash: Option<&'a str>,
}

/// Applications of a zone, newest first: the archived ones or the others.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn list<'t>(
    tx: impl PgExecutor<'t>,
    zone: &ZoneId,
    archived: bool,
    page: &Page,
) -> Result<Vec<Application>, StorageError> {
    let statement = if archived {
        "SELECT id, zone_id, name, registration_method, traits, dpop_bound, certificate_bound,
             expires_at, archived_at,
             client_secret_hash IS NOT NULL AS has_secret, created_by, created_via_operator, updated_by,
             updated_via_operator, created_at, updated_at
         FROM applications
         WHERE zone_id = $1 AND archived_at IS NOT NULL
           AND (created_at, id) < (coalesce($2::timestamptz, 'infinity'), $3)
         ORDER BY created_at DESC, id DESC LIMIT $4"
    } else {
        "SELECT id, zone_id, name, registration_method, traits, dpop_bound, certificate_bound,
             expires_at, archived_at,
             client_secret_hash IS NOT NULL AS has_secret, created_by, created_via_operator, updated_by,
             updated_via_operator, created_at, updated_at
         FROM applications
         WHERE zone_id = $1 AND archived_at IS NULL
           AND (created_at, id) < (coalesce($2::timestamptz, 'infinity'), $3)
         ORDER BY created_at DESC, id DESC LIMIT $4"
    };
    Ok(sqlx::query_as(statement)
        .bind(zone.as_str())
        .bind(page.after_time())
        .bind(page.after_id())
        .bind(page.limit)
        .fetch_all(tx)
        .await?)
}

/// One application, unless it is archived.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn find<'t>(
    tx: impl PgExecutor<'t>,
    zone: &ZoneId,
    application: &ApplicationId,
) -> Result<Option<Application>, StorageError> {
    Ok(sqlx::query_as(
        "SELECT id, zone_id, name, registration_method, traits, dpop_bound, certificate_bound,
             expires_at, archived_at,
             client_secret_hash IS NOT NULL AS has_secret, created_by, created_via_operator, updated_by,
             updated_via_operator, created_at, updated_at
         FROM applications WHERE zone_id = $1 AND id = $2 AND archived_at IS NULL",
    )
    .bind(zone.as_str())
    .bind(application.as_str())
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
    application: &ApplicationId,
) -> Result<Option<Application>, StorageError> {
    Ok(sqlx::query_as(
        "SELECT id, zone_id, name, registration_method, traits, dpop_bound, certificate_bound,
             expires_at, archived_at,
             client_secret_hash IS NOT NULL AS has_secret, created_by, created_via_operator, updated_by,
             updated_via_operator, created_at, updated_at
         FROM applications WHERE zone_id = $1 AND id = $2 AND archived_at IS NULL FOR UPDATE",
    )
    .bind(zone.as_str())
    .bind(application.as_str())
    .fetch_optional(tx)
    .await?)
}

/// Makes a managed application.
///
/// # Errors
/// [`StorageError::Conflict`] on `applications_zone_name_key` when a live managed application has the name, whatever its
/// case; [`StorageError::Reference`] when the zone does not exist.
pub async fn insert(tx: &mut WriteTx, application: &NewApplication<'_>) -> Result<Application, StorageError> {
    Ok(sqlx::query_as(
        "INSERT INTO applications
             (id, zone_id, name, registration_method, traits, client_secret_hash, created_by, created_via_operator,
              dpop_bound, certificate_bound)
         VALUES ($1, $2, $3, 'managed', $4, $5, $6, $7, $8, $9)
         RETURNING id, zone_id, name, registration_method, traits, dpop_bound, certificate_bound,
             expires_at, archived_at,
             client_secret_hash IS NOT NULL AS has_secret, created_by, created_via_operator, updated_by,
             updated_via_operator, created_at, updated_at",
    )
    .bind(application.id.as_str())
    .bind(application.zone_id.as_str())
    .bind(application.name)
    .bind(application.traits)
    .bind(application.client_secret_hash)
    .bind(application.by.name)
    .bind(application.by.via_operator)
    .bind(application.bound.dpop_bound)
    .bind(application.bound.certificate_bound)
    .fetch_one(tx)
    .await?)
}

/// Changes an application; `None` when it is missing or archived.
///
/// # Errors
/// [`StorageError::Conflict`] on `applications_zone_name_key` when another has the name.
pub async fn update(
    tx: &mut WriteTx,
    zone: &ZoneId,
    application: &ApplicationId,
    change: &ApplicationChange<'_>,
    by: By<'_>,
) -> Result<Option<Application>, StorageError> {
    Ok(sqlx::query_as(
        "UPDATE applications SET name = coalesce($3, name), traits = coalesce($4, traits),
             client_secret_hash = coalesce($5, client_secret_hash), dpop_bound = coalesce($8, dpop_bound),
             certificate_bound = coalesce($9, certificate_bound), updated_by = $6, updated_via_operator = $7, updated_at = now()
         WHERE zone_id = $1 AND id = $2 AND archived_at IS NULL
         RETURNING id, zone_id, name, registration_method, traits, dpop_bound, certificate_bound,
             expires_at, archived_at,
             client_secret_hash IS NOT NULL AS has_secret, created_by, created_via_operator, updated_by,
             updated_via_operator, created_at, updated_at",
    )
    .bind(zone.as_str())
    .bind(application.as_str())
    .bind(change.name)
    .bind(change.traits)
    .bind(change.client_secret_hash)
    .bind(by.name)
    .bind(by.via_operator)
    .bind(change.dpop_bound)
    .bind(change.certificate_bound)
    .fetch_optional(tx)
    .await?)
}

/// The public keys of an application, a JSON Web Key Set: `None` when there is no such application, `Some(None)` when it has
/// no keys.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn keys<'t>(
    tx: impl PgExecutor<'t>,
    zone: &ZoneId,
    application: &ApplicationId,
) -> Result<Option<Option<Value>>, StorageError> {
    Ok(sqlx::query_scalar(
        "SELECT client_jwks FROM applications WHERE zone_id = $1 AND id = $2 AND archived_at IS NULL",
    )
    .bind(zone.as_str())
    .bind(application.as_str())
    .fetch_optional(tx)
    .await?)
}

/// Replaces the public keys of an application, or takes them away; false when it is missing or archived.
///
/// # Errors
/// [`StorageError::Contention`] when a lock is not free in time.
pub async fn set_keys(
    tx: &mut WriteTx,
    zone: &ZoneId,
    application: &ApplicationId,
    keys: Option<&Value>,
    by: By<'_>,
) -> Result<bool, StorageError> {
    let changed = sqlx::query(
        "UPDATE applications SET client_jwks = $3, updated_by = $4, updated_via_operator = $5, updated_at = now()
         WHERE zone_id = $1 AND id = $2 AND archived_at IS NULL",
    )
    .bind(zone.as_str())
    .bind(application.as_str())
    .bind(keys)
    .bind(by.name)
    .bind(by.via_operator)
    .execute(tx)
    .await?;
    Ok(changed.rows_affected() == 1)
}

/// Archives an application; false when it is missing or archived already.
///
/// # Errors
/// [`StorageError::Contention`] when a lock is not free in time.
pub async fn archive(
    tx: &mut WriteTx,
    zone: &ZoneId,
    application: &ApplicationId,
    by: By<'_>,
) -> Result<bool, StorageError> {
    let archived = sqlx::query(
        "UPDATE applications SET archived_at = now(), updated_at = now(), updated_by = $3, updated_via_operator = $4
         WHERE zone_id = $1 AND id = $2 AND archived_at IS NULL",
    )
    .bind(zone.as_str())
    .bind(application.as_str())
    .bind(by.name)
    .bind(by.via_operator)
    .execute(tx)
    .await?;
    Ok(archived.rows_affected() == 1)
}

/// Self-registered applications of a zone that have neither expired nor been archived.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn live_dcr<'t>(
    tx: impl PgExecutor<'t>,
    zone: &ZoneId,
) -> Result<Vec<ApplicationId>, StorageError> {
    let ids: Vec<String> = sqlx::query_scalar(
        "SELECT id FROM applications
         WHERE zone_id = $1 AND registration_method = 'dcr' AND archived_at IS NULL AND expires_at > now()
         ORDER BY id",
    )
    .bind(zone.as_str())
    .fetch_all(tx)
    .await?;
    ids.into_iter()
        .map(|id| crate::error::checked(id, "applications", "id", zone.as_str()))
        .collect()
}
