//! A database, a Redis, relays between them, and what came out.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use caracal_bus::{Bus, Entry, EntryId, HmacKey, Publisher, RedisBus, StreamKeys};
use caracal_migrations::Role;
use caracal_relay::{RelaySettings, Stats};
use caracal_storage::outbox::{self, Fields};
use caracal_storage::{Database, PoolLimits, ZoneScope};
use caracal_testing::{TestDatabase, TestRedis};
use caracal_wire::stream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Longest a test waits for something that shall happen.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) struct Rig {
    pub(crate) test: TestDatabase,
    pub(crate) redis: TestRedis,
    pub(crate) database: Database,
    pub(crate) bus: Arc<dyn Bus>,
}

/// A relay that runs until it is told to stop.
pub(crate) struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    pub(crate) stats: Stats,
}

pub(crate) fn keys() -> StreamKeys {
    StreamKeys::single(HmacKey::new(*b"thirty-two bytes of stream key .."))
}

/// Settings that answer within a test's time.
pub(crate) fn quick(name: &str) -> RelaySettings {
    RelaySettings {
        poll: Duration::from_millis(100),
        watermark_every: Duration::from_millis(20),
        retry_max: Duration::from_millis(20),
        ..RelaySettings::named(name)
    }
}

impl Rig {
    pub(crate) async fn new() -> Self {
        let test = TestDatabase::new().await;
        let redis = TestRedis::new().await;
        let database = connect(&test.url_as(Role::Coordinator)).await;
        let bus = Arc::new(RedisBus::connect(redis.url()).unwrap());
        Self {
            test,
            redis,
            database,
            bus,
        }
    }

    pub(crate) fn start(&self, settings: RelaySettings) -> Running {
        start(self.database.clone(), Arc::clone(&self.bus), settings)
    }

    /// Promises `n` on the stream of revocations, in a transaction of its own.
    pub(crate) async fn promise(&self, n: usize) -> String {
        self.promise_on(stream::SESSIONS_REVOKE, n).await
    }

    pub(crate) async fn promise_on(&self, stream: &str, n: usize) -> String {
        let mut tx = self.database.write(ZoneScope::All).await.unwrap();
        let id = outbox::enqueue(&mut tx, stream, &numbered(n)).await.unwrap();
        tx.commit().await.unwrap();
        id
    }

    pub(crate) async fn entries(&self, stream: &str) -> Vec<Entry> {
        let mut all = Vec::new();
        let mut from = EntryId::ZERO;
        loop {
            let news = self
                .bus
                .read(&[(stream, from)], 1_000, Duration::ZERO)
                .await
                .unwrap();
            let Some((_, entries)) = news.into_iter().next() else {
                return all;
            };
            from = entries.last().unwrap().id;
            all.extend(entries);
        }
    }

    /// The numbers on the stream of revocations, in stream order; a message that came twice counts once, as for every
    /// reader.
    pub(crate) async fn numbers(&self) -> Vec<usize> {
        let mut seen = HashSet::new();
        let entries = self.entries(stream::SESSIONS_REVOKE).await;
        let news = entries
            .into_iter()
            .filter(|entry| seen.insert(entry.fields.get(stream::OUTBOX_ID).cloned()));
        numbers(&news.collect::<Vec<_>>())
    }

    /// Waits until so many messages are set aside, and committed as such.
    pub(crate) async fn until_dead(&self, expected: u64) {
        caracal_testing::wait_until(DEADLINE, async || {
            let mut tx = self.database.read().await.unwrap();
            u64::try_from(outbox::backlog(&mut tx).await.unwrap().dead).unwrap() == expected
        })
        .await;
    }

    pub(crate) async fn until_numbers(&self, expected: &[usize]) {
        caracal_testing::wait_until(DEADLINE, async || self.numbers().await == expected).await;
    }
}

pub(crate) async fn connect(url: &str) -> Database {
    Database::connect(url, "caracal-relay-test", &PoolLimits::default())
        .await
        .unwrap()
}

pub(crate) fn start(database: Database, bus: Arc<dyn Bus>, settings: RelaySettings) -> Running {
    let (stop, stopped) = oneshot::channel::<()>();
    let stats = settings.stats.clone();
    let publisher = Publisher::new(bus, keys());
    let shutdown = async move {
        let _stop = stopped.await;
    };
    let task = tokio::spawn(caracal_relay::run(database, publisher, settings, shutdown));
    Running { stop, task, stats }
}

impl Running {
    pub(crate) async fn stop(self) {
        self.stop.send(()).unwrap();
        tokio::time::timeout(DEADLINE, self.task).await.unwrap().unwrap();
    }
}

pub(crate) fn numbered(n: usize) -> Fields {
    [("n".to_owned(), n.to_string())].into()
}

pub(crate) fn numbers(entries: &[Entry]) -> Vec<usize> {
    entries
        .iter()
        .map(|entry| entry.fields.get("n").unwrap().parse().unwrap())
        .collect()
}
