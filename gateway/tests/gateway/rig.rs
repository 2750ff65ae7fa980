//! A gateway with everything around it: an STS, an upstream, a bus with watermarks, and the ledger's events.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use caracal_bus::{Bus, EntryId, HmacKey, MemoryBus, Publisher, StreamKeys};
use caracal_chassis::Clock;
use caracal_chassis::config::{Reader, Source};
use caracal_chassis::shutdown::Shutdown;
use caracal_gateway::{Addresses, Config, Deps};
use caracal_model::Anchor;
use caracal_testing::{Behaviour, Upstream as Service, wait_for};
use caracal_wire::event::{SessionsRevoke, Watermark};
use caracal_wire::stream::{AUDIT_EVENTS, Fields, KEYS_INVALIDATE, SESSIONS_REVOKE, WATERMARKS};
use caracal_wire::sts::{AuthMode, Upstream};
use http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::Value;
use tokio::sync::oneshot;

use crate::client::{Answer, send, wait_for_status};
use crate::spy_bus::SpyBus;
use crate::sts::FakeSts;

pub(crate) const ZONE: &str = "zone-1";
pub(crate) const APPLICATION: &str = "app-1";
pub(crate) const RESOURCE: &str = "resource://crm";
pub(crate) const ISSUER: &str = "http://issuer.test";
/// One key for all signatures of a test.
pub(crate) const SHARED_KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
/// Lets [`Rig::metric`] in.
pub(crate) const METRICS: (&str, &str) = ("METRICS_BEARER", "scrape");
/// As a setting of a rig: the file of the configuration.
pub(crate) const CONFIG_FILE: &str = "config file";
/// Longest wait for anything that must happen.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) fn now() -> i64 {
    Clock::system().unix_seconds()
}

pub(crate) fn stream_keys() -> StreamKeys {
    StreamKeys::single(HmacKey::new(hex::decode(SHARED_KEY).unwrap()))
}

/// The directive for an upstream that gets the resource mandate.
pub(crate) fn mandate_upstream(url: impl Into<String>) -> Upstream {
    Upstream {
        url: url.into(),
        auth_mode: AuthMode::CaracalJwt,
        ..Upstream::default()
    }
}

/// A running gateway. It stops when dropped.
pub(crate) struct Gateway {
    pub(crate) addresses: Addresses,
    shutdown: Shutdown,
    folder: PathBuf,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.shutdown.trigger();
        // Left behind if the gateway is still writing; the folder is a temporary one.
        let _removed = std::fs::remove_dir_all(&self.folder);
    }
}

impl Gateway {
    /// Starts one on `bus`, with `settings` beside the usual ones, and returns when it listens.
    pub(crate) async fn start(bus: Arc<dyn Bus>, sts_url: &str, settings: &[(&str, &str)]) -> Self {
        Self::start_at(Clock::system(), bus, sts_url, settings).await
    }

    /// The same with a clock of the test's.
    pub(crate) async fn start_at(
        clock: Clock,
        bus: Arc<dyn Bus>,
        sts_url: &str,
        settings: &[(&str, &str)],
    ) -> Self {
        let folder = std::env::temp_dir().join(format!("caracal-gateway-{}", uuid::Uuid::new_v4()));
        let spool = folder.to_str().unwrap().to_owned();
        let mut pairs: Vec<(&str, &str)> = vec![
            ("PORT", "0"),
            ("ADMIN_PORT", "0"),
            ("STS_URL", sts_url),
            ("ISSUER_URL", ISSUER),
            ("REDIS_URL", "redis://shared"),
            ("GATEWAY_STS_HMAC_KEY", SHARED_KEY),
            ("STREAMS_HMAC_KEY", SHARED_KEY),
            ("AUDIT_HMAC_KEY", SHARED_KEY),
            ("AUDIT_REPLAY_DIR", &spool),
            ("DRAIN_TIMEOUT", "100ms"),
        ];
        pairs.retain(|(name, _value)| !settings.iter().any(|(other, _value)| name == other));
        pairs.extend(settings);
        let pairs = pairs
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let file = settings
            .iter()
            .find(|(name, _path)| *name == CONFIG_FILE)
            .map(|(_name, path)| std::path::Path::new(*path));
        let source = match file {
            Some(file) => Source::from_env_and_file(Some(file)).unwrap().with_pairs(pairs),
            None => Source::from_pairs(pairs),
        };
        let mut reader = Reader::new(&source);
        let config = Config::read(&mut reader);
        reader.finish().unwrap_or_else(|errors| panic!("{errors}"));
        let shutdown = Shutdown::new();
        let (listening, addresses) = oneshot::channel();
        let deps = Deps { bus, clock };
        let stop = shutdown.clone();
        tokio::spawn(async move {
            let tell = |addresses| listening.send(addresses).expect("the test waits");
            let outcome = caracal_gateway::run(config, deps, tell, stop).await;
            outcome.unwrap_or_else(|error| panic!("the gateway ended: {error:?}"));
        });
        let addresses = addresses.await.expect("the gateway listens");
        Self {
            addresses,
            shutdown,
            folder,
        }
    }

    pub(crate) fn stop(&self) {
        self.shutdown.trigger();
    }
}

/// Says again and again that the streams are complete, as the relays do.
pub(crate) struct Relay {
    silent: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Relay {
    pub(crate) fn start(bus: Arc<dyn Bus>) -> Self {
        let silent = Arc::new(AtomicBool::new(false));
        let is_silent = Arc::clone(&silent);
        let task = tokio::spawn(async move {
            let publisher = Publisher::new(Arc::clone(&bus), stream_keys());
            let mut beat = tokio::time::interval(Duration::from_millis(100));
            loop {
                beat.tick().await;
                if !is_silent.load(Ordering::SeqCst)
                    && let Ok(revoked) = bus.last_id(SESSIONS_REVOKE).await
                    && let Ok(keys) = bus.last_id(KEYS_INVALIDATE).await
                {
                    let last_ids = [(SESSIONS_REVOKE, revoked), (KEYS_INVALIDATE, keys)];
                    let watermark = Watermark {
                        relay: "test".to_owned(),
                        as_of_unix_us: Clock::system().unix_micros(),
                        last_ids: last_ids
                            .map(|(stream, last)| (stream.to_owned(), last.to_string()))
                            .into(),
                    };
                    let _published = publisher
                        .publish_signed(WATERMARKS, vec![watermark.to_fields()])
                        .await;
                }
            }
        });
        Self { silent, task }
    }

    pub(crate) fn silence(&self) {
        self.silent.store(true, Ordering::SeqCst);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One gateway and its surroundings.
pub(crate) struct Rig {
    pub(crate) gateway: Gateway,
    pub(crate) sts: FakeSts,
    pub(crate) upstream: Service,
    pub(crate) bus: Arc<SpyBus>,
    pub(crate) relay: Relay,
}

impl Rig {
    /// The usual surroundings: an echoing upstream that gets the resource mandate, a bus in memory.
    pub(crate) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// The same with other settings.
    pub(crate) async fn with(settings: &[(&str, &str)]) -> Self {
        Self::on(Arc::new(MemoryBus::new()), settings).await
    }

    /// The same on a bus of the test's choice.
    pub(crate) async fn on(bus: Arc<dyn Bus>, settings: &[(&str, &str)]) -> Self {
        let upstream = Service::start(Behaviour::Echo).await;
        let sts = FakeSts::start(mandate_upstream(upstream.url())).await;
        let bus = SpyBus::over(bus);
        let relay = Relay::start(Arc::clone(&bus) as Arc<dyn Bus>);
        let gateway = Gateway::start(Arc::clone(&bus) as Arc<dyn Bus>, &sts.url(), settings).await;
        wait_for_status(gateway.addresses.admin, "/ready", StatusCode::OK).await;
        Self {
            gateway,
            sts,
            upstream,
            bus,
            relay,
        }
    }

    /// A request for the resource with a fresh mandate.
    pub(crate) fn get(&self, target: &str) -> http::request::Builder {
        self.request("GET", target, &self.sts.mandate())
    }

    /// A request for the resource with this mandate.
    #[expect(clippy::unused_self, reason = "reads as what this client sends")]
    pub(crate) fn request(&self, method: &str, target: &str, mandate: &str) -> http::request::Builder {
        Request::builder()
            .method(method)
            .uri(target)
            .header("host", "gateway.test:8081")
            .header("authorization", format!("Bearer {mandate}"))
            .header("x-caracal-resource", RESOURCE)
    }

    pub(crate) async fn send(&self, request: http::request::Builder) -> Answer {
        self.send_with(request, Bytes::new()).await
    }

    pub(crate) async fn send_with(&self, request: http::request::Builder, body: impl Into<Bytes>) -> Answer {
        send(
            self.gateway.addresses.main,
            request.body(Full::new(body.into())).unwrap(),
        )
        .await
    }

    /// A number from `/metrics.json`, which the settings must leave open with [`METRICS`].
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let request = Request::get("/metrics.json")
            .header("host", "x")
            .header("authorization", "Bearer scrape");
        let request = request.body(Full::default()).unwrap();
        let answer = send(self.gateway.addresses.admin, request).await;
        answer.json()[name]
            .as_u64()
            .unwrap_or_else(|| panic!("no metric {name}"))
    }

    /// Publishes a revocation as the coordinator does.
    pub(crate) async fn revoke(&self, anchor: Anchor) {
        let message = SessionsRevoke::of(ZONE.parse().unwrap(), anchor, "test");
        self.publish(SESSIONS_REVOKE, message.to_fields()).await;
    }

    /// Publishes a message, signed as by a relay.
    pub(crate) async fn publish(&self, stream: &str, fields: Fields) {
        let publisher = Publisher::new(Arc::clone(&self.bus) as Arc<dyn Bus>, stream_keys());
        publisher.publish_signed(stream, vec![fields]).await.unwrap();
    }

    /// Every event of the ledger so far.
    pub(crate) async fn events(&self) -> Vec<Value> {
        let read = self
            .bus
            .read(&[(AUDIT_EVENTS, EntryId::ZERO)], 10_000, Duration::ZERO)
            .await
            .unwrap();
        let entries = read.into_iter().flat_map(|(_stream, entries)| entries);
        entries
            .map(|entry| serde_json::from_str(&entry.fields["data"]).unwrap())
            .collect()
    }

    /// The first event of a request with this type and status.
    pub(crate) async fn event(&self, request_id: &str, kind: &str, status: &str) -> Value {
        let found = wait_for(SOON, async || {
            let events = self.events().await;
            events.into_iter().find(|event| {
                event["request_id"] == request_id
                    && event["event_type"] == kind
                    && event["evaluation_status"] == status
            })
        });
        found.await
    }
}
