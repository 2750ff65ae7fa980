//! Who asks upstreams whether they are well, and how often? One task for each health check of the route table in force; a check
//! that the next table does not have ends with its table.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use caracal_chassis::shutdown::Shutdown;
use caracal_egress::Target;
use futures_util::future::join_all;
use http::Version;
use http::header::{ACCEPT, HOST, USER_AGENT};
use pingora_core::connectors::ConnectorOptions;
use pingora_core::connectors::http::v2::Connector;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::server::configuration::ServerConf;
use pingora_error::Error;
use pingora_http::RequestHeader;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::check::{Change, Check};
use crate::Gateway;
use crate::stage::forward;

/// Connections for health checks at a time, in the whole process.
const PROBES_MAX: usize = 64;

/// Makes the connections of health checks: fresh ones, by the rules of requests.
pub(crate) struct Prober {
    connector: Connector,
    places: Semaphore,
}

impl Prober {
    /// One that trusts whom `settings` trust.
    pub(crate) fn new(settings: &ServerConf) -> Self {
        Self {
            connector: Connector::new(Some(ConnectorOptions::from_server_conf(settings))),
            places: Semaphore::new(PROBES_MAX),
        }
    }
}

impl fmt::Debug for Prober {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Prober").finish_non_exhaustive()
    }
}

/// Why an address is not well.
#[derive(Debug, thiserror::Error)]
enum Unwell {
    #[error("it gave no answer within {0:?}")]
    Silent(Duration),
    #[error("it answered with status {0}")]
    Status(u16),
    #[error("it gave no answer")]
    Unreachable(#[from] Box<Error>),
}

/// Runs the checks of the route table in force until the shutdown.
pub(crate) async fn run(gateway: Arc<Gateway>, prober: Prober, shutdown: Shutdown) {
    let prober = Arc::new(prober);
    // Everything that still runs ends when this is dropped.
    let mut tasks = JoinSet::new();
    // By where the check is in memory: its task keeps it there.
    let mut running: HashMap<usize, AbortHandle> = HashMap::new();
    loop {
        let table = gateway.routes.load_full();
        let in_force: HashMap<_, _> = table
            .checks()
            .values()
            .map(|check| (Arc::as_ptr(check).addr(), check))
            .collect();
        running.retain(|check, task| {
            let stays = in_force.contains_key(check);
            if !stays {
                task.abort();
            }
            stays
        });
        for (id, check) in in_force {
            running.entry(id).or_insert_with(|| {
                let follow = follow(Arc::clone(&gateway), Arc::clone(&prober), Arc::clone(check));
                tasks.spawn(follow)
            });
        }
        drop(table);
        tokio::select! {
            () = shutdown.requested() => return,
            () = gateway.table_changed.notified() => {}
        }
        while tasks.try_join_next().is_some() {}
    }
}

/// Checks again and again.
async fn follow(gateway: Arc<Gateway>, prober: Arc<Prober>, check: Arc<Check>) {
    let mut ticks = interval(check.rule().every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        round(&gateway, &prober, &check).await;
    }
}

/// Checks every address once.
async fn round(gateway: &Gateway, prober: &Prober, check: &Check) {
    let upstream = check.origin().authority();
    let target = match gateway.egress.resolve(check.origin()).await {
        Ok(target) => target,
        Err(error) => {
            if check.lost() {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(upstream, error, "the upstream is not addressable");
            }
            return;
        }
    };
    if check.found(target.addresses()) {
        tracing::info!(upstream, "the upstream is addressable again");
    }
    let addresses = target.addresses().iter();
    let probes = addresses.map(async |address| {
        let outcome = probe(gateway, prober, check, &target, *address).await;
        let result = if outcome.is_ok() { "ok" } else { "failed" };
        gateway.metrics.health_checks.with_label_values(&[result]).inc();
        let change = check.note(*address, outcome.is_ok());
        match (change, outcome) {
            (Some(Change::FellIll), Err(reason)) => {
                let reason = &reason as &dyn std::error::Error;
                tracing::warn!(
                    upstream, %address, reason,
                    "an address of the upstream fails its health check and is left alone"
                );
            }
            (Some(Change::Recovered), _) => {
                tracing::info!(upstream, %address, "an address of the upstream is well again");
            }
            (_, Err(reason)) => tracing::debug!(upstream, %address, %reason, "a health check failed"),
            (_, Ok(())) => {}
        }
    });
    join_all(probes).await;
}

/// Asks one address, over a connection of its own.
async fn probe(
    gateway: &Gateway,
    prober: &Prober,
    check: &Check,
    target: &Target,
    address: SocketAddr,
) -> Result<(), Unwell> {
    // Never closed.
    let _place = prober.places.acquire().await;
    let limit = check.rule().timeout;
    let asked = timeout(limit, ask(gateway, prober, check, target, address));
    let status = asked.await.map_err(|_elapsed| Unwell::Silent(limit))??;
    if (200..400).contains(&status) {
        Ok(())
    } else {
        Err(Unwell::Status(status))
    }
}

/// The status of the answer. What follows the head is not read: the connection ends here.
async fn ask(
    gateway: &Gateway,
    prober: &Prober,
    check: &Check,
    target: &Target,
    address: SocketAddr,
) -> Result<u16, Box<Error>> {
    let mut head = RequestHeader::build("GET", check.rule().path.as_bytes(), Some(3))?;
    head.insert_header(HOST, target.authority())?;
    head.insert_header(USER_AGENT, "caracal-gateway-health")?;
    head.insert_header(ACCEPT, "*/*")?;
    let mut peer = forward::peer_at(gateway, &gateway.config.timeouts, &head, target, address);
    // A connection with room for more would be kept for the next check, which is to make its own.
    peer.options.max_h2_streams = 1;
    let mut session: HttpSession = prober.connector.new_http_session(&peer).await?;
    if session.as_http2().is_some() {
        address_in_uri(&mut head, target);
    }
    session.write_request_header(Box::new(head)).await?;
    session.finish_request_body().await?;
    session.read_response_header().await?;
    let status = session.response_header().map(|head| head.status.as_u16());
    session.shutdown().await;
    Ok(status.unwrap_or_default())
}

/// In HTTP/2, scheme and authority take the place of `Host` (RFC 9113 section 8.3.1).
fn address_in_uri(head: &mut RequestHeader, target: &Target) {
    let scheme = if target.is_tls() { "https" } else { "http" };
    let mut parts = head.uri.clone().into_parts();
    parts.scheme = scheme.parse().ok();
    parts.authority = target.authority().parse().ok();
    if let Ok(uri) = http::Uri::from_parts(parts) {
        head.set_uri(uri);
    }
    head.remove_header(&HOST);
    head.set_version(Version::HTTP_2);
}
