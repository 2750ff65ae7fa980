//! Which environment does each service of a stack get? The names are those of `docs/operating/configuration.md`.

use std::path::{Path, PathBuf};

use caracal_migrations::Role;

use super::Settings;
use super::options::{Service, StackOptions};
use super::secrets::Secrets;
use crate::database::TestDatabase;
use crate::port::ReservedPort;
use crate::redis::TestRedis;

/// Who listens where, and where the stores are.
pub(super) struct Wiring {
    options: StackOptions,
    folders: PathBuf,
    /// The database as the superuser, possibly through a proxy: host and port count.
    pub(super) database_url: String,
    pub(super) redis_url: Option<String>,
    /// The port of a proxy before the first token service.
    pub(super) sts_port_for_gateways: Option<u16>,
    sts_ports: Vec<u16>,
    /// Port and administrative port.
    gateway_ports: Vec<(u16, u16)>,
    control_port: u16,
    coordinator_port: u16,
    audit_port: u16,
    /// All of them; they stay reserved for as long as this lives.
    pub(super) ports: Vec<ReservedPort>,
}

impl Wiring {
    pub(super) fn new(
        options: &StackOptions,
        database: &TestDatabase,
        redis: Option<&TestRedis>,
        folders: &Path,
    ) -> Self {
        let mut ports = Vec::new();
        let mut port = || {
            let reserved = ReservedPort::new();
            let number = reserved.number();
            ports.push(reserved);
            number
        };
        Self {
            options: options.clone(),
            folders: folders.to_owned(),
            database_url: database.url(),
            redis_url: redis.map(|redis| redis.url().to_owned()),
            sts_port_for_gateways: None,
            sts_ports: (0..options.sts_replicas).map(|_| port()).collect(),
            gateway_ports: (0..options.gateways).map(|_| (port(), port())).collect(),
            control_port: port(),
            coordinator_port: port(),
            audit_port: port(),
            ports,
        }
    }

    /// The port of a token service; with none it is a port nobody listens on.
    pub(super) fn sts_port(&self, index: usize) -> u16 {
        self.sts_ports.get(index).copied().unwrap_or(1)
    }

    /// Every token service.
    fn sts_urls(&self) -> String {
        let indices = 0..self.sts_ports.len().max(1);
        let urls: Vec<String> = indices.map(|index| loopback(self.sts_port(index))).collect();
        urls.join(",")
    }

    /// Where a gateway forwards.
    pub(super) fn gateway_url(&self, index: usize) -> String {
        loopback(self.gateway_ports.get(index).map_or(1, |(port, _)| *port))
    }

    /// Where a service answers `/ready`.
    pub(super) fn admin_url(&self, service: Service, index: usize) -> String {
        loopback(match service {
            Service::Gateway => self.gateway_ports.get(index).map_or(1, |(_, admin)| *admin),
            _ => self.port(service, index),
        })
    }

    /// What `caracal init` needs.
    pub(super) fn init_environment(&self, database: &TestDatabase) -> Settings {
        settings([("DATABASE_URL", database.url()), ("REDIS_URL", self.redis_url())])
    }

    /// The whole environment of a service.
    pub(super) fn environment(
        &self,
        service: Service,
        index: usize,
        database: &TestDatabase,
        secrets: &Secrets,
    ) -> Settings {
        let mut environment = self.common(service, index, secrets);
        environment.extend(match service {
            Service::Gateway => self.gateway(index, secrets),
            Service::Sts => self.sts(database, secrets),
            Service::Control => self.control(database, secrets),
            Service::Coordinator => self.coordinator(database, secrets),
            Service::Audit => self.audit(database, secrets),
        });
        environment.extend(self.options.settings(service));
        environment
    }

    fn common(&self, service: Service, index: usize, secrets: &Secrets) -> Settings {
        let spool = self.folders.join(format!("{}-{index}", service.subcommand()));
        settings([
            ("CARACAL_MODE", self.options.mode.to_owned()),
            ("HOST", "127.0.0.1".to_owned()),
            ("PORT", self.port(service, index).to_string()),
            ("LOG_LEVEL", "info".to_owned()),
            ("LOG_FORMAT", "json".to_owned()),
            ("REDIS_URL", self.redis_url()),
            ("METRICS_BEARER", secrets.metrics_token.clone()),
            ("STREAMS_HMAC_KEY", secrets.streams_key.clone()),
            ("AUDIT_HMAC_KEY", secrets.audit_key.clone()),
            ("GATEWAY_STS_HMAC_KEY", secrets.gateway_key.clone()),
            ("AUDIT_REPLAY_DIR", spool.display().to_string()),
        ])
    }

    fn gateway(&self, index: usize, secrets: &Secrets) -> Settings {
        let sts = match self.sts_port_for_gateways {
            Some(proxy) => loopback(proxy),
            None => self.sts_urls(),
        };
        let admin = self.gateway_ports.get(index).map_or(1, |(_, admin)| *admin);
        settings([
            ("ADMIN_PORT", admin.to_string()),
            ("MANDATE_MAC_KEY", secrets.mac_key.clone()),
            ("STS_URL", sts),
            ("ISSUER_URL", self.issuer()),
            ("CARACAL_ADMIN_TOKEN", secrets.admin_token.clone()),
        ])
    }

    fn sts(&self, database: &TestDatabase, secrets: &Secrets) -> Settings {
        settings([
            ("DATABASE_URL", self.database_url_as(database, Role::Sts)),
            ("ISSUER_URL", self.issuer()),
            ("MANDATE_MAC_KEY", secrets.mac_key.clone()),
            ("SECRET_STORE_KEK", secrets.kek.clone()),
            ("STS_ADMIN_TOKEN", secrets.sts_token.clone()),
        ])
    }

    fn control(&self, database: &TestDatabase, secrets: &Secrets) -> Settings {
        settings([
            ("DATABASE_URL", self.database_url_as(database, Role::Api)),
            ("STS_URL", self.sts_urls()),
            ("CARACAL_GATEWAY_URL", self.gateway_url(0)),
            ("CARACAL_COORDINATOR_URL", loopback(self.coordinator_port)),
            ("CARACAL_ADMIN_TOKEN", secrets.admin_token.clone()),
            ("SECRET_STORE_KEK", secrets.kek.clone()),
            // Tests make many requests from one address.
            ("API_V1_RATE_LIMIT_PER_MIN", "0".to_owned()),
        ])
    }

    fn coordinator(&self, database: &TestDatabase, secrets: &Secrets) -> Settings {
        settings([
            ("DATABASE_URL", self.database_url_as(database, Role::Coordinator)),
            ("STS_URL", loopback(self.sts_port(0))),
            ("ISSUER_URL", self.issuer()),
            ("AGENT_COORDINATOR_SCOPE", "agent:lifecycle".to_owned()),
            ("CARACAL_COORDINATOR_TOKEN", secrets.coordinator_token.clone()),
            ("IDEMPOTENCY_HMAC_KEY", secrets.idempotency_key.clone()),
        ])
    }

    fn audit(&self, database: &TestDatabase, secrets: &Secrets) -> Settings {
        settings([
            ("DATABASE_URL", self.database_url_as(database, Role::Audit)),
            ("AUDIT_ADMIN_TOKEN", secrets.audit_token.clone()),
        ])
    }

    fn port(&self, service: Service, index: usize) -> u16 {
        match service {
            Service::Gateway => self.gateway_ports.get(index).map_or(1, |(port, _)| *port),
            Service::Sts => self.sts_port(index),
            Service::Control => self.control_port,
            Service::Coordinator => self.coordinator_port,
            Service::Audit => self.audit_port,
        }
    }

    /// All replicas of the token service issue in one name.
    fn issuer(&self) -> String {
        loopback(self.sts_port(0))
    }

    fn redis_url(&self) -> String {
        self.redis_url.clone().unwrap_or_else(|| "memory:".to_owned())
    }

    /// The login's URL, through the proxy if there is one.
    fn database_url_as(&self, database: &TestDatabase, role: Role) -> String {
        let mut url = url::Url::parse(&database.url_as(role)).expect("a database URL");
        let through = url::Url::parse(&self.database_url).expect("a database URL");
        url.set_host(through.host_str())
            .expect("a database URL has a host");
        url.set_port(through.port()).expect("a database URL has a host");
        url.to_string()
    }
}

fn settings<const N: usize>(pairs: [(&str, String); N]) -> Settings {
    pairs
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

fn loopback(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}
