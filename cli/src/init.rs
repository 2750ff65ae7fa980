//! `caracal migrate` and `caracal init`: what has to be there before any role starts.

use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result, anyhow};
use caracal_bus::{Bus, GroupStart};
use caracal_chassis::config::Reader;
use caracal_chassis::telemetry;
use caracal_migrations::Role;
use caracal_wire::stream::PROVISIONED_GROUPS;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgPool};

use crate::{bus, key_source};

/// The roles that log in, with the setting that holds each one's password.
const LOGINS: [(Role, &str); 5] = [
    (Role::Api, "CARACAL_API_DB_PASSWORD"),
    (Role::Sts, "CARACAL_STS_DB_PASSWORD"),
    (Role::Gateway, "CARACAL_GATEWAY_DB_PASSWORD"),
    (Role::Audit, "CARACAL_AUDIT_DB_PASSWORD"),
    (Role::Coordinator, "CARACAL_COORDINATOR_DB_PASSWORD"),
];

/// What both commands read.
struct Settings {
    database_url: String,
    redis_url: Option<String>,
    passwords: Vec<(Role, Option<String>)>,
}

/// Brings the schema up to date and attaches the logins.
///
/// # Errors
/// Wrong settings, an unreachable database, a migration that fails.
pub(crate) async fn migrate(config_file: Option<&Path>) -> Result<()> {
    let settings = read(config_file, false).await?;
    migrate_database(&settings.database_url, &settings.passwords).await
}

/// Migrates and makes the consumer groups.
///
/// # Errors
/// As [`migrate`]; an unreachable Redis.
pub(crate) async fn init(config_file: Option<&Path>) -> Result<()> {
    let settings = read(config_file, true).await?;
    migrate_database(&settings.database_url, &settings.passwords).await?;
    let bus = bus::connect(settings.redis_url.as_deref().unwrap_or_default())?;
    provision_groups(bus.as_ref()).await
}

async fn read(config_file: Option<&Path>, with_redis: bool) -> Result<Settings> {
    let source = key_source::settings(config_file).await?;
    let mut reader = Reader::new(&source);
    let logs = telemetry::Settings::read(&mut reader);
    let settings = Settings {
        database_url: reader.secret("DATABASE_URL").expose().clone(),
        redis_url: with_redis.then(|| reader.secret("REDIS_URL").expose().clone()),
        passwords: LOGINS
            .into_iter()
            .map(|(role, key)| {
                (
                    role,
                    reader
                        .optional_secret(key)
                        .map(|password| password.expose().clone()),
                )
            })
            .collect(),
    };
    reader
        .finish()
        .map_err(|errors| anyhow!("these settings are refused:\n{errors}"))?;
    telemetry::init("init", &logs.level, logs.format)?;
    Ok(settings)
}

/// Brings the schema of `database_url` up to date and attaches the logins; without a password a login has none.
///
/// # Errors
/// An unreachable database, a migration that fails, a user that may not make roles.
pub(crate) async fn migrate_database(database_url: &str, passwords: &[(Role, Option<String>)]) -> Result<()> {
    // A migration may take its time; its whole text in the log would help nobody.
    let options = PgConnectOptions::from_str(database_url)
        .context("DATABASE_URL is not the URL of a PostgreSQL")?
        .disable_statement_logging();
    let pool = PgPool::connect_with(options)
        .await
        .context("DATABASE_URL: cannot connect to PostgreSQL; is it running, and is the URL right?")?;
    let report = caracal_migrations::run(&pool).await?;
    tracing::info!(applied = report.applied.len(), "the schema is up to date");
    let passwords: Vec<(Role, Option<&str>)> = passwords
        .iter()
        .map(|(role, password)| (*role, password.as_deref()))
        .collect();
    caracal_migrations::attach_logins(&pool, &passwords)
        .await
        .context("the roles' logins (the user of DATABASE_URL needs CREATEROLE)")?;
    pool.close().await;
    Ok(())
}

/// Makes the nine consumer groups; those that exist stay as they are.
///
/// # Errors
/// When the bus cannot be reached.
pub(crate) async fn provision_groups(bus: &dyn Bus) -> Result<()> {
    let mut made = 0;
    for (stream, group) in PROVISIONED_GROUPS {
        if bus.ensure_group(stream, group, GroupStart::Beginning).await? {
            made += 1;
        }
    }
    // Mandates issued from now on can be told from those whose use was forgotten.
    bus.remembers_since().await?;
    tracing::info!(
        made,
        existing = PROVISIONED_GROUPS.len() - made,
        "consumer groups are there"
    );
    Ok(())
}
