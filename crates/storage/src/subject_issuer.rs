//! Which issuers of users does a zone believe?

use caracal_model::{SubjectIssuerId, ZoneId};
use time::OffsetDateTime;

use crate::error::StorageError;
use crate::page::{Attribution, By, Page};
use crate::tx::{AnyTx, WriteTx};

/// An issuer of ID tokens.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct SubjectIssuer {
    /// Its id.
    #[sqlx(try_from = "String")]
    pub id: SubjectIssuerId,
    /// Its zone.
    #[sqlx(try_from = "String")]
    pub zone_id: ZoneId,
    /// What its tokens say in `iss`, byte for byte; unique among the zone's issuers that are not archived.
    pub issuer: String,
    /// Where its keys are.
    pub jwks_url: String,
    /// What its tokens must name in `aud`.
    pub audience: String,
    /// Who made and changed it.
    #[sqlx(flatten)]
    pub attribution: Attribution,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// When it was changed last.
    pub updated_at: OffsetDateTime,
}

macro_rules! columns {
    () => {
        "id, zone_id, issuer, jwks_url, audience, created_by, created_via_operator, updated_by, updated_via_operator,
         created_at, updated_at"
    };
}

/// Issuers of a zone that are not archived, newest first.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn list<'t>(
    tx: impl AnyTx<'t>,
    zone: &ZoneId,
    page: &Page,
) -> Result<Vec<SubjectIssuer>, StorageError> {
    Ok(sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM subject_issuers WHERE zone_id = $1 AND archived_at IS NULL
          AND (created_at, id) < (coalesce($2::timestamptz, 'infinity'), $3)
          ORDER BY created_at DESC, id DESC LIMIT $4"
    ))
    .bind(zone.as_str())
    .bind(page.after_time())
    .bind(page.after_id())
    .bind(page.limit)
    .fetch_all(tx)
    .await?)
}

/// One issuer, unless it is archived.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn find<'t>(
    tx: impl AnyTx<'t>,
    zone: &ZoneId,
    id: &SubjectIssuerId,
) -> Result<Option<SubjectIssuer>, StorageError> {
    Ok(sqlx::query_as(concat!(
        "SELECT ",
        columns!(),
        " FROM subject_issuers WHERE zone_id = $1 AND id = $2 AND archived_at IS NULL"
    ))
    .bind(zone.as_str())
    .bind(id.as_str())
    .fetch_optional(tx)
    .await?)
}

/// Whether the zone has fewer than `max` issuers. Whoever adds one holds the zone's row, so that two do not both fit.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn has_room(tx: &mut WriteTx, zone: &ZoneId, max: i64) -> Result<bool, StorageError> {
    let count: i64 =
        sqlx::query_scalar("SELECT count(*) FROM subject_issuers WHERE zone_id = $1 AND archived_at IS NULL")
            .bind(zone.as_str())
            .fetch_one(tx)
            .await?;
    Ok(count < max)
}

/// An issuer to be added.
#[derive(Debug, Clone, Copy)]
pub struct NewSubjectIssuer<'a> {
    /// Its id.
    pub id: &'a SubjectIssuerId,
    /// What its tokens say in `iss`.
    pub issuer: &'a str,
    /// Where its keys are.
    pub jwks_url: &'a str,
    /// What its tokens must name in `aud`.
    pub audience: &'a str,
}

/// Adds an issuer.
///
/// # Errors
/// [`StorageError::Conflict`] (`subject_issuers_zone_issuer_key`) when the zone believes it already.
pub async fn insert(
    tx: &mut WriteTx,
    zone: &ZoneId,
    new: &NewSubjectIssuer<'_>,
    by: By<'_>,
) -> Result<SubjectIssuer, StorageError> {
    Ok(sqlx::query_as(concat!(
        "INSERT INTO subject_issuers (id, zone_id, issuer, jwks_url, audience, created_by, created_via_operator)
         VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING ",
        columns!()
    ))
    .bind(new.id.as_str())
    .bind(zone.as_str())
    .bind(new.issuer)
    .bind(new.jwks_url)
    .bind(new.audience)
    .bind(by.name)
    .bind(by.via_operator)
    .fetch_one(tx)
    .await?)
}

/// Changes where the keys are and whom the tokens are for; `None` leaves it. `None` when there is no such issuer.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn update(
    tx: &mut WriteTx,
    zone: &ZoneId,
    id: &SubjectIssuerId,
    jwks_url: Option<&str>,
    audience: Option<&str>,
    by: By<'_>,
) -> Result<Option<SubjectIssuer>, StorageError> {
    Ok(sqlx::query_as(concat!(
        "UPDATE subject_issuers SET jwks_url = coalesce($3, jwks_url), audience = coalesce($4, audience),
             updated_by = $5, updated_via_operator = $6, updated_at = now()
         WHERE zone_id = $1 AND id = $2 AND archived_at IS NULL RETURNING ",
        columns!()
    ))
    .bind(zone.as_str())
    .bind(id.as_str())
    .bind(jwks_url)
    .bind(audience)
    .bind(by.name)
    .bind(by.via_operator)
    .fetch_optional(tx)
    .await?)
}

/// Stops believing an issuer; false when there is no such issuer.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn archive(
    tx: &mut WriteTx,
    zone: &ZoneId,
    id: &SubjectIssuerId,
    by: By<'_>,
) -> Result<bool, StorageError> {
    let archived = sqlx::query(
        "UPDATE subject_issuers SET archived_at = now(), updated_by = $3, updated_via_operator = $4, updated_at = now()
         WHERE zone_id = $1 AND id = $2 AND archived_at IS NULL",
    )
    .bind(zone.as_str())
    .bind(id.as_str())
    .bind(by.name)
    .bind(by.via_operator)
    .execute(tx)
    .await?;
    Ok(archived.rows_affected() == 1)
}
