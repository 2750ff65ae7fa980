//! How do the roles run inside `caracal dev`? With the settings they would read as processes, in one runtime.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use caracal_bus::Bus;
use caracal_chassis::Clock;
use caracal_chassis::config::Source;
use caracal_chassis::http_client::{Client, ClientLimits};
use caracal_chassis::shutdown::Shutdown;
use caracal_migrations::Role as DatabaseRole;
use http::{HeaderMap, Method};
use tokio::task::JoinSet;

use super::START_DEADLINE;
use super::demo;
use super::ports::{Ports, loopback};
use super::state::{Home, Keys};
use super::stores::Stores;
use crate::bus::IN_PROCESS;
use crate::role::{self, Role};

/// The running roles.
#[derive(Debug)]
pub(crate) struct Roles {
    tasks: JoinSet<Result<()>>,
    ports: Ports,
}

impl Roles {
    /// Reads every role's settings, then starts them all.
    ///
    /// # Errors
    /// When a role refuses its settings.
    pub(crate) fn start(
        home: &Home,
        ports: Ports,
        keys: &Keys,
        stores: &Stores,
        shutdown: &Shutdown,
    ) -> Result<Self> {
        let settings = SettingsOf {
            home,
            ports,
            keys,
            stores,
        };
        let mut tasks = JoinSet::new();
        spawn::<role::Control>(&mut tasks, &settings.control()?, &stores.bus, shutdown)?;
        spawn::<role::Sts>(&mut tasks, &settings.sts()?, &stores.bus, shutdown)?;
        spawn::<role::Coordinator>(&mut tasks, &settings.coordinator()?, &stores.bus, shutdown)?;
        spawn::<role::Audit>(&mut tasks, &settings.audit()?, &stores.bus, shutdown)?;
        spawn::<role::Gateway>(&mut tasks, &settings.gateway(), &stores.bus, shutdown)?;
        Ok(Self { tasks, ports })
    }

    /// Waits until each named role says it is ready.
    ///
    /// # Errors
    /// When one does not come up in time; the text has its last word.
    pub(crate) async fn wait_until_up(&self, names: &[&str]) -> Result<()> {
        for name in names {
            let port = match *name {
                "control" => self.ports.control,
                "sts" => self.ports.sts,
                "coordinator" => self.ports.coordinator,
                "audit" => self.ports.audit,
                _ => self.ports.gateway_admin,
            };
            wait_ready(name, port).await?;
        }
        Ok(())
    }

    /// Waits until every role has ended.
    ///
    /// # Errors
    /// The first failure.
    pub(crate) async fn join(mut self) -> Result<()> {
        let mut outcome = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            let ended = ended.context("a role panicked").and_then(|ended| ended);
            outcome = outcome.and(ended);
        }
        outcome
    }
}

/// Starts one role; when it ends by itself, everything ends.
fn spawn<R: Role + 'static>(
    tasks: &mut JoinSet<Result<()>>,
    source: &Source,
    bus: &Arc<dyn Bus>,
    shutdown: &Shutdown,
) -> Result<()> {
    let (config, _logs) = role::read::<R>(source)?;
    let bus = Arc::clone(bus);
    let shutdown = shutdown.clone();
    let serve = R::run(config, bus, Clock::system(), shutdown.clone());
    tasks.spawn(Box::pin(async move {
        let outcome = serve.await.with_context(|| format!("the {} stopped", R::NAME));
        shutdown.trigger();
        outcome
    }));
    Ok(())
}

async fn wait_ready(name: &str, port: u16) -> Result<()> {
    let client = Client::new(ClientLimits {
        timeout: Duration::from_secs(2),
        ..ClientLimits::default()
    });
    let url = format!("http://{}/ready", loopback(port));
    let deadline = tokio::time::Instant::now() + START_DEADLINE;
    loop {
        let last = match client
            .request(Method::GET, &url, HeaderMap::new(), Vec::new())
            .await
        {
            Ok(response) if response.status.is_success() => return Ok(()),
            Ok(response) => String::from_utf8_lossy(&response.body).into_owned(),
            Err(error) => error.to_string(),
        };
        if tokio::time::Instant::now() > deadline {
            bail!("the {name} did not become ready within {START_DEADLINE:?}: {last}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The settings that each role would otherwise find in its environment.
struct SettingsOf<'a> {
    home: &'a Home,
    ports: Ports,
    keys: &'a Keys,
    stores: &'a Stores,
}

impl SettingsOf<'_> {
    fn common(&self, role: &str, port: u16) -> Vec<(String, String)> {
        let redis = if self.stores.redis_url.is_empty() {
            IN_PROCESS
        } else {
            &self.stores.redis_url
        };
        let spool = self.home.join("spool").join(role);
        pairs([
            ("CARACAL_MODE", "dev".to_owned()),
            ("HOST", "127.0.0.1".to_owned()),
            ("PORT", port.to_string()),
            ("REDIS_URL", redis.to_owned()),
            ("STREAMS_HMAC_KEY", self.keys.streams_hmac_key.clone()),
            ("AUDIT_HMAC_KEY", self.keys.audit_hmac_key.clone()),
            ("AUDIT_REPLAY_DIR", spool.to_string_lossy().into_owned()),
        ])
    }

    fn with_database(&self, role: DatabaseRole, name: &str, port: u16) -> Result<Vec<(String, String)>> {
        let mut all = self.common(name, port);
        all.extend(pairs([("DATABASE_URL", self.stores.role_url(role, self.keys)?)]));
        Ok(all)
    }

    fn url(port: u16) -> String {
        format!("http://{}", loopback(port))
    }

    fn control(&self) -> Result<Source> {
        let mut all = self.with_database(DatabaseRole::Api, "control", self.ports.control)?;
        all.extend(pairs([
            ("CARACAL_ADMIN_TOKEN", self.keys.admin_token.clone()),
            ("SECRET_STORE_KEK", self.keys.secret_store_kek.clone()),
            ("GATEWAY_STS_HMAC_KEY", self.keys.gateway_sts_hmac_key.clone()),
            ("STS_URL", Self::url(self.ports.sts)),
            ("CARACAL_GATEWAY_URL", Self::url(self.ports.gateway)),
            ("CARACAL_COORDINATOR_URL", Self::url(self.ports.coordinator)),
        ]));
        Ok(Source::from_pairs(all))
    }

    fn sts(&self) -> Result<Source> {
        let mut all = self.with_database(DatabaseRole::Sts, "sts", self.ports.sts)?;
        all.extend(pairs([
            ("ISSUER_URL", Self::url(self.ports.sts)),
            ("SECRET_STORE_KEK", self.keys.secret_store_kek.clone()),
            ("GATEWAY_STS_HMAC_KEY", self.keys.gateway_sts_hmac_key.clone()),
            ("MANDATE_MAC_KEY", self.keys.mandate_mac_key.clone()),
        ]));
        Ok(Source::from_pairs(all))
    }

    fn coordinator(&self) -> Result<Source> {
        let mut all = self.with_database(DatabaseRole::Coordinator, "coordinator", self.ports.coordinator)?;
        all.extend(pairs([
            ("STS_URL", Self::url(self.ports.sts)),
            ("ISSUER_URL", Self::url(self.ports.sts)),
            ("AGENT_COORDINATOR_SCOPE", "agent:lifecycle".to_owned()),
            ("CARACAL_COORDINATOR_TOKEN", self.keys.coordinator_token.clone()),
            ("IDEMPOTENCY_HMAC_KEY", self.keys.idempotency_hmac_key.clone()),
        ]));
        Ok(Source::from_pairs(all))
    }

    fn audit(&self) -> Result<Source> {
        let mut all = self.with_database(DatabaseRole::Audit, "audit", self.ports.audit)?;
        all.extend(pairs([("AUDIT_ADMIN_TOKEN", self.keys.admin_token.clone())]));
        Ok(Source::from_pairs(all))
    }

    fn gateway(&self) -> Source {
        let mut all = self.common("gateway", self.ports.gateway);
        all.extend(pairs([
            ("ADMIN_PORT", self.ports.gateway_admin.to_string()),
            ("STS_URL", Self::url(self.ports.sts)),
            ("ISSUER_URL", Self::url(self.ports.sts)),
            ("GATEWAY_STS_HMAC_KEY", self.keys.gateway_sts_hmac_key.clone()),
            ("MANDATE_MAC_KEY", self.keys.mandate_mac_key.clone()),
            ("CARACAL_GATEWAY_ROUTES", format!("/demo={}", demo::RESOURCE)),
        ]));
        Source::from_pairs(all)
    }
}

fn pairs<const N: usize>(pairs: [(&str, String); N]) -> Vec<(String, String)> {
    pairs
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}
