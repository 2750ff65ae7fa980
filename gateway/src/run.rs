//! How does a gateway start, run and stop?

mod bind;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use caracal_bus::spool::{Fsync, OpenError, Spool, SpoolLimits, run_publisher};
use caracal_bus::{Bus, HmacKey, StreamKeys};
use caracal_chassis::Clock;
use caracal_chassis::health::Readiness;
use caracal_chassis::server::{self, Limits, ServeError};
use caracal_chassis::shutdown::Shutdown;
use caracal_chassis::tasks::{Tasks, TasksError};
use caracal_egress::{DnsServer, Guard, Resolve, SystemResolver};
use caracal_token::MandateMacKey;
use caracal_wire::answer_mac::AnswerMacKey;
use caracal_wire::channel::ChannelKey;
use pingora_core::server::configuration::ServerConf;
use pingora_proxy::http_proxy;
use tokio::sync::Notify;

use crate::acme::Acme;
use crate::config::Config;
use crate::listener::{Server, protocols};
use crate::metrics::Metrics;
use crate::proxy::Proxy;
use crate::snapshot::keys::ZoneKeys;
use crate::snapshot::operations::ZoneOperations;
use crate::snapshot::reload::Follower;
use crate::snapshot::revocations::RevocationState;
use crate::snapshot::routes::Routes;
use crate::snapshot::skew::ClockSkew;
use crate::source::Places;
use crate::stage::audit::{Evidence, SUMMARY_EVERY};
use crate::stage::exchange::KnownAnswers;
use crate::stage::forward::ATTEMPTS_MAX;
use crate::stage::replay::{self, BurnedTable, GiveBacks};
use crate::sts_client::StsClient;
use crate::tls::Tls;
use crate::trust::{TrustError, TrustFile};
use crate::upgrade::{self, UpgradeError};
use crate::upstream::{Identity, Outliers, Prober, run_probes};
use crate::{Gateway, admin};
use bind::Bound;

/// How often the address of the STS is looked up again.
const LOCATE_EVERY: Duration = Duration::from_secs(10);
/// How often gauges are read and expired entries forgotten.
const HOUSEKEEPING_EVERY: Duration = Duration::from_secs(1);
/// Between two looks at whether this gateway is ready to take over.
const READY_CHECK: Duration = Duration::from_millis(50);
/// How long it may take to become ready; the running one waits a little longer.
const READY_WITHIN: Duration = Duration::from_secs(50);
/// How long background tasks may take to end after the last request.
const TASKS_MAX: Duration = Duration::from_secs(5);

/// What a gateway is given by whoever runs it.
#[derive(Clone, Debug)]
pub struct Deps {
    /// The event bus.
    pub bus: Arc<dyn Bus>,
    /// The clock.
    pub clock: Clock,
}

/// Where a gateway listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Requests of agents.
    pub main: SocketAddr,
    /// The same in clear, beside a port that speaks TLS (`HTTP_PORT`).
    pub plain: Option<SocketAddr>,
    /// Health, metrics and reload.
    pub admin: SocketAddr,
}

/// Why a gateway could not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An address is taken or not ours.
    #[error(transparent)]
    Listen(#[from] ServeError),
    /// The running gateway cannot be taken over from.
    #[error(transparent)]
    Upgrade(#[from] UpgradeError),
    /// The evidence spool cannot be opened.
    #[error("the evidence spool cannot be opened")]
    Spool(#[from] OpenError),
    /// `STS_URL` cannot be used.
    #[error("the STS cannot be addressed")]
    Sts(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A certificate or key of the listener, or the authorities of its clients, cannot be used.
    #[error("the certificates of the listener cannot be used")]
    Tls {
        /// What is wrong with them.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Certificates cannot be obtained by ACME.
    #[error("certificates cannot be obtained")]
    Acme(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The certificate for upstreams cannot be used.
    #[error("UPSTREAM_CLIENT_CERT_FILE and UPSTREAM_CLIENT_KEY_FILE cannot be used")]
    UpstreamCertificate(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The extra certificate authorities cannot be used.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// A background task ended by itself.
    #[error(transparent)]
    Tasks(#[from] TasksError),
}

/// Runs a gateway until `shutdown`: binds, tells `listening` where, serves, drains.
///
/// It listens before it is ready: until revocations are loaded every request is refused and `/ready` says why.
///
/// # Errors
/// [`RunError`].
pub async fn run(
    config: Config,
    deps: Deps,
    listening: impl FnOnce(Addresses),
    shutdown: Shutdown,
) -> Result<(), RunError> {
    install_crypto();
    let trust_file = config
        .extra_ca_file
        .as_deref()
        .map(TrustFile::combine)
        .transpose()?;
    let ca_file = trust_file.as_ref().map(TrustFile::path);
    if config.public_urls.is_empty() {
        tracing::warn!(
            "GATEWAY_PUBLIC_URLS is empty: proofs of possession are compared with the host that each request asks for"
        );
    }
    let gateway = Arc::new(build(config, deps, ca_file.clone())?);
    let mut bound = Bound::take(&gateway.config).await?;
    let addresses = bound.addresses()?;
    let readiness = admin::readiness(&gateway, shutdown.clone());
    let proxy = Proxy::new(Arc::clone(&gateway), readiness.clone());
    let settings = pingora_settings(&gateway.config, ca_file);
    let prober = Prober::new(&settings);
    let front = Server::new(http_proxy(&settings, proxy), Arc::clone(&gateway));
    drop(trust_file);

    gateway.sts.locate().await;
    // Background work goes on while requests drain.
    let background = Shutdown::new();
    let tasks = Tasks::new(background.clone());
    spawn_background(&tasks, &gateway, &background);
    let probes = run_probes(Arc::clone(&gateway), prober, background.clone());
    tasks.spawn("health-checks", probes);
    if let Some(predecessor) = bound.predecessor.take() {
        until_ready(&readiness, &shutdown).await?;
        let relieved = tokio::task::spawn_blocking(move || predecessor.relieve()).await;
        if let Ok(Err(error)) = relieved {
            // It is gone, or slow to answer; these listeners are to be served in any case.
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the running gateway did not say that it stops"
            );
        }
    }
    // What a next process takes over from this one.
    let relieved = background.child();
    if let Some(upgrade) = &gateway.config.upgrade {
        let (socket, listeners) = (upgrade.socket.clone(), bound.to_hand_over()?);
        let (relieved, stop, closes) = (relieved.clone(), background.clone(), shutdown.clone());
        tasks.spawn("upgrade", async move {
            if let Err(error) = upgrade::offer(&socket, listeners, relieved, closes).await {
                tracing::error!(%error, "no process can take over from this one");
            }
            stop.requested().await;
        });
    }
    let (doors, admin) = bound.into_doors();
    let routes = admin::router(&gateway, readiness);
    let (admin_until, stop) = (relieved.clone(), background.clone());
    tasks.spawn("admin", async move {
        let served = server::serve(admin, routes, Limits::default(), admin_until).await;
        if served.is_ok() {
            stop.requested().await;
        }
        served
    });
    listening(addresses);
    tokio::select! {
        () = front.serve(doors, shutdown, relieved) => {}
        () = background.requested() => {}
    }
    background.trigger();
    tasks.join_all(TASKS_MAX).await?;
    Ok(())
}

/// AWS-LC for all TLS of the process, before anything asks for a provider: Pingora would choose another.
fn install_crypto() {
    // Another service in this process may have done the same.
    let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

fn build(mut config: Config, deps: Deps, ca_file: Option<String>) -> Result<Gateway, RunError> {
    let Deps { bus, clock } = deps;
    let sts = StsClient::new(
        &config.sts_urls,
        config.sts_key.clone(),
        config.sts_timeout,
        ca_file,
        clock.clone(),
    );
    let sts = sts.map_err(|error| RunError::Sts(Box::new(error)))?;
    let mac_key = config.mac_key.as_ref().map(HmacKey::expose);
    let mandate_mac = mac_key.map(MandateMacKey::derive);
    let sts = sts.with_answer_mac(mac_key.map(AnswerMacKey::derive));
    let sts = Arc::new(sts.with_channels(mac_key.map(ChannelKey::derive)));
    let keys = Arc::new(ZoneKeys::new(Arc::clone(&sts), clock.clone()));
    let revocations = RevocationState::new(
        Arc::clone(&sts),
        Arc::clone(&keys),
        config.revocation_freshness,
        clock.clone(),
    );
    let resolver: Arc<dyn Resolve> = match config.dns_server {
        Some(server) => Arc::new(DnsServer(server)),
        None => Arc::new(SystemResolver),
    };
    let acme = config
        .tls
        .as_ref()
        .and_then(|tls| tls.acme.as_ref())
        .map(|settings| {
            Acme::new(
                settings,
                Arc::clone(&sts),
                config.sts_key.as_ref(),
                config.extra_ca_file.clone(),
                Arc::clone(&resolver),
                clock.clone(),
            )
        });
    let acme = acme
        .transpose()
        .map_err(|error| RunError::Acme(Box::new(error)))?;
    let tls = config.tls.as_ref().map(|settings| {
        let challenges = acme.as_ref().map(|acme| Arc::clone(acme.challenges()));
        Tls::new(settings, protocols(&config.doors), challenges)
    });
    let tls = tls.transpose().map_err(|error| RunError::Tls {
        source: Box::new(error),
    })?;
    let identity = config.upstreams.identity.as_ref().map(Identity::open).transpose();
    let egress = Guard::of_upstreams(resolver, &config.upstream_hosts, config.dns_cache_for);
    let limits = spool_limits(&config);
    let fsync = if config.audit_fsync {
        Fsync::Always
    } else {
        Fsync::Never
    };
    let (spool, recovery) = match config.upgrade {
        None => Spool::open(&config.audit_dir, limits, fsync)?,
        Some(_) => upgrade::open_free(&config.audit_dir, limits, fsync)?,
    };
    if recovery.pending_events > 0 {
        tracing::info!(
            events = recovery.pending_events,
            "evidence of an earlier process waits to be published"
        );
    }
    Ok(Gateway {
        remembers_since_unix_s: config.is_alone().then(|| clock.unix_seconds()),
        evidence: Evidence::new(spool, clock.clone()),
        operations: Arc::new(ZoneOperations::new(Arc::clone(&sts))),
        revocations: Arc::new(revocations),
        answers: KnownAnswers::default(),
        burned: BurnedTable::default(),
        give_backs: GiveBacks::default(),
        in_progress: Places::new(config.doors.requests_of_source_max),
        skew: ClockSkew::default(),
        metrics: Metrics::new(),
        table_changed: Notify::new(),
        routes: ArcSwap::from_pointee(Routes::new(std::mem::take(&mut config.routes), None)),
        outliers: Outliers::new(config.upstreams.ejection),
        identity: identity.map_err(|error| RunError::UpstreamCertificate(Box::new(error)))?,
        config,
        clock,
        bus,
        sts,
        keys,
        mandate_mac,
        tls: tls.map(Arc::new),
        acme: acme.map(Arc::new),
        egress,
    })
}

/// A small spool has small segments.
fn spool_limits(config: &Config) -> SpoolLimits {
    let usual = SpoolLimits::default();
    let total_bytes = config.audit_bytes_max;
    SpoolLimits {
        total_bytes,
        segment_bytes: usual.segment_bytes.min(total_bytes / 4).max(4_096),
    }
}

fn pingora_settings(config: &Config, ca_file: Option<String>) -> Arc<ServerConf> {
    Arc::new(ServerConf {
        ca_file,
        max_retries: ATTEMPTS_MAX,
        threads: 1,
        upstream_keepalive_pool_size: config.upstream_connections_kept,
        ..ServerConf::default()
    })
}

/// Waits until requests can be decided here.
async fn until_ready(readiness: &Readiness, shutdown: &Shutdown) -> Result<(), UpgradeError> {
    let ready = async {
        while let Err(reason) = readiness.evaluate().await {
            tracing::debug!(reason, "not ready to take over");
            tokio::time::sleep(READY_CHECK).await;
        }
    };
    tokio::select! {
        waited = tokio::time::timeout(READY_WITHIN, ready) => waited.map_err(|_elapsed| UpgradeError::NotReady),
        () = shutdown.requested() => Err(UpgradeError::NotReady),
    }
}

fn spawn_background(tasks: &Tasks, gateway: &Arc<Gateway>, background: &Shutdown) {
    let stream_keys = StreamKeys::new(
        gateway.config.stream_key.clone(),
        gateway.config.stream_key_previous.clone(),
    );
    let follow = Arc::clone(&gateway.revocations).follow(
        Arc::clone(&gateway.bus),
        stream_keys.clone(),
        background.clone(),
    );
    tasks.spawn("revocations", follow);
    let (spool, bus) = (gateway.evidence.spool().clone(), Arc::clone(&gateway.bus));
    let (audit_key, stop) = (gateway.config.audit_key.clone(), background.clone());
    let left_behind = upgrade::adopt_left_behind(
        gateway.config.audit_dir.clone(),
        spool_limits(&gateway.config),
        Arc::clone(&bus),
        audit_key.clone(),
        stream_keys.clone(),
        stop.clone(),
    );
    tasks.spawn("evidence-left-behind", left_behind);
    tasks.spawn("evidence", async move {
        run_publisher(spool, bus, audit_key, stream_keys, stop.requested()).await;
    });
    if let Some(follower) = Follower::of(gateway) {
        tasks.spawn("reload", follower.run(background.clone()));
    }
    if let Some(tls) = &gateway.tls {
        tasks.spawn("certificates", Arc::clone(tls).follow(background.clone()));
        if let Some(acme) = &gateway.acme {
            let follow = Arc::clone(acme).follow(Arc::clone(tls), background.clone());
            tasks.spawn("acme", follow);
        }
    }
    let (this, stop) = (Arc::clone(gateway), background.clone());
    tasks.spawn("locate-sts", async move {
        while pause(LOCATE_EVERY, &stop).await {
            this.sts.locate().await;
        }
    });
    let (this, stop) = (Arc::clone(gateway), background.clone());
    tasks.spawn("housekeeping", async move {
        while pause(HOUSEKEEPING_EVERY, &stop).await {
            this.burned.prune(this.clock.unix_seconds());
            this.answers.prune();
        }
    });
    let give_backs = replay::work_off(Arc::clone(gateway), background.clone());
    tasks.spawn("give-backs", give_backs);
    let (this, stop) = (Arc::clone(gateway), background.clone());
    tasks.spawn("denial-summaries", async move {
        while pause(SUMMARY_EVERY, &stop).await {
            this.evidence.summarise().await;
        }
    });
}

/// Waits for `period`; false when it is time to stop.
async fn pause(period: Duration, stop: &Shutdown) -> bool {
    tokio::select! {
        () = stop.requested() => false,
        () = tokio::time::sleep(period) => true,
    }
}
