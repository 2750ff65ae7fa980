//! How does a service reach the database, and how many statements has it sent?

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPool, PgPoolOptions};
use time::OffsetDateTime;

use crate::error::StorageError;
use crate::tx::{ReadTx, WriteTx, ZoneScope};

/// Bounds of one service's connection pool.
#[derive(Clone, Debug)]
pub struct PoolLimits {
    /// Most connections held at once, 1-1000; default 20.
    pub connections_max: u32,
    /// How long a caller waits for a connection before the database counts as unavailable; default 5 s.
    pub acquire_timeout: Duration,
    /// Longest a statement may run; default 15 s.
    pub statement_timeout: Duration,
    /// Longest a transaction may sit idle before the server ends it; default 30 s.
    pub idle_in_transaction_timeout: Duration,
    /// Longest a statement may wait for a lock; default 5 s.
    pub lock_timeout: Duration,
    /// How long an unused connection is kept; default 5 min.
    pub idle_timeout: Duration,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            connections_max: 20,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(15),
            idle_in_transaction_timeout: Duration::from_secs(30),
            lock_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_mins(5),
        }
    }
}

/// A service's connection pool. Cheap to clone; every statement goes through [`ReadTx`] or [`WriteTx`], which count.
#[derive(Clone, Debug)]
pub struct Database {
    pool: PgPool,
    statements: Arc<AtomicU64>,
}

impl Database {
    /// Opens a pool and proves it with one connection.
    ///
    /// `role_name` is shown by the server as the application name, e.g. `caracal-sts`.
    ///
    /// # Errors
    /// [`StorageError::Unavailable`] when no connection can be made, [`StorageError::Database`] for a malformed URL
    /// or refused credentials.
    pub async fn connect(url: &str, role_name: &str, limits: &PoolLimits) -> Result<Self, StorageError> {
        let options = PgConnectOptions::from_str(url)?
            .application_name(role_name)
            .options([
                (
                    "statement_timeout",
                    limits.statement_timeout.as_millis().to_string(),
                ),
                (
                    "idle_in_transaction_session_timeout",
                    limits.idle_in_transaction_timeout.as_millis().to_string(),
                ),
                ("lock_timeout", limits.lock_timeout.as_millis().to_string()),
            ]);
        let pool = PgPoolOptions::new()
            .max_connections(limits.connections_max)
            .acquire_timeout(limits.acquire_timeout)
            .idle_timeout(limits.idle_timeout)
            .max_lifetime(Duration::from_mins(30))
            .connect_with(options)
            .await?;
        Ok(Self::from_pool(pool))
    }

    /// Wraps a pool that exists already (tests, the migration command).
    pub fn from_pool(pool: PgPool) -> Self {
        Self {
            pool,
            statements: Arc::new(AtomicU64::new(0)),
        }
    }

    /// Begins a snapshot that sees every zone and can change nothing (REPEATABLE READ READ ONLY). One round trip.
    ///
    /// # Errors
    /// [`StorageError::Unavailable`] when no connection is free in time.
    pub async fn read(&self) -> Result<ReadTx, StorageError> {
        self.read_in(ZoneScope::All).await
    }

    /// Begins a read-only snapshot that sees the rows of `scope` only (row-level security). One round trip.
    ///
    /// # Errors
    /// [`StorageError::Unavailable`] when no connection is free in time.
    pub async fn read_in(&self, scope: ZoneScope<'_>) -> Result<ReadTx, StorageError> {
        ReadTx::begin(&self.pool, scope, Arc::clone(&self.statements)).await
    }

    /// Begins a transaction that may change rows of `scope` (READ COMMITTED). One round trip.
    ///
    /// # Errors
    /// [`StorageError::Unavailable`] when no connection is free in time.
    pub async fn write(&self, scope: ZoneScope<'_>) -> Result<WriteTx, StorageError> {
        WriteTx::begin(&self.pool, scope, Arc::clone(&self.statements)).await
    }

    /// Statements sent through this pool so far, BEGIN and COMMIT included. Notifications are not counted.
    pub fn statements(&self) -> u64 {
        self.statements.load(Ordering::Relaxed)
    }

    /// The database's clock, which is the only clock that decides about stored times.
    ///
    /// # Errors
    /// [`StorageError::Unavailable`] when the database is out of reach.
    pub async fn now(&self) -> Result<OffsetDateTime, StorageError> {
        let mut tx = self.read().await?;
        Ok(sqlx::query_scalar("SELECT clock_timestamp()")
            .fetch_one(&mut tx)
            .await?)
    }

    /// One round trip that proves the database answers, for readiness probes.
    ///
    /// # Errors
    /// [`StorageError::Unavailable`] when it does not.
    pub async fn ping(&self) -> Result<(), StorageError> {
        self.now().await.map(|_| ())
    }

    /// Opens a connection of its own that waits for `NOTIFY` on `channels`.
    ///
    /// # Errors
    /// [`StorageError::Unavailable`] when no connection can be made.
    pub async fn listen(&self, channels: &[&str]) -> Result<Notifications, StorageError> {
        let mut listener = PgListener::connect_with(&self.pool).await?;
        listener.listen_all(channels.iter().copied()).await?;
        Ok(Notifications { listener })
    }

    /// Closes every connection; later calls fail as unavailable.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// A connection that waits for notifications. Never the only signal: whoever waits here also polls.
#[derive(Debug)]
pub struct Notifications {
    listener: PgListener,
}

/// One received notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Channel it arrived on.
    pub channel: String,
    /// Its payload, empty when the sender gave none.
    pub payload: String,
}

impl Notifications {
    /// Waits for the next notification.
    ///
    /// Answers `None` when the connection was lost and re-made: notifications may have been missed in between, so the
    /// caller looks for itself.
    ///
    /// # Errors
    /// [`StorageError::Unavailable`] when the connection cannot be re-made; the caller waits and tries again.
    pub async fn next(&mut self) -> Result<Option<Notification>, StorageError> {
        let received = self.listener.try_recv().await?;
        Ok(received.map(|n| Notification {
            channel: n.channel().to_owned(),
            payload: n.payload().to_owned(),
        }))
    }
    /// Forgets the notifications that have arrived already, for a caller that is about to look anyway.
    pub fn skip_arrived(&mut self) {
        while self.listener.next_buffered().is_some() {}
    }
}
