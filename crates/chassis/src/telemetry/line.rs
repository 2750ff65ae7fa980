//! What happens to a finished log line before it is written?

use std::io::{self, Write};

use serde_json::Value;
use tracing_subscriber::fmt::MakeWriter;

use super::redact::redact;

/// Writes whole lines: without secrets, and with the name of the service when they are JSON.
pub(super) struct Lines<W> {
    out: W,
    /// `"service":"...",`, for JSON lines.
    service: Option<String>,
}

impl<W> Lines<W> {
    pub(super) fn new(out: W, service: Option<&str>) -> Self {
        let service = service.map(|name| format!("\"service\":{},", Value::from(name)));
        Self { out, service }
    }
}

impl<'w, W: MakeWriter<'w>> MakeWriter<'w> for Lines<W> {
    type Writer = Line<'w, W::Writer>;

    fn make_writer(&'w self) -> Self::Writer {
        Line {
            out: self.out.make_writer(),
            service: self.service.as_deref(),
        }
    }
}

/// One line on its way. The formatter hands each line over in one piece.
pub(super) struct Line<'w, W> {
    out: W,
    service: Option<&'w str>,
}

impl<W: Write> Write for Line<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let text = redact(&text);
        let line = match (self.service, text.strip_prefix('{')) {
            (Some(service), Some(members)) => format!("{{{service}{members}"),
            _ => text.into_owned(),
        };
        // In one call, so that lines of several threads do not mix.
        self.out.write_all(line.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
