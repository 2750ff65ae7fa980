//! `caracal doctor`: can the configured stores be reached, and do they fit this version?

use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use caracal_chassis::config::Reader;
use caracal_storage::{Database, PoolLimits, schema_version};

use crate::{bus, key_source};

/// Checks everything that is configured and prints a line for each; fails when one fails.
///
/// # Errors
/// When the settings cannot be read.
pub(crate) async fn run() -> Result<ExitCode> {
    let source = key_source::settings(None).await?;
    let mut reader = Reader::new(&source);
    let database_url = reader.optional_secret("DATABASE_URL");
    let redis_url = reader.optional_secret("REDIS_URL");
    reader.finish().map_err(|errors| anyhow!("{errors}"))?;
    let database = match &database_url {
        Some(url) => check_database(url.expose()).await,
        None => Err(anyhow!("DATABASE_URL is not set")),
    };
    let redis = match &redis_url {
        Some(url) => check_redis(url.expose()).await,
        None => Err(anyhow!("REDIS_URL is not set")),
    };
    let healthy = [report("PostgreSQL", &database), report("Redis", &redis)];
    Ok(if healthy.into_iter().all(|ok| ok) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn check_database(url: &str) -> Result<()> {
    let database = Database::connect(url, "caracal-doctor", &PoolLimits::default())
        .await
        .context("cannot connect")?;
    schema_version::check(&database).await?;
    Ok(())
}

async fn check_redis(url: &str) -> Result<()> {
    bus::connect(url)?.ping().await?;
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the report is what the command is for")]
fn report(name: &str, outcome: &Result<()>) -> bool {
    match outcome {
        Ok(()) => println!("ok      {name}"),
        Err(error) => println!("failed  {name}: {error:#}"),
    }
    outcome.is_ok()
}
