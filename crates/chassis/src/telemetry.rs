//! Where do the logs go, in which format, and from which level on?

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::Reader;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line, for machines.
    Json,
    /// One line of text, coloured on a terminal.
    Pretty,
    /// Text on a terminal, JSON otherwise.
    Auto,
}

/// What is logged and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `LOG_LEVEL`: debug, info, warn or error.
    pub level: String,
    /// `LOG_FORMAT`: json, pretty (or text) or auto.
    pub format: Format,
}

impl Settings {
    /// Reads `LOG_LEVEL` (default info) and `LOG_FORMAT` (default auto).
    pub fn read(reader: &mut Reader<'_>) -> Self {
        let levels = ["trace", "debug", "info", "warn", "error"].map(|level| (level, level));
        let level = reader.choice("LOG_LEVEL", "info", &levels).to_owned();
        let formats = [
            ("auto", Format::Auto),
            ("json", Format::Json),
            ("pretty", Format::Pretty),
        ];
        let format = reader.choice("LOG_FORMAT", Format::Auto, &formats);
        Self { level, format }
    }
}

/// Logging could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The level is not one.
    #[error("LOG_LEVEL is not a level")]
    Level(#[source] tracing_subscriber::filter::ParseError),
    /// Something else in this process receives the logs already.
    #[error("logging was started twice")]
    Started(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Sends the logs of this process to standard error. Call it once, in `main`.
///
/// # Errors
/// See [`TelemetryError`].
pub fn init(service: &str, level: &str, format: Format) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_new(level).map_err(TelemetryError::Level)?;
    let terminal = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(terminal);
    let json = format == Format::Json || (format == Format::Auto && !terminal);
    let started = if json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.try_init()
    };
    started.map_err(TelemetryError::Started)?;
    tracing::info!(service, "logging started");
    Ok(())
}
