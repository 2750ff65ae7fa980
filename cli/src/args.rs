//! What can be typed after `caracal`?

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// The authority gateway for AI agents.
#[derive(Debug, Parser)]
#[command(
    name = "caracal",
    version,
    max_term_width = 110,
    after_help = "First steps: `caracal dev` starts a whole local stack and prints a first protected call."
)]
pub(crate) struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// One verb of the executable.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the gateway: admits or denies each agent request, then forwards it
    #[command(after_help = "Example: caracal gateway --config /etc/caracal/gateway.toml")]
    Gateway(RoleArguments),
    /// Run the security token service: exchanges, keys, policy decisions
    #[command(after_help = "Example: caracal sts --config /etc/caracal/sts.toml")]
    Sts(RoleArguments),
    /// Run the control plane: zones, applications, providers, resources, policies
    #[command(after_help = "Example: caracal control --config /etc/caracal/control.toml")]
    Control(RoleArguments),
    /// Run the coordinator: sessions and delegations
    #[command(after_help = "Example: caracal coordinator --config /etc/caracal/coordinator.toml")]
    Coordinator(RoleArguments),
    /// Run the audit service, or verify its ledger
    #[command(
        args_conflicts_with_subcommands = true,
        after_help = "Examples: caracal audit --config /etc/caracal/audit.toml\n          caracal audit verify --zone 0199a1b2-..."
    )]
    Audit(AuditArguments),
    /// Bring the database schema up to date (`DATABASE_URL`; safe to repeat and to run concurrently)
    #[command(after_help = "Example: DATABASE_URL=postgres://postgres@db/caracal caracal migrate")]
    Migrate(MigrateArguments),
    /// Migrate, then make the event streams' consumer groups (`DATABASE_URL`, `REDIS_URL`; safe to repeat)
    #[command(after_help = "Example: DATABASE_URL=... REDIS_URL=redis://redis:6379 caracal init")]
    Init(MigrateArguments),
    /// Run every role in one process with a private PostgreSQL and a demo zone
    #[command(after_help = "Example: caracal dev --data-dir ./.caracal --port-base 9000")]
    Dev(DevArguments),
    /// Check that the configured stores can be reached and fit this version
    #[command(after_help = "Example: DATABASE_URL=... REDIS_URL=... caracal doctor")]
    Doctor,
    /// Print a fresh set of the keys and tokens that the roles share, or seal stored secrets anew
    #[command(
        args_conflicts_with_subcommands = true,
        after_help = "Examples: caracal keys > caracal.env\n          caracal keys rewrap --check"
    )]
    Keys(KeysArguments),
    /// Look at mandates
    #[command(after_help = "Example: caracal token inspect - < mandate.txt")]
    Token {
        /// What to do with the mandate.
        #[command(subcommand)]
        command: TokenCommand,
    },
}

/// Options of a role.
#[derive(Debug, Args)]
pub(crate) struct RoleArguments {
    /// A TOML file of settings; an environment variable of the same name in capitals wins
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// `caracal audit` and what is below it.
#[derive(Debug, Args)]
pub(crate) struct AuditArguments {
    /// Options of the service.
    #[command(flatten)]
    pub(crate) role: RoleArguments,
    /// Something else than running the service.
    #[command(subcommand)]
    pub(crate) command: Option<AuditCommand>,
}

/// What can be done with the ledger.
#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Recompute the hash chain of a zone and compare (`DATABASE_URL`, `AUDIT_HMAC_KEY`)
    #[command(
        after_help = "Example: DATABASE_URL=... AUDIT_HMAC_KEY=... caracal audit verify --zone 0199a1b2-..."
    )]
    Verify {
        /// The zone to verify; every zone when absent
        #[arg(long, value_name = "ZONE")]
        zone: Option<String>,
    },
}

/// Options of `migrate` and `init`.
#[derive(Debug, Args)]
pub(crate) struct MigrateArguments {
    /// A TOML file of settings; an environment variable of the same name in capitals wins
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// Options of `dev`.
#[derive(Debug, Args)]
pub(crate) struct DevArguments {
    /// Where keys, the private database and dev.env are kept
    #[arg(long, value_name = "DIR", default_value = "./.caracal")]
    pub(crate) data_dir: PathBuf,
    /// The first of seven consecutive ports, so that several instances can run
    #[arg(long, value_name = "PORT")]
    pub(crate) port_base: Option<u16>,
    /// A file to write once everything is ready (it holds the path of dev.env)
    #[arg(long, value_name = "FILE")]
    pub(crate) ready_file: Option<PathBuf>,
}

/// `caracal keys` and what is below it.
#[derive(Debug, Args)]
pub(crate) struct KeysArguments {
    /// Something else than printing fresh keys.
    #[command(subcommand)]
    pub(crate) command: Option<KeysCommand>,
}

/// What can be done with keys.
#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Seal every stored secret under `SECRET_STORE_KEK` (`DATABASE_URL`, `SECRET_STORE_KEK_PREVIOUS`; can be stopped and repeated)
    ///
    /// First give every STS and control plane the new key as `SECRET_STORE_KEK` and the old one as
    /// `SECRET_STORE_KEK_PREVIOUS`; then run this; then take the old one away. Values are not opened: only the key that
    /// each is sealed under is sealed again.
    #[command(
        after_help = "Example: DATABASE_URL=postgres://postgres@db/caracal SECRET_STORE_KEK=... SECRET_STORE_KEK_PREVIOUS=... caracal keys rewrap"
    )]
    Rewrap {
        /// Only count what is still sealed under another key; fails when there is any
        #[arg(long)]
        check: bool,
        /// Rows in one transaction
        #[arg(long, value_name = "ROWS", default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..=10_000))]
        batch: u16,
    },
}

/// What can be done with a mandate.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Print what a mandate says, without proving it
    #[command(after_help = "Example: caracal token inspect - < mandate.txt")]
    Inspect {
        /// The mandate, or - for standard input (an argument is visible to other users of the machine)
        mandate: String,
    },
}
