//! `caracal audit verify`: does the ledger still say what it said?

use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use caracal_audit::verify::{self, AuditKeys, Report};
use caracal_bus::HmacKey;
use caracal_chassis::config::Reader;
use caracal_storage::{Database, PoolLimits};

use crate::key_source;

/// Verifies one zone, or every zone, and prints a line of JSON for each; fails when one is wrong.
///
/// # Errors
/// Wrong settings; a database that cannot be reached.
pub(crate) async fn run(zone: Option<&str>) -> Result<ExitCode> {
    let (database_url, keys) = read_settings().await?;
    let database = Database::connect(&database_url, "caracal-audit-verify", &PoolLimits::default())
        .await
        .context("DATABASE_URL")?;
    let zones = match zone {
        Some(zone) => vec![zone.to_owned()],
        None => verify::zones(&database).await?,
    };
    let mut intact = true;
    for zone in zones {
        let report = verify::zone(&database, &zone, &keys).await?;
        intact &= report.ok;
        print(&report)?;
    }
    Ok(if intact {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn read_settings() -> Result<(String, AuditKeys)> {
    let source = key_source::settings(None).await?;
    let mut reader = Reader::new(&source);
    let database_url = reader.secret("DATABASE_URL").expose().clone();
    let current = reader.hex_key("AUDIT_HMAC_KEY", 32);
    let previous = reader.optional_hex_key("AUDIT_HMAC_KEY_PREVIOUS", 32);
    reader.finish().map_err(|errors| anyhow!("{errors}"))?;
    let previous = previous.map(|key| HmacKey::new(key.expose().clone()));
    Ok((
        database_url,
        AuditKeys::new(Some(HmacKey::new(current.expose().clone())), previous),
    ))
}

#[expect(clippy::print_stdout, reason = "the report is what the command is for")]
fn print(report: &Report) -> Result<()> {
    println!("{}", serde_json::to_string(report)?);
    Ok(())
}
