//! How is it noticed that the configuration file says something else now?

use std::time::Duration;

use caracal_chassis::config::{Reader, Source};

/// Where the settings came from, and how often to look there again.
#[derive(Clone, Debug)]
pub(crate) struct Reload {
    /// The settings of the start.
    pub(crate) source: Source,
    /// How often the file is read.
    pub(crate) every: Duration,
}

impl Reload {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        const SHORTEST: Duration = Duration::from_millis(10);
        const LONGEST: Duration = Duration::from_hours(24);
        Self {
            source: reader.source().clone(),
            every: reader.duration("RELOAD_INTERVAL", Duration::from_secs(1), SHORTEST..=LONGEST),
        }
    }
}
