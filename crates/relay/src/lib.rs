//! Moves committed outbox rows to the event streams and publishes watermarks.
//!
//! Control, the coordinator and the STS each run one; any single one is enough. Delivery is at least once: whoever reads
//! a stream treats a repeated `outbox_id` as the same message. The guarantees are in `docs/contract/database.md`.

use std::future::Future;
use std::time::Duration;

use caracal_bus::Publisher;
use caracal_storage::Database;
use tokio::sync::watch;

mod batch;
mod deliver;
mod prune;
mod stats;
mod wait;
mod watermark;

pub use stats::Stats;
pub use watermark::STREAMS;

/// How one relay works. Build it with [`RelaySettings::named`] and change what differs.
#[derive(Clone, Debug)]
pub struct RelaySettings {
    /// Names this relay in its watermarks and logs, e.g. `control-<host>-<pid>`.
    pub name: String,
    /// How often to look without having been woken; default 1 s. An insert wakes the relay at once.
    pub poll: Duration,
    /// Most rows of each table published together, 1-10000; default 256.
    pub batch: u16,
    /// How often to publish a watermark; default 250 ms. Well below the freshness bound of whoever reads it.
    pub watermark_every: Duration,
    /// Longest the server waits for a relay that holds rows and says nothing; default 5 s.
    pub patience: Duration,
    /// Longest pause before a refused message is tried again; default 60 s.
    pub retry_max: Duration,
    /// Refusals after which a message is set aside as dead; default 1000, which takes more than 16 hours. An
    /// unreachable bus is not a refusal and counts for nothing.
    pub attempts_max: i32,
    /// Delete published rows after this long; default 7 days. `None` for a role that may not delete them.
    pub prune_after: Option<Duration>,
    /// Where this relay counts.
    pub stats: Stats,
}

impl RelaySettings {
    /// The defaults, under this name.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            poll: Duration::from_secs(1),
            batch: 256,
            watermark_every: Duration::from_millis(250),
            patience: Duration::from_secs(5),
            retry_max: Duration::from_mins(1),
            attempts_max: 1_000,
            prune_after: Some(Duration::from_hours(7 * 24)),
            stats: Stats::default(),
        }
    }
}

/// Relays until `shutdown` resolves, then finishes the batch in hand and returns.
///
/// Survives outages of the database and of the bus: it backs off, says so once, and goes on where it was.
pub async fn run(
    database: Database,
    publisher: Publisher,
    settings: RelaySettings,
    shutdown: impl Future<Output = ()> + Send,
) {
    let (stop, stopped) = watch::channel(false);
    let stopping = async {
        shutdown.await;
        stop.send_replace(true);
    };
    tokio::join!(
        stopping,
        deliver::run(&database, &publisher, &settings, stopped.clone()),
        watermark::run(&database, &publisher, &settings, stopped.clone()),
        prune::run(&database, &settings, stopped),
    );
}
