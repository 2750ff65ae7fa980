//! The audit service: takes signed events from the stream, links them into one hash chain for each zone, verifies and searches them.
//!
//! It owns `audit_events`, `audit_chain_heads` and `audit_ingest_alerts`, and never accepts an event without a valid signature.
//! An event leaves the stream only after its transaction has been committed, and a second delivery of it changes nothing. The rules of
//! the chain are in docs/contract/audit-events.md.

mod chain;
mod config;
mod http;
mod ingest;
mod metrics;
mod partitions;
pub mod verify;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use caracal_bus::Bus;
use caracal_bus::consumer::{GroupConsumer, Settings};
use caracal_bus::{GroupStart, StreamKeys};
use caracal_chassis::server::{self, Limits, ServeError};
use caracal_chassis::shutdown::Shutdown;
use caracal_chassis::tasks::{Tasks, TasksError};
use caracal_chassis::{Clock, metrics::Registry};
use caracal_storage::{Database, PoolLimits, StorageError, schema_version};
use caracal_wire::stream;

pub use config::Config;

use crate::http::State;
use crate::ingest::Ingest;
use crate::metrics::Metrics;

/// How long the tasks may take to end after shutdown was requested.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);
/// Most events taken at once. Each batch costs a transaction for each zone in it, whatever its size.
const BATCH: usize = 500;
/// How long events gather under load; the ledger is behind by this much at most while it keeps up.
const GATHER: Duration = Duration::from_millis(50);
/// Evidence is retried for ever: an outage of the database must not turn it into dead letters.
const DELIVERIES_MAX: u64 = u64::MAX;

/// What the service needs of its surroundings.
#[derive(Debug, Clone)]
pub struct Deps {
    /// The event bus.
    pub bus: Arc<dyn Bus>,
    /// The clock.
    pub clock: Clock,
}

/// Where the service listens.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// HTTP: health, metrics, search, verification.
    pub http: SocketAddr,
}

/// Why the service could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The database cannot be reached.
    #[error("DATABASE_URL: cannot use the database")]
    Database(#[from] StorageError),
    /// The schema is not the one this version knows.
    #[error(transparent)]
    Schema(#[from] schema_version::SchemaMismatch),
    /// The address is taken or not ours.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// A background task ended by itself.
    #[error(transparent)]
    Tasks(#[from] TasksError),
}

/// Runs the service until `shutdown`: binds, calls `listening` with the bound address, ingests and serves, drains.
///
/// # Errors
/// See [`RunError`].
pub async fn run(
    config: Config,
    deps: Deps,
    listening: impl FnOnce(Addresses),
    shutdown: Shutdown,
) -> Result<(), RunError> {
    let database = Database::connect(
        config.database_url.expose(),
        "caracal-audit",
        &PoolLimits::default(),
    )
    .await?;
    schema_version::check(&database).await?;
    let listener = server::bind(config.listen).await?;
    let address = listener.local_addr().unwrap_or(config.listen);
    let registry = Registry::new();
    let metrics = Metrics::new(&registry);
    let tasks = Tasks::new(shutdown.clone());
    tasks.spawn(
        "audit ingest",
        ingest(&config, &deps, &database, metrics, shutdown.clone()),
    );
    tasks.spawn(
        "ledger partitions",
        partitions::run(database.clone(), shutdown.clone()),
    );
    let router = http::router(State::new(
        &config,
        &deps,
        database.clone(),
        registry,
        shutdown.clone(),
    ));
    listening(Addresses { http: address });
    let served = server::serve(listener, router, Limits::default(), shutdown.clone()).await;
    shutdown.trigger();
    let joined = tasks.join_all(DRAIN_DEADLINE).await;
    database.close().await;
    served?;
    Ok(joined?)
}

/// The consumer that takes this replica's share of the stream.
fn ingest(
    config: &Config,
    deps: &Deps,
    database: &Database,
    metrics: Metrics,
    shutdown: Shutdown,
) -> impl Future<Output = ()> + Send + 'static {
    let settings = Settings {
        batch: BATCH,
        gather: GATHER,
        min_idle: config.claim_idle,
        deliveries_max: DELIVERIES_MAX,
        start: GroupStart::Beginning,
        signed: false,
        ..Settings::new(
            stream::AUDIT_EVENTS,
            stream::GROUP_AUDIT_INGESTOR,
            &config.consumer,
        )
    };
    let keys = StreamKeys::new(config.streams_key.clone(), None);
    let consumer = GroupConsumer::new(Arc::clone(&deps.bus), keys, settings);
    let handler = Ingest::new(
        database.clone(),
        config.audit_keys.clone(),
        deps.clock.clone(),
        metrics,
    );
    async move {
        consumer
            .run(handler, async move { shutdown.requested().await })
            .await;
    }
}
