//! Receipts of idempotent operations: `coordinator_idempotency_receipts`. Keys and requests are stored as digests only.

use caracal_model::ZoneId;
use serde_json::Value;
use sqlx::FromRow;
use uuid::Uuid;

use crate::error::StorageError;
use crate::tx::WriteTx;

/// One operation under one key.
#[derive(Debug, Clone)]
pub struct Operation<'a> {
    /// `session.start.v2`, `delegation.create.v2`.
    pub name: &'a str,
    /// The zone.
    pub zone_id: &'a ZoneId,
    /// The application whose key it is.
    pub scope_id: &'a str,
    /// HMAC-SHA256 of the key under the current key, then under the previous one.
    pub key_digests: &'a [Vec<u8>],
    /// What is locked, so that two requests with one key wait for each other.
    pub lock: &'a str,
}

/// A stored receipt.
#[derive(Debug, Clone, FromRow)]
pub struct Receipt {
    /// SHA-256 of the request it answered.
    pub request_digest: Vec<u8>,
    /// What it made.
    pub resource_id: String,
    /// Status of the answer.
    pub response_status: i16,
    /// Body of the answer.
    pub response_json: Value,
}

/// Takes the key for this transaction, forgets an expired receipt and gives a live one.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn lock(tx: &mut WriteTx, operation: &Operation<'_>) -> Result<Option<Receipt>, StorageError> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))")
        .bind(operation.lock)
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "DELETE FROM coordinator_idempotency_receipts WHERE operation = $1 AND zone_id = $2 AND scope_id = $3 AND key_digest = ANY($4) AND expires_at <= now()",
    )
    .bind(operation.name)
    .bind(operation.zone_id.as_str())
    .bind(operation.scope_id)
    .bind(operation.key_digests)
    .execute(&mut *tx)
    .await?;
    Ok(sqlx::query_as(
        "SELECT request_digest, resource_id, response_status, response_json FROM coordinator_idempotency_receipts \
         WHERE operation = $1 AND zone_id = $2 AND scope_id = $3 AND key_digest = ANY($4) LIMIT 1",
    )
    .bind(operation.name)
    .bind(operation.zone_id.as_str())
    .bind(operation.scope_id)
    .bind(operation.key_digests)
    .fetch_optional(&mut *tx)
    .await?)
}

/// How many receipts the scope holds.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn count(tx: &mut WriteTx, operation: &Operation<'_>) -> Result<i64, StorageError> {
    Ok(sqlx::query_scalar(
        "SELECT count(*) FROM coordinator_idempotency_receipts WHERE operation = $1 AND zone_id = $2 AND scope_id = $3 AND expires_at > now()",
    )
    .bind(operation.name)
    .bind(operation.zone_id.as_str())
    .bind(operation.scope_id)
    .fetch_one(&mut *tx)
    .await?)
}

/// Stores the receipt of an operation that has just been done, for `keep_seconds`.
///
/// # Errors
/// [`StorageError::Conflict`] when the key has a receipt already.
pub async fn insert(
    tx: &mut WriteTx,
    operation: &Operation<'_>,
    resource_type: &str,
    receipt: &Receipt,
    keep_seconds: i64,
) -> Result<(), StorageError> {
    sqlx::query(
        "INSERT INTO coordinator_idempotency_receipts (id, operation, zone_id, scope_id, key_digest, request_digest, resource_type, resource_id, \
           response_status, response_json, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, now() + $11 * interval '1 second')",
    )
    .bind(Uuid::now_v7().to_string())
    .bind(operation.name)
    .bind(operation.zone_id.as_str())
    .bind(operation.scope_id)
    .bind(operation.key_digests.first())
    .bind(&receipt.request_digest)
    .bind(resource_type)
    .bind(&receipt.resource_id)
    .bind(receipt.response_status)
    .bind(&receipt.response_json)
    .bind(keep_seconds)
    .execute(&mut *tx)
    .await?;
    Ok(())
}

/// Deletes up to `batch` expired receipts. Answers how many.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn prune(tx: &mut WriteTx, batch: i64) -> Result<u64, StorageError> {
    let deleted = sqlx::query(
        "DELETE FROM coordinator_idempotency_receipts WHERE id IN (SELECT id FROM coordinator_idempotency_receipts WHERE expires_at <= now() ORDER BY expires_at LIMIT $1)",
    )
    .bind(batch)
    .execute(&mut *tx)
    .await?;
    Ok(deleted.rows_affected())
}
