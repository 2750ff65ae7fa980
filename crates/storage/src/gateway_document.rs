//! What is kept for gateways, and which of them may change it now?
//!
//! Rows of `gateway_documents`. The envelope is opaque here.

use sqlx::Row;

use crate::error::StorageError;
use crate::tx::{AnyTx, WriteTx};

/// A document of gateways.
#[derive(Clone)]
pub struct GatewayDocument {
    /// The sealed bytes; `None` when nothing was written yet.
    pub envelope: Option<Vec<u8>>,
    /// Counts what was written.
    pub version: i64,
    /// Whether somebody holds the lease.
    pub is_leased: bool,
}

impl std::fmt::Debug for GatewayDocument {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("GatewayDocument")
            .field("version", &self.version)
            .field("is_leased", &self.is_leased)
            .finish_non_exhaustive()
    }
}

fn document(row: &sqlx::postgres::PgRow) -> Result<GatewayDocument, StorageError> {
    Ok(GatewayDocument {
        envelope: row.try_get("envelope")?,
        version: row.try_get("version")?,
        is_leased: row.try_get("is_leased")?,
    })
}

/// The document under `name`, if there is one or somebody means to write it.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn find<'t>(tx: impl AnyTx<'t>, name: &str) -> Result<Option<GatewayDocument>, StorageError> {
    sqlx::query(
        "SELECT envelope, version, lease_until > clock_timestamp() AS is_leased
         FROM gateway_documents WHERE name = $1",
    )
    .bind(name)
    .fetch_optional(tx)
    .await?
    .as_ref()
    .map(document)
    .transpose()
}

/// Gives `holder` the lease of `name` for so many seconds from now, also when it holds it already. Answers the document as it is
/// under that lease; `None` when another holds it.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn lease(
    tx: &mut WriteTx,
    name: &str,
    holder: &str,
    seconds: u32,
) -> Result<Option<GatewayDocument>, StorageError> {
    sqlx::query(
        "INSERT INTO gateway_documents AS kept (name, lease_holder, lease_until)
         VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3))
         ON CONFLICT (name) DO UPDATE
             SET lease_holder = excluded.lease_holder, lease_until = clock_timestamp() + make_interval(secs => $3)
             WHERE kept.lease_until <= clock_timestamp() OR kept.lease_holder = excluded.lease_holder
         RETURNING envelope, version, true AS is_leased",
    )
    .bind(name)
    .bind(holder)
    .bind(f64::from(seconds))
    .fetch_optional(tx)
    .await?
    .as_ref()
    .map(document)
    .transpose()
}

/// Gives the lease of `name` back, if `holder` holds it.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn release(tx: &mut WriteTx, name: &str, holder: &str) -> Result<(), StorageError> {
    sqlx::query(
        "UPDATE gateway_documents SET lease_until = clock_timestamp()
         WHERE name = $1 AND lease_holder = $2 AND lease_until > clock_timestamp()",
    )
    .bind(name)
    .bind(holder)
    .execute(tx)
    .await?;
    Ok(())
}

/// Writes `name` if `holder` holds its lease and it still has the version the holder has read. Answers the new version; `None`
/// when one of the two does not hold.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn put(
    tx: &mut WriteTx,
    name: &str,
    holder: &str,
    version: i64,
    envelope: &[u8],
) -> Result<Option<i64>, StorageError> {
    Ok(sqlx::query_scalar(
        "UPDATE gateway_documents SET envelope = $4, version = version + 1, updated_at = now()
         WHERE name = $1 AND lease_holder = $2 AND lease_until > clock_timestamp() AND version = $3
         RETURNING version",
    )
    .bind(name)
    .bind(holder)
    .bind(version)
    .bind(envelope)
    .fetch_optional(tx)
    .await?)
}
