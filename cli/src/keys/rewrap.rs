//! `caracal keys rewrap`: every stored secret under the present key encryption key.
//!
//! The rows themselves say what is left to do, so the command keeps no notes: however it was ended, running it again goes
//! on. Each batch is one transaction.

use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use caracal_chassis::config::Reader;
use caracal_storage::sealed::{self, SEALED_COLUMNS, SealedColumn, SealedRow};
use caracal_storage::{Database, PoolLimits, ZoneScope, schema_version};
use caracal_token::envelope::{Kek, Keyring};

use crate::key_source;

/// What became of one column.
#[derive(Debug, Default)]
struct Outcome {
    rewrapped: u64,
    /// Sealed under a key that was not given, or damaged.
    unreadable: u64,
}

/// Seals everything anew, or with `check` only counts; fails when something is left.
///
/// # Errors
/// Wrong settings, a database that cannot be reached or does not fit this version.
pub(crate) async fn run(check: bool, batch: u16) -> Result<ExitCode> {
    let (database_url, keyring) = read_settings(check).await?;
    let database = Database::connect(&database_url, "caracal-keys-rewrap", &PoolLimits::default())
        .await
        .context("DATABASE_URL")?;
    schema_version::check(&database).await?;
    let mut left = 0;
    for column in &SEALED_COLUMNS {
        let others = {
            let mut tx = database.read().await?;
            sealed::count_others(&mut tx, column, keyring.current.id()).await?
        };
        if check {
            say(&format!("{}: {others} under another key", name(column)));
            left += u64::try_from(others).unwrap_or_default();
            continue;
        }
        let outcome = rewrap(&database, &keyring, column, others, batch).await?;
        say(&format!(
            "{}: {} sealed anew, {} cannot be opened",
            name(column),
            outcome.rewrapped,
            outcome.unreadable
        ));
    }
    if !check {
        // A service that still seals under the previous key may have done so behind us.
        for column in &SEALED_COLUMNS {
            let mut tx = database.read().await?;
            let others = sealed::count_others(&mut tx, column, keyring.current.id()).await?;
            left += u64::try_from(others).unwrap_or_default();
        }
        say(&format!("{left} left under another key"));
    }
    Ok(if left == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn rewrap(
    database: &Database,
    keyring: &Keyring,
    column: &SealedColumn,
    others: i64,
    batch: u16,
) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut after = String::new();
    loop {
        let mut tx = database.write(ZoneScope::All).await?;
        let rows =
            sealed::lock_others(&mut tx, column, keyring.current.id(), &after, i64::from(batch)).await?;
        let Some(last) = rows.last() else {
            return Ok(outcome);
        };
        after.clone_from(&last.row);
        let mut sealed_anew = Vec::with_capacity(rows.len());
        for SealedRow { row, envelope } in rows {
            match keyring.rewrap(&envelope) {
                Ok(Some(envelope)) => sealed_anew.push(SealedRow { row, envelope }),
                Ok(None) => {}
                Err(error) => {
                    warn(&format!("{} {row}: {error}", name(column)));
                    outcome.unreadable += 1;
                }
            }
        }
        outcome.rewrapped += sealed::replace(&mut tx, column, sealed_anew).await?;
        tx.commit().await?;
        warn(&format!("{}: {} of {others}", name(column), outcome.rewrapped));
    }
}

fn name(column: &SealedColumn) -> String {
    format!("{}.{}", column.table, column.column)
}

async fn read_settings(check: bool) -> Result<(String, Keyring)> {
    let source = key_source::settings(None).await?;
    let mut reader = Reader::new(&source);
    let database_url = reader.secret("DATABASE_URL").expose().clone();
    let current = reader.secret("SECRET_STORE_KEK");
    let previous = if check {
        reader.optional_secret("SECRET_STORE_KEK_PREVIOUS")
    } else {
        Some(reader.secret("SECRET_STORE_KEK_PREVIOUS"))
    };
    reader.finish().map_err(|errors| anyhow!("{errors}"))?;
    let kek = |text: &str, key: &'static str| Kek::from_hex(text).context(key);
    let previous = match &previous {
        Some(previous) => Some(kek(previous.expose(), "SECRET_STORE_KEK_PREVIOUS")?),
        None => None,
    };
    Ok((
        database_url,
        Keyring::new(kek(current.expose(), "SECRET_STORE_KEK")?, previous),
    ))
}

#[expect(clippy::print_stdout, reason = "the report is what the command is for")]
fn say(line: &str) {
    println!("{line}");
}

#[expect(
    clippy::print_stderr,
    reason = "progress and what went wrong, apart from the report"
)]
fn warn(line: &str) {
    eprintln!("{line}");
}
