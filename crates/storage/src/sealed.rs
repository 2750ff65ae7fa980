//! Where are values sealed under the key encryption key, and which of them are still under another one?
//!
//! Used by the rotation of that key alone, as the owner of the schema. An envelope names the key it is sealed under in its
//! bytes 4 to 12 (`docs/contract/keys.md`), so what is left to do can be asked of the rows themselves.

use sqlx::{AssertSqlSafe, Row};

use crate::error::StorageError;
use crate::tx::{AnyTx, WriteTx};

/// A column of envelopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SealedColumn {
    /// Its table.
    pub table: &'static str,
    /// Its name.
    pub column: &'static str,
    /// An expression that names a row as text, ordered as it compares.
    row: &'static str,
}

const fn column(table: &'static str, column: &'static str, row: &'static str) -> SealedColumn {
    SealedColumn { table, column, row }
}

/// Every column that holds envelopes.
pub const SEALED_COLUMNS: [SealedColumn; 9] = [
    column("secrets", "envelope", "id"),
    column("secret_store", "envelope", "ref"),
    column("provider_connections", "access_token_ct", "id"),
    column("provider_connections", "refresh_token_ct", "id"),
    column(
        "provider_oauth_states",
        "code_verifier_ct",
        "encode(state_sha256, 'hex')",
    ),
    column("gateway_documents", "envelope", "name"),
    column("notification_sinks", "secret_ct", "id"),
    column("audit_head_keys", "envelope", "key_id"),
    column(
        "operator_plan_secrets",
        "envelope",
        "conversation_id || ':' || plan_seq || ':' || step_id",
    ),
];

/// An envelope and the row it is in.
#[derive(Debug, Clone)]
pub struct SealedRow {
    /// Names the row within its table.
    pub row: String,
    /// The envelope.
    pub envelope: Vec<u8>,
}

impl SealedColumn {
    fn is_other(&self) -> String {
        let column = self.column;
        format!("{column} IS NOT NULL AND substring({column} FROM 5 FOR 8) <> $1")
    }
}

/// How many rows of `column` are sealed under another key than the one with this id.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn count_others<'t>(
    tx: impl AnyTx<'t>,
    column: &SealedColumn,
    kek_id: [u8; 8],
) -> Result<i64, StorageError> {
    let statement = format!(
        "SELECT count(*) FROM {} WHERE {}",
        column.table,
        column.is_other()
    );
    Ok(sqlx::query_scalar(AssertSqlSafe(statement))
        .bind(kek_id.as_slice())
        .fetch_one(tx)
        .await?)
}

/// Locks and answers the first `limit` rows after `after` that are sealed under another key, in order.
///
/// # Errors
/// [`StorageError::Contention`] when somebody else does not let go of a row in time.
pub async fn lock_others(
    tx: &mut WriteTx,
    column: &SealedColumn,
    kek_id: [u8; 8],
    after: &str,
    limit: i64,
) -> Result<Vec<SealedRow>, StorageError> {
    let statement = format!(
        "SELECT {row} AS row, {column} AS envelope FROM {table}
         WHERE {other} AND {row} COLLATE \"C\" > $2 ORDER BY {row} COLLATE \"C\" LIMIT $3 FOR UPDATE",
        row = column.row,
        column = column.column,
        table = column.table,
        other = column.is_other(),
    );
    let rows = sqlx::query(AssertSqlSafe(statement))
        .bind(kek_id.as_slice())
        .bind(after)
        .bind(limit)
        .fetch_all(tx)
        .await?;
    rows.iter()
        .map(|row| {
            Ok(SealedRow {
                row: row.try_get("row")?,
                envelope: row.try_get("envelope")?,
            })
        })
        .collect()
}

/// Puts new envelopes into locked rows. One statement.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn replace(
    tx: &mut WriteTx,
    column: &SealedColumn,
    rows: Vec<SealedRow>,
) -> Result<u64, StorageError> {
    let statement = format!(
        "UPDATE {table} SET {column} = new.envelope
         FROM unnest($1::text[], $2::bytea[]) AS new(row, envelope) WHERE {row} = new.row",
        table = column.table,
        column = column.column,
        row = if column.row == "id" {
            format!("{}.id", column.table)
        } else {
            column.row.to_owned()
        },
    );
    let (names, envelopes): (Vec<String>, Vec<Vec<u8>>) =
        rows.into_iter().map(|row| (row.row, row.envelope)).unzip();
    let done = sqlx::query(AssertSqlSafe(statement))
        .bind(names)
        .bind(envelopes)
        .execute(tx)
        .await?;
    Ok(done.rows_affected())
}
