//! An audit service with a bus to publish on and a database to look into.

use std::sync::Arc;
use std::time::Duration;

use caracal_audit::verify::{self, AuditKeys, Report};
use caracal_audit::{Config, Deps};
use caracal_bus::{Bus, Entry, EntryId, HmacKey, MemoryBus, RedisBus};
use caracal_chassis::Clock;
use caracal_chassis::config::{Reader, Source};
use caracal_chassis::http_client::{Client, ClientLimits};
use caracal_chassis::shutdown::Shutdown;
use caracal_storage::{Database, PoolLimits};
use caracal_testing::{Api, Role, TestDatabase, TestRedis, wait_for};
use caracal_wire::audit::sign_data;
use caracal_wire::stream::{AUDIT_EVENTS, AUDIT_EVENTS_DLQ, Fields};
use serde_json::{Value, json};
use sqlx::PgPool;

/// The key of the published vectors.
pub(crate) const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
pub(crate) const ADMIN_TOKEN: &str = "audit-operator-token-of-32-characters";
/// A busy machine may take its time; a test that passes never waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) struct World {
    pub(crate) database: TestDatabase,
    pub(crate) pool: PgPool,
    pub(crate) bus: Arc<dyn Bus>,
    base_url: String,
    shutdown: Shutdown,
    _redis: Option<TestRedis>,
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::start_on_bus(Arc::new(MemoryBus::new()), None).await
    }

    pub(crate) async fn start_on_redis() -> Self {
        let redis = TestRedis::new().await;
        let bus = RedisBus::connect(redis.url()).unwrap();
        Self::start_on_bus(Arc::new(bus), Some(redis)).await
    }

    async fn start_on_bus(bus: Arc<dyn Bus>, redis: Option<TestRedis>) -> Self {
        let database = TestDatabase::new().await;
        let url = database.url_as(Role::Audit);
        Self::start_on(database, &url, bus, redis).await
    }

    /// `url` leads to `database`, perhaps through a proxy.
    pub(crate) async fn start_on(
        database: TestDatabase,
        url: &str,
        bus: Arc<dyn Bus>,
        redis: Option<TestRedis>,
    ) -> Self {
        let source = Source::from_pairs([
            ("CARACAL_MODE", "dev"),
            ("DATABASE_URL", url),
            ("REDIS_URL", "memory:"),
            ("PORT", "0"),
            ("AUDIT_HMAC_KEY", KEY),
            ("AUDIT_ADMIN_TOKEN", ADMIN_TOKEN),
            ("AUDIT_CLAIM_IDLE_SECS", "1"),
        ]);
        let mut reader = Reader::new(&source);
        let config = Config::read(&mut reader);
        reader.finish().unwrap();
        let deps = Deps {
            bus: Arc::clone(&bus),
            clock: Clock::system(),
        };
        let shutdown = Shutdown::new();
        let (announce, announced) = tokio::sync::oneshot::channel();
        let running = caracal_audit::run(
            config,
            deps,
            move |addresses| announce.send(addresses.http).unwrap(),
            shutdown.clone(),
        );
        tokio::spawn(async move { running.await.unwrap() });
        let address = announced.await.expect("the audit service starts");
        Self {
            pool: database.pool().await,
            database,
            bus,
            base_url: format!("http://{address}"),
            shutdown,
            _redis: redis,
        }
    }

    pub(crate) fn api(&self, bearer: Option<&str>) -> Api {
        Api::new(Client::new(ClientLimits::default()), &self.base_url, bearer)
    }

    /// Publishes these texts as a producer would, each with its signature.
    pub(crate) async fn publish(&self, events: &[String]) {
        let batch: Vec<Fields> = events.iter().map(|data| entry(data)).collect();
        self.bus.publish(AUDIT_EVENTS, &batch).await.unwrap();
    }

    /// Waits until so many events are in the ledger.
    pub(crate) async fn stored(&self, count: i64) {
        caracal_testing::wait_until(PATIENCE, async || {
            let found: i64 = sqlx::query_scalar("SELECT count(*) FROM audit_events")
                .fetch_one(&self.pool)
                .await
                .unwrap();
            found == count
        })
        .await;
    }

    /// Waits until so many entries were put aside, and gives them.
    pub(crate) async fn dead_letters(&self, count: usize) -> Vec<Entry> {
        wait_for(PATIENCE, async || {
            let news = self
                .bus
                .read(&[(AUDIT_EVENTS_DLQ, EntryId::ZERO)], 100, Duration::ZERO)
                .await
                .unwrap();
            let entries: Vec<Entry> = news.into_iter().flat_map(|(_, entries)| entries).collect();
            (entries.len() == count).then_some(entries)
        })
        .await
    }

    /// Verifies one zone with the ledger's key, as the audit role.
    pub(crate) async fn verify(&self, zone: &str) -> Report {
        let url = self.database.url_as(Role::Audit);
        let database = Database::connect(&url, "caracal-test", &PoolLimits::default())
            .await
            .unwrap();
        let keys = AuditKeys::new(Some(HmacKey::new(hex::decode(KEY).unwrap())), None);
        verify::zone(&database, zone, &keys).await.unwrap()
    }

    pub(crate) async fn column(&self, statement: &'static str) -> Vec<String> {
        sqlx::query_scalar(statement).fetch_all(&self.pool).await.unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.trigger();
    }
}

pub(crate) fn entry(data: &str) -> Fields {
    let signature = sign_data(&hex::decode(KEY).unwrap(), data.as_bytes());
    Fields::from([
        ("data".to_owned(), data.to_owned()),
        ("sig".to_owned(), signature),
        ("id".to_owned(), "copy".to_owned()),
    ])
}

/// The n-th event of a zone.
pub(crate) fn event(zone: &str, n: usize) -> Value {
    json!({
        "id": format!("{zone}-{n}"), "zone_id": zone, "event_type": "token_exchange", "request_id": format!("req-{n}"),
        "decision": if n.is_multiple_of(2) { "allow" } else { "deny" }, "evaluation_status": "complete",
        "determining_policies_json": [{"policy": "grants"}], "diagnostics_json": [],
        "metadata_json": {"application_id": "app-1", "n": n}, "occurred_at": "2026-01-02T03:04:05.123456789Z",
    })
}

pub(crate) fn events(zone: &str, count: usize) -> Vec<String> {
    (1..=count).map(|n| event(zone, n).to_string()).collect()
}
