//! Who makes next month's partition? This job, at start and every few hours, in every replica: making one twice does nothing.

use std::time::Duration;

use caracal_chassis::shutdown::Shutdown;
use caracal_storage::{Database, StorageError, ZoneScope, audit_event};

/// Months made ahead of the present one.
const MONTHS_AHEAD: i32 = 3;
/// How often it is looked whether one is missing.
const PERIOD: Duration = Duration::from_hours(6);
/// How soon it is tried again after a failure.
const RETRY: Duration = Duration::from_mins(1);

/// Keeps the partitions ahead until `shutdown`.
pub(crate) async fn run(database: Database, shutdown: Shutdown) {
    loop {
        let pause = match run_once(&database).await {
            Ok(0) => PERIOD,
            Ok(made) => {
                tracing::info!(made, "partitions of the ledger were made");
                PERIOD
            }
            Err(error) => {
                tracing::warn!(%error, "the partitions of the ledger could not be made now");
                RETRY
            }
        };
        tokio::select! {
            () = shutdown.requested() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// One look. Answers how many partitions were made.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub(crate) async fn run_once(database: &Database) -> Result<i64, StorageError> {
    let mut tx = database.write(ZoneScope::All).await?;
    let made = audit_event::ensure_partitions(&mut tx, MONTHS_AHEAD).await?;
    tx.commit().await?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use caracal_storage::PoolLimits;
    use caracal_testing::{Role, TestDatabase};

    use super::*;

    #[tokio::test]
    async fn a_missing_month_is_made_by_the_service_under_its_own_role() {
        let test = TestDatabase::new().await;
        let database = Database::connect(&test.url_as(Role::Audit), "test", &PoolLimits::default())
            .await
            .unwrap();
        assert_eq!(
            run_once(&database).await.unwrap(),
            0,
            "the migration has made this month and three more"
        );
        let drop_last = "SELECT format('DROP TABLE %I', c.relname) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
             WHERE i.inhparent = 'audit_events'::regclass AND c.relname <> 'audit_events_default' ORDER BY c.relname DESC LIMIT 1";
        let pool = test.pool().await;
        let statement: String = sqlx::query_scalar(drop_last).fetch_one(&pool).await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
            .execute(&pool)
            .await
            .unwrap();
        assert_eq!(
            run_once(&database).await.unwrap(),
            1,
            "the month that is missing is made"
        );
        assert_eq!(run_once(&database).await.unwrap(), 0, "and not twice");
    }
}
