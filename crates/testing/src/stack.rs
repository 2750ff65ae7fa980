//! How does a test run the whole product: five roles as real processes, with their own database, Redis, keys, ports?

mod api;
mod options;
mod secrets;
mod settings;
mod token_client;

use std::collections::BTreeMap;
use std::time::Duration;

use caracal_chassis::http_client::{Client, ClientLimits};
use tempfile::TempDir;

use crate::database::TestDatabase;
use crate::fault_proxy::FaultProxy;
use crate::port::ReservedPort;
use crate::process::{Process, ProcessSpec};
use crate::redis::TestRedis;

pub use api::{Answer, Api};
pub use options::{Service, StackOptions};
pub use secrets::Secrets;
pub use token_client::TokenClient;

use settings::Wiring;

/// A running product. Everything it started ends when it is dropped.
#[derive(Debug)]
pub struct Stack {
    // Fields are dropped in this order: processes before what they use.
    /// The gateways, each ready.
    pub gateways: Vec<Process>,
    /// The token services.
    pub sts: Vec<Process>,
    /// The control plane.
    pub control: Process,
    /// The coordinator.
    pub coordinator: Process,
    /// The audit service.
    pub audit: Process,
    /// What stands before the stores and the token service, when asked for.
    pub faults: Option<Faults>,
    /// The database.
    pub database: TestDatabase,
    /// The Redis, unless the stack runs without.
    pub redis: Option<TestRedis>,
    /// Keys and tokens of this stack.
    pub secrets: Secrets,
    gateway_urls: Vec<String>,
    client: Client,
    // Both are held, not used.
    _folders: TempDir,
    _ports: Vec<ReservedPort>,
}

/// Proxies before what the services depend on.
#[derive(Debug)]
pub struct Faults {
    /// Before PostgreSQL, for all services.
    pub postgres: FaultProxy,
    /// Before Redis, for all services.
    pub redis: Option<FaultProxy>,
    /// Before the first token service, for the gateways.
    pub sts: FaultProxy,
}

impl Stack {
    /// Starts everything and waits until it is ready.
    ///
    /// # Panics
    /// When something does not start, with the end of its log.
    pub async fn start(options: StackOptions) -> Self {
        let database = TestDatabase::new().await;
        let redis = if options.redis {
            Some(TestRedis::new().await)
        } else {
            None
        };
        let folders = TempDir::new().expect("a temporary folder");
        let secrets = Secrets::generate();
        let mut wiring = Wiring::new(&options, &database, redis.as_ref(), folders.path());
        let faults = if options.faults {
            Some(Faults::before(&mut wiring).await)
        } else {
            None
        };
        if redis.is_some() {
            let mut init = ProcessSpec::caracal("init", &["init"]);
            init.environment = wiring.init_environment(&database);
            Process::run_to_end(init).await;
        }
        let spawn = |service: Service, index: usize| {
            let name = format!("{}-{index}", service.subcommand());
            let mut spec = ProcessSpec::caracal(name, &[service.subcommand()]);
            spec.environment = wiring.environment(service, index, &database, &secrets);
            spec.base_url = wiring.admin_url(service, index);
            Process::spawn(spec)
        };
        let mut stack = Self {
            sts: (0..options.sts_replicas)
                .map(|index| spawn(Service::Sts, index))
                .collect(),
            control: spawn(Service::Control, 0),
            coordinator: spawn(Service::Coordinator, 0),
            audit: spawn(Service::Audit, 0),
            gateways: (0..options.gateways)
                .map(|index| spawn(Service::Gateway, index))
                .collect(),
            gateway_urls: (0..options.gateways)
                .map(|index| wiring.gateway_url(index))
                .collect(),
            faults,
            database,
            redis,
            secrets,
            client: Client::new(ClientLimits {
                timeout: Duration::from_mins(1),
                ..ClientLimits::default()
            }),
            _folders: folders,
            _ports: std::mem::take(&mut wiring.ports),
        };
        for process in stack.processes() {
            process.ready().await;
        }
        stack
    }

    /// Every process, the gateways last: they are ready only after the others.
    pub fn processes(&mut self) -> impl Iterator<Item = &mut Process> {
        let singles = [&mut self.control, &mut self.coordinator, &mut self.audit];
        self.sts.iter_mut().chain(singles).chain(self.gateways.iter_mut())
    }

    /// Where the gateways forward, in order.
    pub fn gateway_urls(&self) -> &[String] {
        &self.gateway_urls
    }

    /// Where the first gateway forwards.
    ///
    /// # Panics
    /// When the stack has no gateway.
    pub fn gateway_url(&self) -> &str {
        self.gateway_urls.first().expect("a stack with a gateway")
    }

    /// Where the first token service answers.
    ///
    /// # Panics
    /// When the stack has no token service.
    pub fn sts_url(&self) -> &str {
        self.sts.first().expect("a stack with a token service").base_url()
    }

    /// A client without a credential for any URL of the stack, with a long time limit.
    pub fn http(&self) -> &Client {
        &self.client
    }

    /// The control plane as its administrator.
    pub fn admin(&self) -> Api {
        Api::new(
            self.client.clone(),
            self.control.base_url(),
            Some(&self.secrets.admin_token),
        )
    }

    /// The coordinator, as the holder of `bearer`.
    pub fn coordinator_as(&self, bearer: &str) -> Api {
        Api::new(self.client.clone(), self.coordinator.base_url(), Some(bearer))
    }

    /// The audit service, as its operator.
    pub fn auditor(&self) -> Api {
        Api::new(
            self.client.clone(),
            self.audit.base_url(),
            Some(&self.secrets.audit_token),
        )
    }

    /// The first token service, as an application of a zone.
    pub fn token_client(&self, zone: &str, application: &str, client_secret: &str) -> TokenClient {
        let client = self.client.clone();
        TokenClient::new(client, self.sts_url(), zone, application, client_secret)
    }

    /// The metrics of a process as JSON.
    pub async fn metrics(&self, process: &Process) -> serde_json::Value {
        let api = Api::new(
            self.client.clone(),
            process.base_url(),
            Some(&self.secrets.metrics_token),
        );
        api.get("/metrics.json").await.expect(200)
    }
}

impl Faults {
    async fn before(wiring: &mut Wiring) -> Self {
        let postgres = FaultProxy::before(&wiring.database_url).await;
        wiring.database_url = postgres.url_through(&wiring.database_url);
        let redis = match &mut wiring.redis_url {
            Some(url) => {
                let proxy = FaultProxy::before(url).await;
                *url = proxy.url_through(url);
                Some(proxy)
            }
            None => None,
        };
        let sts = FaultProxy::start(format!("127.0.0.1:{}", wiring.sts_port(0))).await;
        wiring.sts_port_for_gateways = Some(sts.address().port());
        Self { postgres, redis, sts }
    }
}

/// Settings by name.
type Settings = BTreeMap<String, String>;
