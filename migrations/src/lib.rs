//! The database schema: embeds the migrations, applies them, and attaches logins to the services' roles.
//!
//! Only `caracal migrate`, `caracal init` and `caracal dev` call this. A service never migrates its own database: it
//! compares versions and refuses to start.

mod login;
mod run;

pub use login::{Role, attach_logins};
pub use run::{MigrateError, Report, run, status};

/// The files of `sql/`, in order.
static FILES: sqlx::migrate::Migrator = sqlx::migrate!("./sql");

/// Version of the newest migration this build knows.
pub fn latest_version() -> i64 {
    known_versions().last().copied().unwrap_or_default()
}

/// Versions of all migrations this build knows, oldest first.
pub fn known_versions() -> Vec<i64> {
    FILES.iter().map(|migration| migration.version).collect()
}
