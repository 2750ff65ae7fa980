//! How does each test get a migrated database of its own, in a tenth of a second?
//!
//! The migrations run once, into a template whose name is a digest of their contents; every test copies the template.

use std::fmt::Write as _;
use std::str::FromStr;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use caracal_chassis::Clock;
use caracal_migrations::Role;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection};
use url::Url;
use uuid::Uuid;

use crate::environment;

/// What the template is made of; only its digest is used here.
static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../../migrations/sql");

/// The advisory lock under which templates are made: any number nobody else uses.
const TEMPLATE_LOCK: i64 = 0x6361_7261_6361_6c01;

/// The password of every login, for servers that ask for one.
const PASSWORD: &str = "caracal-test";

/// Databases of tests that were killed are dropped after this long.
const FORGOTTEN_SECONDS: i64 = 3_600;

/// A database of one test, migrated, with the logins of all services. Dropped with the value.
#[derive(Debug)]
pub struct TestDatabase {
    name: String,
    server: Url,
}

impl TestDatabase {
    /// Makes a database on the server `CARACAL_TEST_DATABASE_URL` names (as a superuser).
    ///
    /// # Panics
    /// When there is no such server, or the migrations fail.
    pub async fn new() -> Self {
        let server = Url::parse(&environment::required("CARACAL_TEST_DATABASE_URL"))
            .expect("CARACAL_TEST_DATABASE_URL is a URL");
        let mut connection = connect(&server).await;
        drop_forgotten(&mut connection).await;
        let template = ensure_template(&server, &mut connection).await;
        let name = format!(
            "caracal_test_{}_{}",
            Clock::system().unix_seconds(),
            Uuid::new_v4().simple()
        );
        // Both names are made of letters and digits above.
        run(
            &mut connection,
            format!("CREATE DATABASE {name} TEMPLATE {template}"),
        )
        .await;
        let _closed = connection.close().await;
        Self { name, server }
    }

    /// The database, as the superuser: row-level security does not apply.
    pub fn url(&self) -> String {
        database_url(&self.server, &self.name).to_string()
    }

    /// The database, as the login of a service.
    pub fn url_as(&self, role: Role) -> String {
        let mut url = database_url(&self.server, &self.name);
        url.set_username(&role.login()).expect("a URL with a host");
        url.set_password(Some(PASSWORD)).expect("a URL with a host");
        url.to_string()
    }

    /// A pool of superuser connections, to prepare and to look at rows.
    pub async fn pool(&self) -> PgPool {
        pool(&self.url()).await
    }

    /// A pool of the login of a service.
    pub async fn pool_as(&self, role: Role) -> PgPool {
        pool(&self.url_as(role)).await
    }
}

impl Drop for TestDatabase {
    /// Best effort: what cannot be dropped now is dropped by a later test.
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            if let Ok(runtime) = runtime {
                runtime.block_on(async {
                    let statement = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
                    if let Ok(mut connection) = PgConnection::connect(server.as_str()).await {
                        let _left = sqlx::raw_sql(AssertSqlSafe(statement))
                            .execute(&mut connection)
                            .await;
                    }
                });
            }
        });
        let _panicked = dropping.join();
    }
}

/// Makes the template unless it exists, and returns its name.
async fn ensure_template(server: &Url, connection: &mut PgConnection) -> String {
    let template = template_name();
    if !exists(connection, &template).await {
        lock(connection).await;
        if !exists(connection, &template).await {
            make_template(server, connection, &template).await;
        }
        run(connection, format!("SELECT pg_advisory_unlock({TEMPLATE_LOCK})")).await;
    }
    template
}

/// Migrates under another name first: a half-made template must not be copied.
async fn make_template(server: &Url, connection: &mut PgConnection, template: &str) {
    let unfinished = format!("{template}_unfinished");
    run(
        connection,
        format!("DROP DATABASE IF EXISTS {unfinished} WITH (FORCE)"),
    )
    .await;
    run(connection, format!("CREATE DATABASE {unfinished}")).await;
    let pool = pool(database_url(server, &unfinished).as_str()).await;
    if let Err(error) = caracal_migrations::run(&pool).await {
        panic!("the migrations failed: {error}: {}", causes(&error));
    }
    let logins = Role::ALL.map(|role| (role, Some(PASSWORD)));
    caracal_migrations::attach_logins(&pool, &logins)
        .await
        .expect("the test server allows to make roles");
    pool.close().await;
    run(
        connection,
        format!("ALTER DATABASE {unfinished} RENAME TO {template}"),
    )
    .await;
}

/// Waits by asking again: a session that waits inside PostgreSQL would hold a snapshot, and `CREATE INDEX CONCURRENTLY`
/// in a migration waits for snapshots.
async fn lock(connection: &mut PgConnection) {
    crate::wait::wait_until(Duration::from_mins(2), async || {
        let statement = format!("SELECT pg_try_advisory_lock({TEMPLATE_LOCK})");
        sqlx::query_scalar(AssertSqlSafe(statement))
            .fetch_one(&mut *connection)
            .await
            .expect("PostgreSQL answers")
    })
    .await;
}

fn template_name() -> String {
    let mut digest = Context::new(&SHA256);
    for migration in MIGRATIONS.iter() {
        digest.update(&migration.version.to_be_bytes());
        digest.update(&migration.checksum);
    }
    let digest = digest.finish();
    let mut name = "caracal_template_".to_owned();
    for byte in digest.as_ref().iter().take(8) {
        write!(name, "{byte:02x}").expect("a string takes all text");
    }
    name
}

async fn drop_forgotten(connection: &mut PgConnection) {
    let names: Vec<String> =
        sqlx::query_scalar("SELECT datname FROM pg_database WHERE datname LIKE 'caracal_test_%'")
            .fetch_all(&mut *connection)
            .await
            .expect("PostgreSQL lists databases");
    let before = Clock::system().unix_seconds() - FORGOTTEN_SECONDS;
    let made_at = |name: &str| name.split('_').nth(2).and_then(|text| i64::from_str(text).ok());
    for name in names
        .iter()
        .filter(|name| made_at(name).is_some_and(|made| made < before))
    {
        let statement = format!("DROP DATABASE IF EXISTS \"{name}\" WITH (FORCE)");
        // Another test may be dropping it too.
        let _left = sqlx::raw_sql(AssertSqlSafe(statement))
            .execute(&mut *connection)
            .await;
    }
}

async fn exists(connection: &mut PgConnection, name: &str) -> bool {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM pg_database WHERE datname = $1)")
        .bind(name)
        .fetch_one(connection)
        .await
        .expect("PostgreSQL lists databases")
}

async fn run(connection: &mut PgConnection, statement: String) {
    if let Err(error) = sqlx::raw_sql(AssertSqlSafe(statement.clone()))
        .execute(connection)
        .await
    {
        panic!("{statement}: {error}");
    }
}

async fn connect(server: &Url) -> PgConnection {
    match PgConnection::connect(server.as_str()).await {
        Ok(connection) => connection,
        Err(error) => {
            panic!("no PostgreSQL at {server}: {error}. Run ./x test, or start it with ./x services")
        }
    }
}

async fn pool(url: &str) -> PgPool {
    let options = PgConnectOptions::from_str(url).expect("a PostgreSQL URL");
    PgPoolOptions::new()
        .max_connections(4)
        .connect_with(options)
        .await
        .expect("the test server accepts connections")
}

fn database_url(server: &Url, name: &str) -> Url {
    let mut url = server.clone();
    url.set_path(&format!("/{name}"));
    url
}

fn causes(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_test_has_a_migrated_database_of_its_own() {
        let (one, two) = tokio::join!(TestDatabase::new(), TestDatabase::new());
        sqlx::query("CREATE TABLE of_one_only (id int)")
            .execute(&one.pool().await)
            .await
            .unwrap();
        let find = "SELECT to_regclass('of_one_only') IS NOT NULL";
        let seen: bool = sqlx::query_scalar(find)
            .fetch_one(&two.pool().await)
            .await
            .unwrap();
        assert!(!seen);
        let versions = "SELECT count(*) FROM _sqlx_migrations";
        let versions: i64 = sqlx::query_scalar(versions)
            .fetch_one(&two.pool().await)
            .await
            .unwrap();
        assert_eq!(usize::try_from(versions).unwrap(), MIGRATIONS.iter().count());
    }

    #[tokio::test]
    async fn every_service_can_log_in_as_its_role() {
        let database = TestDatabase::new().await;
        for role in Role::ALL {
            let pool = database.pool_as(role).await;
            let is_member: bool = sqlx::query_scalar("SELECT pg_has_role(current_user, $1, 'MEMBER')")
                .bind(role.name())
                .fetch_one(&pool)
                .await
                .unwrap();
            assert!(is_member, "{role:?}");
        }
    }

    #[tokio::test]
    async fn a_dropped_database_is_gone() {
        let database = TestDatabase::new().await;
        let (name, server) = (database.name.clone(), database.server.clone());
        drop(database);
        assert!(!exists(&mut connect(&server).await, &name).await);
    }
}
