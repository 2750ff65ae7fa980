//! Which migrations are missing, and how are they applied when several processes try at once?

use sqlx::migrate::{AppliedMigration, Migrate, Migration};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgPool, Postgres};
use thiserror::Error;

use crate::FILES;

/// Name of the table that records what was applied.
const LEDGER: &str = "_sqlx_migrations";

/// What a run found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Versions that this call applied, oldest first; empty when the schema was up to date.
    pub applied: Vec<i64>,
    /// Versions that are still missing; always empty after a successful [`run`].
    pub pending: Vec<i64>,
}

/// Why the schema could not be brought up to date.
#[derive(Debug, Error)]
pub enum MigrateError {
    /// The database could not be reached or refused a statement outside of a migration.
    #[error("the database could not be asked for its schema version")]
    Database(#[from] sqlx::Error),
    /// A migration, or the record of it, failed; it was rolled back as a whole.
    #[error("migration {version} failed and was rolled back")]
    Failed {
        /// Version of the migration.
        version: i64,
        /// What the database said.
        #[source]
        source: sqlx::migrate::MigrateError,
    },
    /// The record of applied migrations could not be locked or read.
    #[error("the record of applied migrations could not be read")]
    Ledger(#[source] sqlx::migrate::MigrateError),
    /// A migration that was applied has changed since: this build and the database disagree about what it did.
    #[error("migration {version} was applied with a different content than this build has")]
    Changed {
        /// Version of the migration.
        version: i64,
    },
    /// The database has a migration this build does not know.
    #[error("the database has migration {version}, which this build does not know: use the newer build")]
    Unknown {
        /// Version of the migration.
        version: i64,
    },
}

/// Applies every missing migration, oldest first, each in its own transaction.
///
/// Safe to call from any number of processes at once: they queue on an advisory lock of the database, and whoever comes
/// later finds nothing to do. Calling it on an up-to-date schema changes nothing.
///
/// # Errors
/// See [`MigrateError`]. What was applied before the failing migration stays applied.
pub async fn run(pool: &PgPool) -> Result<Report, MigrateError> {
    let mut connection = prepare(pool).await?;
    connection.lock().await.map_err(MigrateError::Ledger)?;
    let outcome = apply_missing(&mut connection).await;
    match connection.unlock().await {
        Ok(()) => {}
        // The lock ends with the connection, so it must not go back to the pool.
        Err(_) => drop(connection.detach()),
    }
    Ok(Report {
        applied: outcome?,
        pending: Vec::new(),
    })
}

/// Tells which migrations [`run`] would apply, without applying any.
///
/// # Errors
/// See [`MigrateError`].
pub async fn status(pool: &PgPool) -> Result<Report, MigrateError> {
    let mut connection = pool.acquire().await?;
    let exists: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(LEDGER)
        .fetch_one(&mut *connection)
        .await?;
    let applied = if exists {
        connection
            .list_applied_migrations(LEDGER)
            .await
            .map_err(MigrateError::Ledger)?
    } else {
        Vec::new()
    };
    let pending = missing(&applied)?
        .iter()
        .map(|migration| migration.version)
        .collect();
    Ok(Report {
        applied: Vec::new(),
        pending,
    })
}

/// A connection on which statements may take as long as a migration needs.
async fn prepare(pool: &PgPool) -> Result<PoolConnection<Postgres>, MigrateError> {
    let mut connection = pool.acquire().await?;
    sqlx::raw_sql("SET statement_timeout = 0; SET lock_timeout = 0; SET client_min_messages = warning")
        .execute(&mut *connection)
        .await?;
    Ok(connection)
}

async fn apply_missing(connection: &mut PoolConnection<Postgres>) -> Result<Vec<i64>, MigrateError> {
    connection
        .ensure_migrations_table(LEDGER)
        .await
        .map_err(MigrateError::Ledger)?;
    let applied = connection
        .list_applied_migrations(LEDGER)
        .await
        .map_err(MigrateError::Ledger)?;
    let mut done = Vec::new();
    for migration in missing(&applied)? {
        let version = migration.version;
        connection
            .apply(LEDGER, migration)
            .await
            .map_err(|source| MigrateError::Failed { version, source })?;
        done.push(version);
    }
    Ok(done)
}

/// The migrations that `applied` lacks, after checking that what is there is what this build knows.
fn missing(applied: &[AppliedMigration]) -> Result<Vec<&'static Migration>, MigrateError> {
    for entry in applied {
        match FILES.iter().find(|known| known.version == entry.version) {
            None => {
                return Err(MigrateError::Unknown {
                    version: entry.version,
                });
            }
            Some(known) if known.checksum != entry.checksum => {
                return Err(MigrateError::Changed {
                    version: entry.version,
                });
            }
            Some(_) => {}
        }
    }
    Ok(FILES
        .iter()
        .filter(|known| applied.iter().all(|entry| entry.version != known.version))
        .collect())
}
