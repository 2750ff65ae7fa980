//! In which transaction does a statement run, whose rows may it see, and who counts it?
//!
//! [`ReadTx`] and [`WriteTx`] are the only executors this crate hands out. Their inner connection is private, so no
//! statement can be sent without passing the counter and without the row-level-security setting being in place.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use caracal_model::ZoneId;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use sqlx::postgres::{PgPool, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{AssertSqlSafe, Describe, Either, Execute, Executor, Postgres, SqlStr, Transaction};

use crate::error::StorageError;

/// Whose rows a transaction may see and change; becomes the setting `caracal.zone_id` for that transaction only.
#[derive(Clone, Copy, Debug)]
pub enum ZoneScope<'z> {
    /// Every zone: services acting for the platform.
    All,
    /// One zone: everything done for a caller that is bound to it.
    Zone(&'z ZoneId),
}

impl ZoneScope<'_> {
    /// The setting's value. A zone id is `[A-Za-z0-9._:-]`, so it can stand in a quoted literal as it is.
    fn setting(&self) -> &str {
        match self {
            Self::All => "*",
            Self::Zone(zone) => zone.as_str(),
        }
    }
}

/// Either kind of transaction, for statements that only read: `fn find<'t>(tx: impl AnyTx<'t>, ..)` takes
/// `&mut ReadTx` as well as `&mut WriteTx`.
pub trait AnyTx<'t>: Executor<'t, Database = Postgres> {}
impl<'t> AnyTx<'t> for &'t mut ReadTx {}
impl<'t> AnyTx<'t> for &'t mut WriteTx {}

/// A read-only snapshot: every statement in it sees the database as of the first one.
pub struct ReadTx {
    inner: Transaction<'static, Postgres>,
    statements: Arc<AtomicU64>,
}

/// A transaction that may write. Dropping it without [`WriteTx::commit`] undoes everything.
pub struct WriteTx {
    inner: Transaction<'static, Postgres>,
    statements: Arc<AtomicU64>,
}

impl ReadTx {
    pub(crate) async fn begin(
        pool: &PgPool,
        scope: ZoneScope<'_>,
        statements: Arc<AtomicU64>,
    ) -> Result<Self, StorageError> {
        let inner = begin(
            pool,
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
            scope,
            &statements,
        )
        .await?;
        Ok(Self { inner, statements })
    }
}

impl WriteTx {
    pub(crate) async fn begin(
        pool: &PgPool,
        scope: ZoneScope<'_>,
        statements: Arc<AtomicU64>,
    ) -> Result<Self, StorageError> {
        let inner = begin(pool, "BEGIN ISOLATION LEVEL READ COMMITTED", scope, &statements).await?;
        Ok(Self { inner, statements })
    }

    /// Makes everything done in this transaction durable and visible.
    ///
    /// # Errors
    /// [`StorageError::Unavailable`] when the answer was lost: the transaction may or may not have been committed.
    pub async fn commit(self) -> Result<(), StorageError> {
        count(&self.statements);
        Ok(self.inner.commit().await?)
    }

    /// Undoes everything done in this transaction and reports whether the server heard it.
    ///
    /// # Errors
    /// [`StorageError::Unavailable`] when the connection is gone; the server then undoes it by itself.
    pub async fn rollback(self) -> Result<(), StorageError> {
        count(&self.statements);
        Ok(self.inner.rollback().await?)
    }
}

/// Begins and sets the zone in one round trip, so that no statement can run before the setting.
async fn begin(
    pool: &PgPool,
    begin: &str,
    scope: ZoneScope<'_>,
    statements: &AtomicU64,
) -> Result<Transaction<'static, Postgres>, StorageError> {
    count(statements);
    let statement = format!("{begin}; SET LOCAL caracal.zone_id = '{}'", scope.setting());
    Ok(pool.begin_with(AssertSqlSafe(statement)).await?)
}

fn count(statements: &AtomicU64) {
    statements.fetch_add(1, Ordering::Relaxed);
}

impl fmt::Debug for ReadTx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReadTx")
    }
}

impl fmt::Debug for WriteTx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WriteTx")
    }
}

/// `&mut ReadTx` and `&mut WriteTx` run statements; each passes the counter on its way to the connection.
macro_rules! counted_executor {
    ($tx:ty) => {
        impl<'t> Executor<'t> for &'t mut $tx {
            type Database = Postgres;

            fn fetch_many<'e, 'q: 'e, E>(
                self,
                query: E,
            ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
            where
                't: 'e,
                E: 'q + Execute<'q, Postgres>,
            {
                count(&self.statements);
                (&mut *self.inner).fetch_many(query)
            }

            fn fetch_optional<'e, 'q: 'e, E>(
                self,
                query: E,
            ) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
            where
                't: 'e,
                E: 'q + Execute<'q, Postgres>,
            {
                count(&self.statements);
                (&mut *self.inner).fetch_optional(query)
            }

            fn prepare_with<'e>(
                self,
                sql: SqlStr,
                parameters: &'e [PgTypeInfo],
            ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
            where
                't: 'e,
            {
                count(&self.statements);
                (&mut *self.inner).prepare_with(sql, parameters)
            }

            // Only the macros that check statements at build time ask this.
            fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
            where
                't: 'e,
            {
                count(&self.statements);
                (&mut *self.inner).describe(sql)
            }
        }
    };
}

counted_executor!(ReadTx);
counted_executor!(WriteTx);
