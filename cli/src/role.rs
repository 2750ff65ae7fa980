//! How does one role become a process? The same steps for each: settings, logs, bus, run until told to stop.

use std::fmt::Display;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use caracal_bus::Bus;
use caracal_chassis::config::{Reader, Source};
use caracal_chassis::shutdown::Shutdown;
use caracal_chassis::{Clock, telemetry};

use crate::{bus, key_source};

/// One of the five roles, as the executable sees it.
pub(crate) trait Role {
    /// The subcommand and the name in logs.
    const NAME: &'static str;
    /// The role's checked settings.
    type Config: Send;

    /// Reads the settings; errors gather in the reader.
    fn read(reader: &mut Reader<'_>) -> Self::Config;
    /// The bus the settings name.
    fn redis_url(config: &Self::Config) -> &str;
    /// Serves until `shutdown`, and says on the log where it listens.
    fn run(
        config: Self::Config,
        bus: Arc<dyn Bus>,
        clock: Clock,
        shutdown: Shutdown,
    ) -> impl Future<Output = Result<()>> + Send;
}

macro_rules! role {
    ($name:ident, $text:literal, $library:ident) => {
        /// The role of the same name.
        #[derive(Debug)]
        pub(crate) struct $name;

        impl Role for $name {
            const NAME: &'static str = $text;
            type Config = $library::Config;

            fn read(reader: &mut Reader<'_>) -> Self::Config {
                $library::Config::read(reader)
            }

            fn redis_url(config: &Self::Config) -> &str {
                config.redis_url.expose()
            }

            async fn run(
                config: Self::Config,
                bus: Arc<dyn Bus>,
                clock: Clock,
                shutdown: Shutdown,
            ) -> Result<()> {
                let deps = $library::Deps { bus, clock };
                let listening =
                    |addresses: $library::Addresses| tracing::info!(role = $text, ?addresses, "listening");
                Ok($library::run(config, deps, listening, shutdown).await?)
            }
        }
    };
}

role!(Gateway, "gateway", caracal_gateway);
role!(Sts, "sts", caracal_sts);
role!(Control, "control", caracal_control);
role!(Coordinator, "coordinator", caracal_coordinator);
role!(Audit, "audit", caracal_audit);

/// Runs a role as this process.
///
/// # Errors
/// Every mistake in the settings at once; a store that cannot be reached; a failure while serving.
pub(crate) async fn run<R: Role>(config_file: Option<&Path>) -> Result<()> {
    let source = key_source::settings(config_file)
        .await
        .map_err(|error| settings_error(R::NAME, &error))?;
    let (config, logs) = read::<R>(&source)?;
    telemetry::init(R::NAME, &logs.settings.level, logs.settings.format)?;
    for warning in &logs.warnings {
        tracing::warn!("{warning}");
    }
    let bus = bus::connect(R::redis_url(&config))?;
    let shutdown = Shutdown::on_signals()?;
    R::run(config, bus, Clock::system(), shutdown).await
}

/// How a process logs.
#[derive(Debug)]
pub(crate) struct Logs {
    pub(crate) settings: telemetry::Settings,
    pub(crate) warnings: Vec<String>,
}

/// Reads a role's settings.
///
/// # Errors
/// Every mistake at once, each with its key and its mend.
pub(crate) fn read<R: Role>(source: &Source) -> Result<(R::Config, Logs)> {
    let mut reader = Reader::new(source);
    let settings = telemetry::Settings::read(&mut reader);
    let config = R::read(&mut reader);
    let warnings = reader.warnings().to_vec();
    reader
        .finish()
        .map_err(|errors| settings_error(R::NAME, &errors))?;
    Ok((config, Logs { settings, warnings }))
}

fn settings_error(role: &str, errors: &impl Display) -> anyhow::Error {
    anyhow!("{role} cannot start with these settings:\n{errors}")
}
