//! Can the migrations be run again, by many at once, and are foreign or edited schemas noticed?
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot be set up has failed"
)]

use caracal_migrations::{MigrateError, Role, attach_logins, known_versions, latest_version, run, status};
use caracal_testing::TestDatabase;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Row};

/// An empty database on the test server, dropped with [`Empty::drop`].
struct Empty {
    pool: PgPool,
    options: PgConnectOptions,
    name: String,
    beside: TestDatabase,
}

impl Empty {
    async fn new() -> Self {
        let beside = TestDatabase::new().await;
        let owner = beside.pool().await;
        let name: String = sqlx::query_scalar("SELECT current_database() || '_empty'")
            .fetch_one(&owner)
            .await
            .unwrap();
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .execute(&owner)
            .await
            .unwrap();
        let options: PgConnectOptions = beside.url().parse::<PgConnectOptions>().unwrap().database(&name);
        let pool = PgPoolOptions::new()
            .max_connections(4)
            .connect_with(options.clone())
            .await
            .unwrap();
        Self {
            pool,
            options,
            name,
            beside,
        }
    }

    async fn drop(self) {
        self.pool.close().await;
        let statement = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        sqlx::raw_sql(AssertSqlSafe(statement))
            .execute(&self.beside.pool().await)
            .await
            .unwrap();
    }
}

/// Everything that defines the schema, as one text.
async fn schema(pool: &PgPool) -> String {
    let rows = sqlx::query(
        "SELECT c.relname || '.' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod) AS line
         FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
         WHERE c.relnamespace = 'public'::regnamespace AND a.attnum > 0
         UNION ALL
         SELECT c.relname || ' ' || c.relacl::text FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace
           AND c.relacl IS NOT NULL
         ORDER BY 1",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    rows.iter()
        .map(|row| row.get::<String, _>("line"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[tokio::test]
async fn a_second_run_finds_nothing_to_do() {
    let empty = Empty::new().await;
    assert_eq!(
        status(&empty.pool).await.unwrap().pending,
        known_versions(),
        "nothing is applied before the first run"
    );
    assert_eq!(run(&empty.pool).await.unwrap().applied, known_versions());
    let before = schema(&empty.pool).await;
    assert_eq!(run(&empty.pool).await.unwrap().applied, Vec::<i64>::new());
    assert_eq!(
        schema(&empty.pool).await,
        before,
        "the second run changed nothing"
    );
    assert_eq!(status(&empty.pool).await.unwrap().pending, Vec::<i64>::new());
    assert_eq!(known_versions().last(), Some(&latest_version()));
    empty.drop().await;
}

#[tokio::test]
async fn eight_runners_at_once_apply_each_migration_once() {
    let empty = Empty::new().await;
    let runners: Vec<_> = (0..8)
        .map(|_| {
            let options = empty.options.clone();
            tokio::spawn(async move {
                let pool = PgPoolOptions::new()
                    .max_connections(1)
                    .connect_with(options)
                    .await
                    .unwrap();
                let applied = run(&pool).await.unwrap().applied;
                pool.close().await;
                applied
            })
        })
        .collect();
    let mut applied = Vec::new();
    for runner in runners {
        applied.extend(runner.await.unwrap());
    }
    applied.sort_unstable();
    assert_eq!(applied, known_versions());
    empty.drop().await;
}

#[tokio::test]
async fn databases_of_one_cluster_can_be_migrated_at_the_same_time() {
    let (one, two, three) = tokio::join!(Empty::new(), Empty::new(), Empty::new());
    let (a, b, c) = tokio::join!(run(&one.pool), run(&two.pool), run(&three.pool));
    assert_eq!(a.unwrap().applied, known_versions());
    assert_eq!(b.unwrap().applied, known_versions());
    assert_eq!(c.unwrap().applied, known_versions());
    tokio::join!(one.drop(), two.drop(), three.drop());
}

#[tokio::test]
async fn an_edited_migration_is_refused() {
    let database = TestDatabase::new().await;
    let pool = database.pool().await;
    sqlx::query("UPDATE _sqlx_migrations SET checksum = '\\x00' WHERE version = $1")
        .bind(latest_version())
        .execute(&pool)
        .await
        .unwrap();
    let refusal = run(&pool).await.unwrap_err();
    assert!(
        matches!(refusal, MigrateError::Changed { version } if version == latest_version()),
        "{refusal:?}"
    );
}

#[tokio::test]
async fn a_newer_database_is_left_alone() {
    let database = TestDatabase::new().await;
    let pool = database.pool().await;
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (99990101000000, 'from the future', true, '\\x00', 0)",
    )
    .execute(&pool)
    .await
    .unwrap();
    let refusal = run(&pool).await.unwrap_err();
    assert!(
        matches!(
            refusal,
            MigrateError::Unknown {
                version: 99_990_101_000_000
            }
        ),
        "{refusal:?}"
    );
}

#[tokio::test]
async fn logins_can_be_attached_again_and_by_many_at_once() {
    let database = TestDatabase::new().await;
    let pool = PgPoolOptions::new()
        .max_connections(8)
        .connect(&database.url())
        .await
        .unwrap();
    // The password the whole test server uses: other tests log in meanwhile.
    let logins = Role::ALL.map(|role| (role, Some("caracal-test")));
    let attached = futures_util::future::join_all((0..8).map(|_| attach_logins(&pool, &logins))).await;
    for outcome in attached {
        outcome.unwrap();
    }
    for role in Role::ALL {
        let (can_login, is_member, is_super): (bool, bool, bool) = sqlx::query_as(
            "SELECT rolcanlogin, pg_has_role(rolname, $2, 'MEMBER'), rolsuper OR rolbypassrls
             FROM pg_roles WHERE rolname = $1",
        )
        .bind(role.login())
        .bind(role.name())
        .fetch_one(&pool)
        .await
        .unwrap();
        assert!(can_login && is_member && !is_super, "{role:?}");
        let role_can_login: bool = sqlx::query_scalar("SELECT rolcanlogin FROM pg_roles WHERE rolname = $1")
            .bind(role.name())
            .fetch_one(&pool)
            .await
            .unwrap();
        assert!(!role_can_login, "nobody logs in as {role:?} itself");
    }
}
