//! Is the database's schema the one this build was made for?

use thiserror::Error;

use crate::error::StorageError;
use crate::pool::Database;

/// Why a service must not start on this database.
#[derive(Debug, Error)]
pub enum SchemaMismatch {
    /// The database lacks migrations this build knows.
    #[error("the database schema is at version {found}, this build needs {expected}: run `caracal migrate`")]
    Behind {
        /// Newest version this build knows.
        expected: i64,
        /// Newest version found, 0 for an empty database.
        found: i64,
    },
    /// The database has migrations this build does not know.
    #[error(
        "the database schema is at version {found}, newer than this build ({expected}): upgrade this service"
    )]
    Ahead {
        /// Newest version this build knows.
        expected: i64,
        /// Newest version found.
        found: i64,
    },
    /// A migration was started and did not finish.
    #[error("migration {version} did not finish: run `caracal migrate`")]
    Unfinished {
        /// Its version.
        version: i64,
    },
    /// The database could not be asked.
    #[error("the schema version could not be read")]
    Storage(#[from] StorageError),
}

/// Compares the applied migrations with those of this build. Services call it once before they listen.
///
/// # Errors
/// See [`SchemaMismatch`]; its message says what to run.
pub async fn check(database: &Database) -> Result<(), SchemaMismatch> {
    let mut tx = database.read().await?;
    let exists: bool = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations') IS NOT NULL")
        .fetch_one(&mut tx)
        .await
        .map_err(StorageError::from)?;
    let applied: Vec<(i64, bool)> = if exists {
        sqlx::query_as("SELECT version, success FROM _sqlx_migrations ORDER BY version")
            .fetch_all(&mut tx)
            .await
            .map_err(StorageError::from)?
    } else {
        Vec::new()
    };
    compare(&caracal_migrations::known_versions(), &applied)
}

fn compare(known: &[i64], applied: &[(i64, bool)]) -> Result<(), SchemaMismatch> {
    let expected = known.last().copied().unwrap_or_default();
    let found = applied.last().map(|(version, _)| *version).unwrap_or_default();
    if let Some((version, _)) = applied.iter().find(|(_, success)| !success) {
        return Err(SchemaMismatch::Unfinished { version: *version });
    }
    if applied.iter().any(|(version, _)| !known.contains(version)) {
        return Err(SchemaMismatch::Ahead { expected, found });
    }
    if applied.len() < known.len() {
        return Err(SchemaMismatch::Behind { expected, found });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_migrations_are_accepted() {
        assert!(compare(&[1, 2], &[(1, true), (2, true)]).is_ok());
    }

    #[test]
    fn an_older_schema_says_what_to_run() {
        let refusal = compare(&[1, 2], &[(1, true)]).unwrap_err();
        assert!(
            matches!(
                refusal,
                SchemaMismatch::Behind {
                    expected: 2,
                    found: 1
                }
            ),
            "{refusal:?}"
        );
        assert!(refusal.to_string().contains("caracal migrate"));
    }

    #[test]
    fn a_newer_schema_is_refused() {
        let refusal = compare(&[1], &[(1, true), (2, true)]).unwrap_err();
        assert!(
            matches!(
                refusal,
                SchemaMismatch::Ahead {
                    expected: 1,
                    found: 2
                }
            ),
            "{refusal:?}"
        );
    }

    #[test]
    fn a_gap_is_refused() {
        let refusal = compare(&[1, 2, 3], &[(1, true), (3, true)]).unwrap_err();
        assert!(
            matches!(
                refusal,
                SchemaMismatch::Behind {
                    expected: 3,
                    found: 3
                }
            ),
            "{refusal:?}"
        );
    }

    #[test]
    fn an_unfinished_migration_is_refused() {
        let refusal = compare(&[1], &[(1, false)]).unwrap_err();
        assert!(
            matches!(refusal, SchemaMismatch::Unfinished { version: 1 }),
            "{refusal:?}"
        );
    }
}
