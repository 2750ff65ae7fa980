//! From settings to a running service, and back.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use caracal_bus::{Bus, Publisher, StreamKeys};
use caracal_chassis::Clock;
use caracal_chassis::health::{MetricsAccess, Readiness};
use caracal_chassis::metrics::Registry;
use caracal_chassis::server::{self, Limits as ServerLimits, Peer, ServeError};
use caracal_chassis::shutdown::Shutdown;
use caracal_chassis::tasks::{Tasks, TasksError};
use caracal_egress::{Client, SystemResolver, TrustError};
use caracal_oauth::TokenCaller;
use caracal_relay::RelaySettings;
use caracal_storage::schema_version::{self, SchemaMismatch};
use caracal_storage::{Database, StorageError, outbox};

use crate::admin_token::{self, Authenticator};
use crate::attempt::{self, AttemptRecorder};
use crate::config::{Config, RelayConfig};
use crate::control::Control;
use crate::evaluation::EvaluationPool;
use crate::http::{self, Admission, Limits};
use crate::job;
use crate::metrics::Metrics;
use crate::rate_limit::RateLimit;
use crate::token_service::TokenService;

/// How long background work may take to end after the last request.
const TASKS_DEADLINE: Duration = Duration::from_secs(10);

/// What a service is given by whoever runs it.
#[derive(Clone, Debug)]
pub struct Deps {
    /// The event bus.
    pub bus: Arc<dyn Bus>,
    /// The clock.
    pub clock: Clock,
}

/// Where a service listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Everything: the admin API, health and metrics.
    pub http: SocketAddr,
}

/// Why a service could not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No key encryption key was configured; the settings were used although reading them failed.
    #[error("SECRET_STORE_KEK is not set")]
    NoKek,
    /// The database cannot be reached.
    #[error("DATABASE_URL: cannot use the database")]
    Database(#[from] StorageError),
    /// The schema is not the one this version knows.
    #[error(transparent)]
    Schema(#[from] SchemaMismatch),
    /// The address is taken or not ours.
    #[error(transparent)]
    Listen(#[from] ServeError),
    /// No client for providers can be made.
    #[error("CARACAL_TLS_EXTRA_CA_FILE: providers cannot be called")]
    Egress(#[from] TrustError),
    /// A background task ended by itself.
    #[error(transparent)]
    Tasks(#[from] TasksError),
}

/// Runs a control service until `shutdown`: checks the schema, seeds the tokens of the environment, binds, tells
/// `listening` where, serves, drains.
///
/// # Errors
/// [`RunError`].
pub async fn run(
    config: Config,
    deps: Deps,
    listening: impl FnOnce(Addresses),
    shutdown: Shutdown,
) -> Result<(), RunError> {
    let database = Database::connect(config.database_url.expose(), "caracal-control", &config.pool).await?;
    schema_version::check(&database).await?;
    if let Some(token) = &config.admin_token {
        admin_token::seed(&database, token).await?;
    }
    let listener = server::bind(config.listen).await?;
    let address = listener.local_addr().unwrap_or(config.listen);
    let registry = Registry::new();
    let metrics = Metrics::new(&registry);

    // Background work goes on while requests drain.
    let background = Shutdown::new();
    let tasks = Tasks::new(background.clone());
    let (recorder, journal) =
        attempt::recorder(database.clone(), deps.clock.clone(), config.audit_key.clone());
    tasks.spawn("refusal journal", journal.run(background.clone()));
    tasks.spawn(
        "outbox relay",
        relay(&config, &deps, &database, background.clone()),
    );
    tasks.spawn(
        "outbox watch",
        job::watch_outbox(database.clone(), metrics.clone(), background.clone()),
    );
    tasks.spawn(
        "authority sweep",
        job::sweep_authority(database.clone(), background.clone()),
    );

    let readiness = readiness(&config, &database, Arc::clone(&deps.bus), shutdown.clone());
    let health = health(&config, &deps.clock, readiness, registry, config.metrics.clone());
    let server_limits = server_limits(&config);
    let router = build(config, deps.clock, database.clone(), metrics, recorder)?.merge(health);
    listening(Addresses { http: address });
    let served = tokio::select! {
        served = server::serve(listener, router, server_limits, shutdown) => served,
        () = background.requested() => Ok(()),
    };
    background.trigger();
    let joined = tasks.join_all(TASKS_DEADLINE).await;
    database.close().await;
    served?;
    Ok(joined?)
}

fn build(
    config: Config,
    clock: Clock,
    database: Database,
    metrics: Metrics,
    recorder: AttemptRecorder,
) -> Result<Router, RunError> {
    let limit = |per_minute| RateLimit::new(per_minute, clock.clone());
    let admission = Admission {
        authenticator: Authenticator::new(database.clone(), config.last_used_debounce_seconds),
        database: database.clone(),
        clock: clock.clone(),
        account_key: config.admin_token,
        limits: Limits {
            address: limit(config.requests_per_minute),
            failures: limit(config.authentication_failures_per_minute),
            actor: limit(config.requests_per_minute),
        },
        trust_proxy: config.trust_proxy,
        recorder,
        metrics,
    };
    let token_service = TokenService::new(config.sts_urls, config.gateway_key, clock.clone());
    let control = Control {
        database,
        keyring: config.keyring.ok_or(RunError::NoKek)?,
        token_caller: TokenCaller::new(Client::new(Arc::new(SystemResolver), &config.egress)?),
        clock,
        audit_key: config.audit_key,
        audience: config.control_audience,
        resources_per_zone_max: config.resources_per_zone_max,
        token_service,
        hashing: Control::hashing(),
        evaluations: EvaluationPool::new(),
    };
    Ok(http::router(Arc::new(control), admission))
}

fn relay(
    config: &Config,
    deps: &Deps,
    database: &Database,
    shutdown: Shutdown,
) -> impl Future<Output = ()> + Send + 'static {
    let RelayConfig {
        name,
        poll,
        batch,
        attempts_max,
    } = &config.relay;
    let name = name
        .clone()
        .unwrap_or_else(|| format!("control-{}", std::process::id()));
    let settings = RelaySettings {
        poll: *poll,
        batch: *batch,
        attempts_max: *attempts_max,
        ..RelaySettings::named(name)
    };
    let keys = StreamKeys::new(config.streams_key.clone(), config.streams_key_previous.clone());
    let publisher = Publisher::new(Arc::clone(&deps.bus), keys);
    caracal_relay::run(database.clone(), publisher, settings, async move {
        shutdown.requested().await;
    })
}

fn readiness(config: &Config, database: &Database, bus: Arc<dyn Bus>, shutdown: Shutdown) -> Readiness {
    let dead_max = config.dead_messages_max;
    let (asked, backlog) = (database.clone(), database.clone());
    Readiness::new()
        .add("postgres_unreachable", move || {
            let database = asked.clone();
            async move { database.ping().await.is_ok() }
        })
        .add("redis_unreachable", move || {
            let bus = Arc::clone(&bus);
            async move { bus.ping().await.is_ok() }
        })
        .add("outbox_dead_messages", move || {
            let database = backlog.clone();
            async move { dead_messages(&database).await.is_ok_and(|dead| dead <= dead_max) }
        })
        .until(shutdown)
}

async fn dead_messages(database: &Database) -> Result<i64, StorageError> {
    let mut tx = database.read().await?;
    Ok(outbox::backlog(&mut tx).await?.dead)
}

/// The usual routes. A check costs statements, so one address gets only so many.
fn health(
    config: &Config,
    clock: &Clock,
    readiness: Readiness,
    registry: Registry,
    access: MetricsAccess,
) -> Router {
    let limit = Arc::new(RateLimit::new(config.readiness_checks_per_minute, clock.clone()));
    caracal_chassis::health::router(readiness, registry, access)
        .layer(from_fn_with_state((limit, config.trust_proxy), limit_readiness))
}

async fn limit_readiness(
    State((limit, trust_proxy)): State<(Arc<RateLimit>, bool)>,
    request: Request,
    next: Next,
) -> Response {
    if request.uri().path() == "/ready" {
        let peer = request.extensions().get::<Peer>().copied().unwrap_or(Peer::Local);
        let address = peer.client_ip(request.headers(), trust_proxy);
        if !limit.take(&address.map_or_else(String::new, |address| address.to_string())) {
            let body = axum::Json(serde_json::json!({ "error": "rate_limited" }));
            return (::http::StatusCode::TOO_MANY_REQUESTS, body).into_response();
        }
    }
    next.run(request).await
}

fn server_limits(config: &Config) -> ServerLimits {
    ServerLimits {
        body_bytes: usize::try_from(config.body_bytes).unwrap_or(1 << 20),
        request_timeout: config.request_timeout,
        idle_timeout: config.idle_timeout,
        drain_timeout: config.drain_timeout,
        ..ServerLimits::default()
    }
}
