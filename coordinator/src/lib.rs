//! The coordinator: starts and ends governed sessions, passes authority from one to another, and takes it back.
//!
//! It owns `sessions`, `agent_topology`, `delegation_edges`, the graph epoch and the receipts of idempotent operations. Every change, its
//! admin audit record, its revocation log entries and its announcements are one transaction. It never mints tokens and is not on the request
//! path: governed calls go on while it is away. Contract: docs/contract/sessions-and-delegations.md.

mod auth;
mod config;
mod delegation;
mod http;
mod idempotency;
mod job;
mod jwks;
mod record;
mod refusal;
mod session;
mod state;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use caracal_bus::{Bus, Publisher, StreamKeys};
use caracal_chassis::Clock;
use caracal_chassis::metrics::Registry;
use caracal_chassis::server::{self, Limits, ServeError};
use caracal_chassis::shutdown::Shutdown;
use caracal_chassis::tasks::{Tasks, TasksError};
use caracal_relay::RelaySettings;
use caracal_storage::{Database, PoolLimits, StorageError, schema_version};

pub use config::Config;

use crate::jwks::Announcements;
use crate::state::Coordinator;

/// How long the tasks may take to end after shutdown was requested.
const DRAIN_DEADLINE: Duration = Duration::from_secs(12);

/// Bytes of a request's headers: room for a bearer of 16 KiB, as long chains of delegations make them, and the rest.
const HEADER_BYTES_MAX: usize = 32 << 10;

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
    /// HTTP.
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

/// Runs the service until `shutdown`: binds, calls `listening` with the bound address, serves, drains.
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
        "caracal-coordinator",
        &PoolLimits::default(),
    )
    .await?;
    schema_version::check(&database).await?;
    if config.public_urls.is_empty() {
        tracing::warn!(
            "COORDINATOR_PUBLIC_URLS is empty: proofs of possession are compared with the host that each request asks for"
        );
    }
    let listener = server::bind(config.listen).await?;
    let address = listener.local_addr().unwrap_or(config.listen);
    let tasks = Tasks::new(shutdown.clone());
    let keys = StreamKeys::new(config.streams_key.clone(), config.streams_key_previous.clone());
    let announcements = Announcements::mark(Arc::clone(&deps.bus), keys.clone()).await;
    let publisher = Publisher::new(Arc::clone(&deps.bus), keys);
    let relay = RelaySettings::named("coordinator");
    tasks.spawn(
        "outbox relay",
        caracal_relay::run(database.clone(), publisher, relay, shutdown_of(&shutdown)),
    );
    let limits = Limits {
        header_bytes: HEADER_BYTES_MAX,
        body_bytes: config.body_bytes_max,
        ..Limits::default()
    };
    let coordinator = Arc::new(Coordinator::new(
        config,
        database.clone(),
        Arc::clone(&deps.bus),
        deps.clock,
    ));
    tasks.spawn(
        "session expiry",
        job::expire::run(Arc::clone(&coordinator), shutdown.clone()),
    );
    tasks.spawn(
        "key announcements",
        announcements.follow(Arc::clone(&coordinator.keys), shutdown.clone()),
    );
    let router = http::router(&coordinator, Registry::new(), shutdown.clone());
    listening(Addresses { http: address });
    let served = server::serve(listener, router, limits, shutdown.clone()).await;
    shutdown.trigger();
    let joined = tasks.join_all(DRAIN_DEADLINE).await;
    database.close().await;
    served?;
    Ok(joined?)
}

/// The shutdown as a future, for parts that know no service.
fn shutdown_of(shutdown: &Shutdown) -> impl Future<Output = ()> + Send + 'static {
    let shutdown = shutdown.clone();
    async move { shutdown.requested().await }
}
