//! Where do the stores of `caracal dev` come from? Private ones, unless the environment names others.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use caracal_bus::{Bus, MemoryBus};
use caracal_chassis::config::{Reader, Source};
use caracal_migrations::Role;
use sqlx::{Connection, PgConnection};
use url::Url;

use super::postgres::PrivatePostgres;
use super::progress;
use super::state::{Home, Keys};
use crate::{bus, init};

/// The private cluster's database.
const DATABASE: &str = "caracal";
/// Every role that logs in.
const LOGINS: [Role; 5] = [
    Role::Api,
    Role::Sts,
    Role::Gateway,
    Role::Audit,
    Role::Coordinator,
];

/// What `caracal dev` reads from the environment.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) log_level: String,
    database_url: Option<String>,
    redis_url: Option<String>,
}

impl Settings {
    /// Reads the environment.
    ///
    /// # Errors
    /// Every mistake at once.
    pub(crate) fn read() -> Result<Self> {
        let source = Source::from_env_and_file(None).map_err(|errors| anyhow!("{errors}"))?;
        let mut reader = Reader::new(&source);
        let settings = Self {
            log_level: reader.text("LOG_LEVEL", Some("warn")),
            database_url: reader
                .optional_secret("DATABASE_URL")
                .map(|url| url.expose().clone()),
            redis_url: reader
                .optional_secret("REDIS_URL")
                .map(|url| url.expose().clone()),
        };
        reader.finish().map_err(|errors| anyhow!("{errors}"))?;
        Ok(settings)
    }
}

/// The database and the bus.
#[derive(Debug)]
pub(crate) struct Stores {
    database: Databases,
    /// The bus that all roles share.
    pub(crate) bus: Arc<dyn Bus>,
    /// The URL of Redis; empty for the in-process bus.
    pub(crate) redis_url: String,
}

#[derive(Debug)]
enum Databases {
    Private(PrivatePostgres),
    Given(String),
}

impl Stores {
    /// Starts what is private and connects to what is given.
    ///
    /// # Errors
    /// When a store cannot be started or reached.
    pub(crate) async fn start(home: &Home, settings: &Settings) -> Result<Self> {
        let (bus, redis_url): (Arc<dyn Bus>, String) = match &settings.redis_url {
            Some(url) => (bus::connect(url)?, url.clone()),
            None => (Arc::new(MemoryBus::open(&home.join("bus"))?), String::new()),
        };
        let database = if let Some(url) = &settings.database_url {
            Databases::Given(url.clone())
        } else {
            progress("starting a private PostgreSQL");
            Databases::Private(PrivatePostgres::start(home.path()).await?)
        };
        let stores = Self {
            database,
            bus,
            redis_url,
        };
        if let Err(error) = stores.ensure_database().await {
            stores.stop().await?;
            return Err(error);
        }
        Ok(stores)
    }

    async fn ensure_database(&self) -> Result<()> {
        let Databases::Private(postgres) = &self.database else {
            return Ok(());
        };
        let mut connection = PgConnection::connect(&postgres.admin_url("postgres"))
            .await
            .context("cannot reach the private PostgreSQL")?;
        let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
            .bind(DATABASE)
            .fetch_one(&mut connection)
            .await?;
        if !exists {
            sqlx::query("CREATE DATABASE caracal")
                .execute(&mut connection)
                .await?;
        }
        Ok(connection.close().await?)
    }

    /// Brings the schema up to date. The private database trusts its socket; a given one gets passwords.
    ///
    /// # Errors
    /// When a migration fails.
    pub(crate) async fn migrate(&self, keys: &Keys) -> Result<()> {
        let (url, password) = match &self.database {
            Databases::Private(postgres) => (postgres.admin_url(DATABASE), None),
            Databases::Given(url) => (url.clone(), Some(keys.database_password.clone())),
        };
        let passwords: Vec<(Role, Option<String>)> =
            LOGINS.into_iter().map(|role| (role, password.clone())).collect();
        init::migrate_database(&url, &passwords).await
    }

    /// The connection URL of a role's own login.
    ///
    /// # Errors
    /// When the given database URL cannot be taken apart.
    pub(crate) fn role_url(&self, role: Role, keys: &Keys) -> Result<String> {
        match &self.database {
            Databases::Private(postgres) => Ok(postgres.url(DATABASE, &role.login())),
            Databases::Given(given) => {
                let mut url = Url::parse(given).context("DATABASE_URL is not a URL")?;
                let set = url
                    .set_username(&role.login())
                    .and_then(|()| url.set_password(Some(&keys.database_password)));
                set.map_err(|()| anyhow!("DATABASE_URL cannot carry a user name"))?;
                Ok(url.into())
            }
        }
    }

    /// Stops what is private.
    ///
    /// # Errors
    /// When the private database does not stop.
    pub(crate) async fn stop(&self) -> Result<()> {
        match &self.database {
            Databases::Private(postgres) => postgres.stop().await,
            Databases::Given(_) => Ok(()),
        }
    }
}
