//! The real executable as a process, on a real Redis, between an STS and an upstream that do what a test says.

use std::net::SocketAddr;
use std::sync::Arc;

use caracal_bus::{Bus, RedisBus};
use caracal_testing::{
    Behaviour, FaultProxy, Process, ProcessSpec, TestRedis, Upstream as Service, free_port,
};
use caracal_wire::sts::Upstream;
use serde_json::Value;
use tempfile::TempDir;

use crate::client::exchange_raw;
use crate::rig::{ISSUER, RESOURCE, Relay, SHARED_KEY, mandate_upstream};
use crate::sts::{FakeSts, Grant};

/// A running `caracal gateway`. It ends when dropped.
pub(crate) struct Executable {
    // Fields are dropped in this order: the process before what it uses.
    process: Process,
    pub(crate) main: SocketAddr,
    admin: SocketAddr,
    pub(crate) sts: FakeSts,
    /// Between the gateway and the STS.
    pub(crate) to_sts: FaultProxy,
    pub(crate) upstream: Service,
    pub(crate) redis: TestRedis,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) relay: Relay,
    _folder: TempDir,
}

impl Executable {
    /// Starts it with `settings` beside the usual ones, and returns when it is ready.
    pub(crate) async fn start(settings: &[(&str, &str)]) -> Self {
        Self::start_with(&[], settings).await
    }

    /// The same with these arguments.
    pub(crate) async fn start_with(arguments: &[&str], settings: &[(&str, &str)]) -> Self {
        let upstream = Service::start(Behaviour::Echo).await;
        let sts = FakeSts::start(mandate_upstream(upstream.url())).await;
        let to_sts = FaultProxy::start(sts.address.to_string()).await;
        let redis = TestRedis::new().await;
        let bus: Arc<dyn Bus> = Arc::new(RedisBus::connect(redis.url()).unwrap());
        let relay = Relay::start(Arc::clone(&bus));
        let folder = TempDir::new().unwrap();
        let local = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let (main, admin) = (local(free_port()), local(free_port()));
        let mut spec = ProcessSpec::caracal("gateway", &[&["gateway"], arguments].concat());
        spec.base_url = format!("http://{admin}");
        let usual = [
            ("CARACAL_MODE", "stable".to_owned()),
            ("PORT", main.port().to_string()),
            ("ADMIN_PORT", admin.port().to_string()),
            ("STS_URL", to_sts.url_through(&sts.url())),
            ("ISSUER_URL", ISSUER.to_owned()),
            ("REDIS_URL", redis.url().to_owned()),
            ("METRICS_BEARER", SHARED_KEY.to_owned()),
            ("GATEWAY_STS_HMAC_KEY", SHARED_KEY.to_owned()),
            ("STREAMS_HMAC_KEY", SHARED_KEY.to_owned()),
            ("AUDIT_HMAC_KEY", SHARED_KEY.to_owned()),
            ("AUDIT_REPLAY_DIR", folder.path().display().to_string()),
        ];
        let usual = usual.into_iter().map(|(name, value)| (name.to_owned(), value));
        let chosen = settings
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        spec.environment = usual.chain(chosen).collect();
        Self {
            process: Process::start(spec).await,
            main,
            admin,
            sts,
            to_sts,
            upstream,
            redis,
            bus,
            relay,
            _folder: folder,
        }
    }

    /// Lets the STS answer with this upstream from now on.
    pub(crate) fn lead_to(&self, upstream: Upstream) {
        self.sts.grant(Grant::Upstream(upstream));
    }

    /// Sends it SIGHUP.
    pub(crate) fn hang_up(&self) {
        let id = self.process.id().unwrap().to_string();
        let sent = std::process::Command::new("kill").args(["-HUP", &id]).status();
        assert!(sent.unwrap().success());
    }

    /// Sends a request as it is and gives everything that came back; the connection ends with it.
    pub(crate) async fn send(&self, request: &str) -> Plain {
        let text = exchange_raw(self.main, request).await;
        let (head, body) = text
            .split_once("\r\n\r\n")
            .unwrap_or_else(|| panic!("no answer to {request}: {text:?}"));
        Plain {
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }

    /// How often requests were refused for `reason`.
    pub(crate) async fn denials(&self, reason: &str) -> i64 {
        let request = format!(
            "GET /metrics.json HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {SHARED_KEY}\r\nconnection: close\r\n\r\n"
        );
        let answer = exchange_raw(self.admin, &request).await;
        let (_head, body) = answer.split_once("\r\n\r\n").unwrap();
        let metrics: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}"));
        let rows = metrics["denials"].as_array().cloned().unwrap_or_default();
        rows.iter()
            .find(|row| row["labels"]["reason"] == reason)
            .map_or(0, |row| row["value"].as_i64().unwrap())
    }
}

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Plain {
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Plain {
    pub(crate) fn status(&self) -> u16 {
        let status = self.head.split(' ').nth(1).unwrap_or_default();
        status.parse().unwrap_or_else(|_| panic!("{self:?}"))
    }

    /// The value of the one header of this name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.head.lines().filter_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then_some(value.trim())
        });
        let value = values.next();
        assert_eq!(values.next(), None, "{name} is there twice: {self:?}");
        value
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }
}

/// The head of a request for the resource with this `authorization`, and these lines. Without a blank line.
pub(crate) fn head(target: &str, authorization: &str, lines: &str) -> String {
    format!(
        "GET {target} HTTP/1.1\r\nhost: gateway.test\r\nconnection: close\r\nauthorization: {authorization}\r\nx-caracal-resource: {RESOURCE}\r\n{lines}"
    )
}
