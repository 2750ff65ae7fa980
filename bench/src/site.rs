//! Where governed requests are measured: a world with one agent, and a service behind the gateway that costs next to nothing.

use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use caracal_testing::{Process, ProcessSpec, StackOptions, free_port};
use caracal_wire::form;
use caracal_wire::sts::{TOKEN_EXCHANGE_GRANT, field};
use http::Request;
use http_body_util::Full;

use crate::load::{Connections, Until};
use crate::process::{self, Processors};
use crate::report::progress;
use crate::world::{Agent, READ, RESOURCE, World};

/// Connections of a closed loop.
pub(crate) const CONNECTIONS: usize = 64;
/// Longest wait for quiet.
const PATIENCE: Duration = Duration::from_mins(1);

/// The stores that `./x bench` has started.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Stores {
    /// Process id of PostgreSQL.
    #[arg(long, env = "CARACAL_BENCH_POSTGRES_PID", hide = true)]
    pub(crate) postgres: Option<u32>,
    /// Process id of Redis.
    #[arg(long, env = "CARACAL_BENCH_REDIS_PID", hide = true)]
    pub(crate) redis: Option<u32>,
}

/// A world, an agent in it, and what it calls.
pub(crate) struct Site {
    pub(crate) world: World,
    pub(crate) agent: Agent,
    /// A reusable mandate of the agent's application.
    pub(crate) reusable: String,
    pub(crate) origin: Origin,
    pub(crate) processors: Processors,
    stores: Stores,
}

/// The service behind a proxy.
pub(crate) struct Origin {
    pub(crate) process: Process,
    pub(crate) port: u16,
}

impl Origin {
    /// Starts one.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let port = free_port();
        let mut spec = ProcessSpec::program("origin", std::env::current_exe()?.with_file_name("origin"));
        spec.arguments = vec![port.to_string()];
        spec.base_url = format!("http://127.0.0.1:{port}");
        Ok(Self {
            process: Process::start(spec).await,
            port,
        })
    }
}

impl Site {
    /// Starts everything, and waits until a governed call passes.
    pub(crate) async fn start(options: StackOptions, stores: Stores) -> anyhow::Result<Self> {
        progress("starting a stack");
        let origin = Origin::start().await?;
        let world = World::start(options, &format!("http://127.0.0.1:{}", origin.port)).await;
        let lifecycle = world.lifecycle().await;
        let agent = world.agent(&world.stack.coordinator_as(&lifecycle), 1).await;
        let site = Self {
            reusable: world.reusable().await,
            world,
            agent,
            origin,
            processors: Processors::of_this_machine()?,
            stores,
        };
        site.until_it_passes().await;
        Ok(site)
    }

    /// Waits until a mandate is minted and a governed call passes. A token service that was started anew has verified the application's
    /// secret by then, which takes it long, so that many mints at once find it verified.
    pub(crate) async fn until_it_passes(&self) {
        let passes = async || self.one_shot(1).await.is_ok() && self.call_once(&self.reusable).await.is_ok();
        caracal_testing::wait_until(PATIENCE, passes).await;
    }

    /// The form that mints a mandate for one call of the agent.
    pub(crate) fn mint_form(&self) -> Bytes {
        self.mint_form_of(&self.agent)
    }

    /// The same for another agent.
    pub(crate) fn mint_form_of(&self, agent: &Agent) -> Bytes {
        let fields = [
            (field::GRANT_TYPE, TOKEN_EXCHANGE_GRANT),
            (field::ZONE_ID, &self.world.zone),
            (field::APPLICATION_ID, &self.world.application),
            (field::CLIENT_SECRET, &self.world.client_secret),
            (field::RESOURCE, RESOURCE),
            (field::SCOPE, READ),
            (field::AGENT_SESSION_ID, &agent.session),
            (field::DELEGATION_EDGE_ID, &agent.delegation),
        ];
        Bytes::from(form::encode(&fields))
    }

    /// As many mandates for one call each.
    pub(crate) async fn one_shot(&self, count: usize) -> anyhow::Result<Vec<String>> {
        let mut connections = Connections::open(self.world.stack.sts_url(), count.min(32)).await?;
        connections.mandates(&self.mint_form(), count).await
    }

    /// A governed request for a path.
    pub(crate) fn call(path: &str, mandate: &str) -> anyhow::Result<Request<Full<Bytes>>> {
        let request = Request::get(path).header("host", "gateway.test");
        let request = request.header("authorization", format!("Bearer {mandate}"));
        Ok(request
            .header("x-caracal-resource", RESOURCE)
            .body(Full::default())?)
    }

    async fn call_once(&self, mandate: &str) -> anyhow::Result<()> {
        let mut connections = Connections::open(self.world.stack.gateway_url(), 1).await?;
        connections
            .call(|_number| Self::call("/", mandate), Until::Count(1))
            .await?;
        Ok(())
    }

    /// The gateway.
    pub(crate) fn gateway(&self) -> anyhow::Result<&Process> {
        self.world
            .stack
            .gateways
            .first()
            .context("a stack with a gateway")
    }

    /// The token service.
    pub(crate) fn sts(&self) -> anyhow::Result<&Process> {
        self.world
            .stack
            .sts
            .first()
            .context("a stack with a token service")
    }

    /// Gives the gateway one processor, started anew so that it has as many threads, and the others to everything else.
    pub(crate) async fn bind(&mut self) -> anyhow::Result<()> {
        let Processors { measured, rest, .. } = self.processors.clone();
        let gateway = self.world.stack.gateways.first_mut().context("a gateway")?;
        gateway.stop().await;
        process::bind_this_thread(&measured)?;
        gateway.start_again();
        process::bind_this_thread(&rest)?;
        gateway.ready().await;
        for (_name, id) in self.processes()? {
            if Some(id) != self.gateway()?.id() {
                process::bind(id, &rest)?;
            }
        }
        process::bind(self.origin.process.id().context("an origin")?, &rest)?;
        self.until_it_passes().await;
        Ok(())
    }

    /// Name and id of every process that works for a request.
    pub(crate) fn processes(&self) -> anyhow::Result<Vec<(&'static str, u32)>> {
        let stack = &self.world.stack;
        let services = [
            ("gateway", self.gateway()?.id()),
            ("sts", self.sts()?.id()),
            ("redis", self.stores.redis),
            ("postgres", self.stores.postgres),
            ("audit", stack.audit.id()),
            ("control", stack.control.id()),
            ("coordinator", stack.coordinator.id()),
        ];
        Ok(services
            .into_iter()
            .filter_map(|(name, id)| Some((name, id?)))
            .collect())
    }

    /// Processor time of each of them so far.
    pub(crate) fn used(&self) -> anyhow::Result<Vec<(&'static str, Duration)>> {
        let used = self.processes()?.into_iter();
        used.map(|(name, id)| Ok((name, process::tree_time(id)?)))
            .collect()
    }

    /// Waits until nobody works: what follows a request has been done too, down to the last record of evidence.
    pub(crate) async fn settle(&self) -> anyhow::Result<()> {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            let before: Duration = self.used()?.into_iter().map(|(_name, used)| used).sum();
            tokio::time::sleep(Duration::from_millis(300)).await;
            let after: Duration = self.used()?.into_iter().map(|(_name, used)| used).sum();
            if after.saturating_sub(before) < Duration::from_millis(40) {
                return Ok(());
            }
            ensure!(
                tokio::time::Instant::now() < until,
                "the services do not come to rest"
            );
        }
    }
}
