//! Where do the logs go, in which format, and from which level on? See `docs/operating/logging.md`.

mod line;
mod redact;

use std::io::{IsTerminal, Stderr};
use std::panic::PanicHookInfo;

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::Reader;

use line::Lines;

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
    /// `LOG_LEVEL`: trace, debug, info, warn or error.
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
            ("text", Format::Pretty),
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
    Started(#[source] tracing::subscriber::SetGlobalDefaultError),
}

/// Sends the logs of this process to standard error, panics included. Call it once, in `main`.
///
/// Every JSON line carries `service`. What looks like a token, a bearer, a private key or a password in a URL is
/// replaced before it is written: the types keep secrets out of logs, and this is the net below them.
///
/// # Errors
/// See [`TelemetryError`].
pub fn init(service: &str, level: &str, format: Format) -> Result<(), TelemetryError> {
    let terminal = std::io::stderr().is_terminal();
    let is_json = format == Format::Json || (format == Format::Auto && !terminal);
    let filter = EnvFilter::try_new(level).map_err(TelemetryError::Level)?;
    let subscriber = subscriber(
        service,
        filter,
        is_json,
        terminal,
        std::io::stderr as fn() -> Stderr,
    );
    tracing::subscriber::set_global_default(subscriber).map_err(TelemetryError::Started)?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

fn subscriber<W>(
    service: &str,
    filter: EnvFilter,
    is_json: bool,
    ansi: bool,
    out: W,
) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let lines = Lines::new(out, is_json.then_some(service));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(ansi && !is_json)
        .with_writer(lines);
    if is_json {
        Box::new(builder.json().flatten_event(true).finish())
    } else {
        Box::new(builder.finish())
    }
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let message = panic.payload_as_str().unwrap_or("no message");
    tracing::error!(panic.place = place, panic.message = message, "a thread panicked");
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use serde_json::Value;

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: &str, is_json: bool, work: impl FnOnce()) -> String {
        let memory = Memory::default();
        let writer = memory.clone();
        let filter = EnvFilter::new(level);
        let subscriber = subscriber("sts", filter, is_json, true, move || writer.clone());
        tracing::subscriber::with_default(subscriber, work);
        let bytes = memory.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_json_line_has_the_service_the_fields_and_the_span() {
        let text = logged("info", true, || {
            let span = tracing::info_span!("exchange", request.id = "req-1");
            let _entered = span.enter();
            tracing::info!(zone.id = "z1", count = 3, "minted");
        });
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["service"], "sts");
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["message"], "minted");
        assert_eq!((&line["zone.id"], &line["count"]), (&"z1".into(), &3.into()));
        assert_eq!(line["span"]["request.id"], "req-1");
        assert!(line["timestamp"].as_str().unwrap().ends_with('Z'), "{text}");
    }

    #[test]
    fn lines_below_the_level_are_not_written() {
        let text = logged("warn", true, || {
            tracing::info!("quiet");
            tracing::warn!("loud");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("loud"));
    }

    #[test]
    fn no_format_lets_a_token_through() {
        for is_json in [true, false] {
            let text = logged("info", is_json, || {
                tracing::error!(
                    error = "upstream said: Bearer eyJhbGciOi.eyJzdWIi.c2lnbmF0dXJl",
                    "failed"
                );
            });
            assert!(text.contains("failed") && text.contains("[redacted]"), "{text}");
            assert!(!text.contains("eyJ") && !text.contains("c2lnbmF0dXJl"), "{text}");
        }
    }

    #[test]
    fn the_settings_have_defaults_and_know_their_words() {
        let source = crate::config::Source::from_pairs([("LOG_LEVEL", "debug"), ("LOG_FORMAT", "json")]);
        let mut reader = Reader::new(&source);
        let settings = Settings::read(&mut reader);
        assert_eq!(
            (settings.level.as_str(), settings.format),
            ("debug", Format::Json)
        );
        reader.finish().unwrap();
        let source = crate::config::Source::from_pairs([("LOG_LEVEL", "loud")]);
        let mut reader = Reader::new(&source);
        Settings::read(&mut reader);
        assert!(
            reader
                .finish()
                .unwrap_err()
                .to_string()
                .starts_with("LOG_LEVEL: is \"loud\"")
        );
    }
}
