//! From settings to a running service, and back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use caracal_bus::spool::{self, OpenError, Spool};
use caracal_bus::{Bus, CLOCK_SKEW_MAX, Publisher, Revocations, SingleUse, StreamKeys};
use caracal_chassis::Clock;
use caracal_chassis::health::{Health, MetricsAccess, Readiness};
use caracal_chassis::metrics::Registry;
use caracal_chassis::server::{self, Limits, ServeError};
use caracal_chassis::shutdown::Shutdown;
use caracal_chassis::tasks::{Tasks, TasksError};
use caracal_egress::{Client, SystemResolver, TrustError};
use caracal_oauth::TokenCaller;
use caracal_relay::RelaySettings;
use caracal_storage::schema_version::{self, SchemaMismatch};
use caracal_storage::{Database, PoolLimits, StorageError};
use caracal_token::dpop::nonce::Nonces;

use crate::approval::{self, Waiters};
use crate::config::Config;
use crate::exchange::client::home::Homes;
use crate::feed::{self, FeedError};
use crate::http;
use crate::issuer_keys::{Https, IssuerKeyCache};
use crate::key::MintedTokens;
use crate::limit::denial_budget::DenialBudget;
use crate::limit::evaluation::EvaluationPool;
use crate::limit::lockout::Lockout;
use crate::limit::mint_rate::MintRate;
use crate::limit::mint_rate::sharing::Sharing;
use crate::limit::nonce::NonceTable;
use crate::limit::secret_verification::SecretVerifier;
use crate::metrics::Metrics;
use crate::session_graph::SessionGraph;
use crate::state::Sts;
use crate::unique_id::unique_id;
use crate::upstream_credential::{self, UpstreamCredentials};
use crate::zone::ZoneCache;

/// Bytes of a request's headers: room for a bearer of 16 KiB, as long chains of delegations make them, a proof and a certificate.
const HEADER_BYTES_MAX: usize = 32 << 10;
/// How long background work may take to end after the last request.
const TASKS_DEADLINE: Duration = Duration::from_secs(10);
/// Longer than any token lives, so that a token is forgotten by digest only after it has expired.
const TOKEN_LIFE_MAX: Duration = Duration::from_mins(61);

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
    /// Everything: tokens, key sets, health and metrics.
    pub http: SocketAddr,
}

/// Why a service could not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No key encryption key was configured; the settings were used although reading them failed.
    #[error("SECRET_STORE_KEK is not set")]
    NoKek,
    /// The operating system gives no randomness.
    #[error("the operating system gives no randomness")]
    Randomness,
    /// The database cannot be reached.
    #[error("DATABASE_URL: cannot use the database")]
    Database(#[from] StorageError),
    /// The schema is not the one this version knows.
    #[error(transparent)]
    Schema(#[from] SchemaMismatch),
    /// The evidence spool cannot be opened.
    #[error("the evidence spool cannot be opened")]
    Spool(#[from] OpenError),
    /// The event streams or the revocations cannot be read.
    #[error("cannot learn what is revoked")]
    Feed(#[source] Box<dyn std::error::Error + Send + Sync>),
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

impl From<FeedError> for RunError {
    fn from(error: FeedError) -> Self {
        Self::Feed(Box::new(error))
    }
}

/// Runs a security token service until `shutdown`: binds, tells `listening` where, serves, drains.
///
/// It listens before it is fresh: until the event streams have proved that nothing is missing, exchanges are refused.
///
/// # Errors
/// [`RunError`].
pub async fn run(
    config: Config,
    deps: Deps,
    listening: impl FnOnce(Addresses),
    shutdown: Shutdown,
) -> Result<(), RunError> {
    let limits = PoolLimits {
        connections_max: config.database_connections_max,
        acquire_timeout: config.database_acquire_timeout,
        ..PoolLimits::default()
    };
    let database = Database::connect(config.database_url.expose(), "caracal-sts", &limits).await?;
    schema_version::check(&database).await?;
    let listener = server::bind(config.listen).await?;
    let address = listener.local_addr().unwrap_or(config.listen);
    let keys = StreamKeys::new(config.streams_key.clone(), config.streams_key_previous.clone());
    let jobs = Jobs {
        bus: Arc::clone(&deps.bus),
        keys: keys.clone(),
        audit_key: config.audit_key.clone(),
        zone_poll: config.zone_poll,
    };
    let access = config.metrics.clone();
    let registry = Registry::new();
    let sts = Arc::new(build(config, &deps, database.clone(), &registry)?);
    let cursor = feed::start(&sts, Arc::clone(&deps.bus), keys).await?;

    // Background work goes on while requests drain.
    let background = Shutdown::new();
    let tasks = Tasks::new(background.clone());
    tasks.spawn(
        "event feed",
        feed::follow(Arc::clone(&sts), cursor, background.clone()),
    );
    jobs.spawn(&tasks, &sts, &background);
    let readiness = readiness(&sts, Arc::clone(&deps.bus), shutdown.clone());
    let router = http::router(Arc::clone(&sts), health(&sts, readiness, registry, access));
    listening(Addresses { http: address });
    let served = tokio::select! {
        (served, ()) = async {
            let tokens = http::TokenEndpoint::new(Arc::clone(&sts));
            let serving = server::serve_direct(listener, tokens, router, http_limits(), shutdown.clone());
            tokio::join!(serving, end_waits(&sts, &shutdown))
        } => served,
        () = background.requested() => Ok(()),
    };
    background.trigger();
    let joined = tasks.join_all(TASKS_DEADLINE).await;
    drop(sts);
    database.close().await;
    served?;
    Ok(joined?)
}

/// Whoever waits for an approval is told to come again elsewhere, so that requests in progress can end.
async fn end_waits(sts: &Sts, shutdown: &Shutdown) {
    shutdown.requested().await;
    sts.waiters.close();
}

pub(crate) fn build(
    config: Config,
    deps: &Deps,
    database: Database,
    registry: &Registry,
) -> Result<Sts, RunError> {
    let clock = deps.clock.clone();
    let keyring = Arc::new(config.keyring.ok_or(RunError::NoKek)?);
    let (spool, recovery) = Spool::open(&config.spool_directory, config.spool_limits, config.spool_fsync)?;
    if recovery.pending_events > 0 || recovery.damaged_segments > 0 {
        tracing::info!(?recovery, "evidence of an earlier process waits to be published");
    }
    let metrics = Metrics::new(registry);
    metrics.started(recovery.pending_events, config.zone_poll);
    let zones = ZoneCache::new(
        database.clone(),
        Arc::clone(&keyring),
        clock.clone(),
        config.zone_outdated_max,
        metrics.loading(),
    );
    let client = Client::new(Arc::new(SystemResolver), &config.egress)?;
    let upstream_credentials = UpstreamCredentials::new(upstream_credential::Parts {
        caller: TokenCaller::new(client.clone()),
        clock: clock.clone(),
        database: database.clone(),
        keyring: Arc::clone(&keyring),
        ttl_max: config.provider_ttl_max,
        counters: metrics.upstream_credentials.clone(),
    });
    let proof_nonces = proof_nonces(config.gateway_key.as_ref())?;
    Ok(Sts {
        issuer: config.issuer,
        settings: config.settings,
        gateway_key: config.gateway_key,
        macs: config.macs,
        audit_key: config.audit_key,
        admin_token: config.admin_token,
        zones: Arc::new(zones),
        graph: SessionGraph::new(database.clone(), config.session_views_max, metrics.graph_timing()),
        revocations: Revocations::new(),
        secrets: SecretVerifier::new(config.secret_verifications),
        lockout: Lockout::of_secrets(),
        challenges: Lockout::of_challenges(),
        waiters: Waiters::new(config.approval_waiters_max),
        mint_rate: MintRate::new(),
        nonces: NonceTable::new(clock.unix_seconds(), config.nonces_max),
        denials: DenialBudget::new(config.denial_events_per_minute),
        single_use: SingleUse::new(Arc::clone(&deps.bus)),
        bus: Arc::clone(&deps.bus),
        proof_nonces,
        issuer_keys: IssuerKeyCache::new(Https(client), clock.clone()),
        minted: MintedTokens::new(config.minted_tokens_max, TOKEN_LIFE_MAX),
        spool,
        evaluations: EvaluationPool::new(
            config.policy_evaluations,
            config.policy_evaluations_waiting_max,
            clock.clone(),
        ),
        questions: EvaluationPool::new(
            // One zone never has all: with two there is one for the others.
            (config.policy_evaluations / 2).max(2),
            config.policy_evaluations_waiting_max,
            clock.clone(),
        ),
        homes: Homes::new(),
        replica: unique_id(clock.unix_millis()).map_err(|_unspecified| RunError::Randomness)?,
        metrics,
        upstream_credentials: Arc::new(upstream_credentials),
        clock,
        database,
        keyring,
    })
}

/// With the key that all replicas share; without one each believes its own nonces only.
fn proof_nonces(shared: Option<&caracal_bus::HmacKey>) -> Result<Nonces, RunError> {
    let mut own = [0; 32];
    aws_lc_rs::rand::fill(&mut own).map_err(|_unspecified| RunError::Randomness)?;
    Ok(Nonces::new(shared.map_or(&own[..], |key| key.expose())))
}

/// Work that goes on beside the requests.
struct Jobs {
    bus: Arc<dyn Bus>,
    keys: StreamKeys,
    audit_key: Option<caracal_bus::HmacKey>,
    zone_poll: Duration,
}

impl Jobs {
    fn spawn(self, tasks: &Tasks, sts: &Arc<Sts>, shutdown: &Shutdown) {
        let stop = || stop(shutdown.clone());
        tasks.spawn(
            "zone reloads",
            Arc::clone(&sts.zones).run_reloads(shutdown.clone()),
        );
        tasks.spawn(
            "zone polls",
            Arc::clone(&sts.zones).run_polls(self.zone_poll, shutdown.clone()),
        );
        tasks.spawn(
            "upstream credentials",
            Arc::clone(&sts.upstream_credentials).run(shutdown.clone()),
        );
        let evidence = spool::run_publisher(
            sts.spool.clone(),
            Arc::clone(&self.bus),
            self.audit_key,
            self.keys.clone(),
            stop(),
        );
        tasks.spawn("evidence publisher", evidence);
        let counts = share_mints(Arc::clone(sts), Arc::clone(&self.bus), self.keys.clone());
        let stopping = stop();
        tasks.spawn("mint counts", async {
            tokio::select! {
                () = counts => {}
                () = stopping => {}
            }
        });
        tasks.spawn(
            "approval decisions",
            approval::listen(Arc::clone(sts), shutdown.clone()),
        );
        tasks.spawn(
            "approval sweep",
            approval::sweep(Arc::clone(sts), shutdown.clone()),
        );
        let relay = RelaySettings {
            // This service's role may not delete outbox rows; those of control and coordinator do.
            prune_after: None,
            ..RelaySettings::named(format!("sts-{}", std::process::id()))
        };
        let publisher = Publisher::new(self.bus, self.keys);
        tasks.spawn(
            "outbox relay",
            caracal_relay::run(sts.database.clone(), publisher, relay, stop()),
        );
    }
}

/// Counts mints together with the other replicas.
async fn share_mints(sts: Arc<Sts>, bus: Arc<dyn Bus>, keys: StreamKeys) {
    let publisher = Publisher::new(bus, keys.clone());
    // Without randomness there is no key and no token either; a name that is not unique only loses counts.
    let replica = unique_id(sts.clock.unix_millis()).unwrap_or_default();
    Sharing::new(&sts.mint_rate, replica, sts.clock.clone(), publisher, keys)
        .run()
        .await;
}

/// The shutdown as a future, for parts that know no service.
async fn stop(shutdown: Shutdown) {
    shutdown.requested().await;
}

fn http_limits() -> Limits {
    Limits {
        header_bytes: HEADER_BYTES_MAX,
        body_bytes: 64 << 10,
        // Of those who wait for an approval; everything else has its own, shorter limit.
        request_timeout: Duration::from_secs(35),
        drain_timeout: Duration::from_secs(10),
        ..Limits::default()
    }
}

fn readiness(sts: &Arc<Sts>, bus: Arc<dyn Bus>, shutdown: Shutdown) -> Readiness {
    let database = sts.database.clone();
    let (spool, clock, fresh) = (Arc::clone(sts), Arc::clone(sts), Arc::clone(sts));
    Readiness::new()
        .until(shutdown)
        .add("postgres_unreachable", move || {
            let database = database.clone();
            async move { database.ping().await.is_ok() }
        })
        .add("redis_unreachable", move || {
            let bus = Arc::clone(&bus);
            // The second look also begins the memory of claims, before the first of them needs it.
            async move { bus.ping().await.is_ok() && bus.remembers_since().await.is_ok() }
        })
        .add("audit_replay_unavailable", move || {
            std::future::ready(spool.spool.stats().has_room())
        })
        .add("clock_skew", move || std::future::ready(!is_clock_behind(&clock)))
        .add("stream_consumers_not_ready", move || {
            std::future::ready(fresh.is_fresh())
        })
}

/// Whether the database's clock, by which the streams prove how complete they are, is far ahead of ours: nothing counts as
/// fresh then. (Far behind cannot be told from an outage.)
fn is_clock_behind(sts: &Sts) -> bool {
    let Some(as_of) = sts.revocations.freshness().as_of() else {
        return false;
    };
    let is_behind = as_of
        .duration_since(sts.clock.now())
        .is_ok_and(|ahead| ahead > CLOCK_SKEW_MAX);
    if is_behind {
        tracing::warn!(
            "the clock of this machine is more than a minute behind the database's; exchanges are refused"
        );
    }
    is_behind
}

/// Gauges are looked up when somebody reads them.
fn health(sts: &Arc<Sts>, readiness: Readiness, registry: Registry, access: MetricsAccess) -> Router {
    let (refreshed, described, counted) = (Arc::clone(sts), Arc::clone(sts), registry.clone());
    Health::new(readiness, registry, access)
        .refreshed_by(move || refreshed.metrics.refresh(&refreshed))
        .with_json(move || described.metrics.json(&counted))
        .router()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rig::Rig;

    #[tokio::test]
    async fn a_service_that_stops_says_that_it_drains() {
        let rig = Rig::new().await;
        let shutdown = Shutdown::new();
        let readiness = readiness(&rig.sts, Arc::clone(&rig.sts.bus), shutdown.clone());
        assert_ne!(readiness.evaluate().await, Err("draining"));
        shutdown.trigger();
        assert_eq!(readiness.evaluate().await, Err("draining"));
    }
}
