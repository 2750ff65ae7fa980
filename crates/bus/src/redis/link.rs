//! How is one shared connection to Redis kept, lost and made again?

use std::fmt;
use std::future::Future;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, Pipeline, RedisError, Value};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::error::BusError;

/// After a failed attempt to connect, how long callers are told so at once instead of each trying again.
const REST_AFTER_FAILURE: Duration = Duration::from_millis(100);

/// One connection, shared by many callers.
///
/// A broken connection is dropped by the first caller who notices; the next caller makes a new one while the others
/// wait for it. Commands are never sent twice: after an error it is unknown whether the command was carried out.
pub(super) struct Link {
    client: Client,
    connect_timeout: Duration,
    response_timeout: Duration,
    live: RwLock<Live>,
    failed_at: Mutex<Option<Instant>>,
    introduction: Option<Introduction>,
}

/// What is said on a new connection before anybody else uses it.
type Introduction =
    Box<dyn Fn(MultiplexedConnection) -> BoxFuture<'static, Result<(), RedisError>> + Send + Sync>;

#[derive(Default)]
struct Live {
    connection: Option<MultiplexedConnection>,
    generation: u64,
}

impl Link {
    pub(super) fn new(client: Client, connect_timeout: Duration, response_timeout: Duration) -> Self {
        Self {
            client,
            connect_timeout,
            response_timeout,
            live: RwLock::default(),
            failed_at: Mutex::new(None),
            introduction: None,
        }
    }

    /// The same, with something to say on each new connection. A connection on which it fails is not used.
    pub(super) fn introduced_by<F>(
        self,
        introduction: impl Fn(MultiplexedConnection) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<(), RedisError>> + Send + 'static,
    {
        Self {
            introduction: Some(Box::new(move |connection| introduction(connection).boxed())),
            ..self
        }
    }

    /// Gives the connection up: the next caller makes a new one.
    pub(super) fn reconnect(&self) {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        live.connection = None;
    }

    pub(super) async fn send(&self, command: &Cmd) -> Result<Value, BusError> {
        self.with_connection(|mut connection| async move { command.query_async(&mut connection).await })
            .await
    }

    pub(super) async fn send_all(&self, pipeline: &Pipeline) -> Result<Vec<Value>, BusError> {
        self.with_connection(|mut connection| async move { pipeline.query_async(&mut connection).await })
            .await
    }

    async fn with_connection<T, F>(
        &self,
        send: impl FnOnce(MultiplexedConnection) -> F,
    ) -> Result<T, BusError>
    where
        F: Future<Output = Result<T, RedisError>>,
    {
        let (connection, generation) = self.connection().await?;
        match tokio::time::timeout(self.response_timeout, send(connection)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                let error = classify(error);
                if error.is_unavailable() {
                    self.discard(generation);
                }
                Err(error)
            }
            Err(_elapsed) => {
                // The peer may be gone without a word: a new connection attempt will tell.
                self.discard(generation);
                Err(BusError::Timeout)
            }
        }
    }

    async fn connection(&self) -> Result<(MultiplexedConnection, u64), BusError> {
        if let Some(live) = self.live() {
            return Ok(live);
        }
        let mut failed_at = self.failed_at.lock().await;
        if let Some(live) = self.live() {
            return Ok(live);
        }
        if failed_at.is_some_and(|at| at.elapsed() < REST_AFTER_FAILURE) {
            return Err(BusError::Unavailable(
                "the last attempt to connect has just failed".into(),
            ));
        }
        match self.dial().await {
            Ok(connection) => {
                *failed_at = None;
                let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
                live.generation += 1;
                live.connection = Some(connection.clone());
                Ok((connection, live.generation))
            }
            Err(error) => {
                *failed_at = Some(Instant::now());
                Err(error)
            }
        }
    }

    async fn dial(&self) -> Result<MultiplexedConnection, BusError> {
        let connection = dial(&self.client, self.connect_timeout).await?;
        if let Some(introduce) = &self.introduction {
            match tokio::time::timeout(self.response_timeout, introduce(connection.clone())).await {
                Ok(introduced) => introduced.map_err(classify)?,
                Err(_elapsed) => return Err(BusError::Timeout),
            }
        }
        Ok(connection)
    }

    fn live(&self) -> Option<(MultiplexedConnection, u64)> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        live.connection
            .clone()
            .map(|connection| (connection, live.generation))
    }

    fn discard(&self, generation: u64) {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        if live.generation == generation {
            live.connection = None;
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The client holds a password.
        formatter.debug_struct("Link").finish_non_exhaustive()
    }
}

/// A new connection without a response timeout of its own: callers bound each answer.
pub(super) async fn dial(client: &Client, timeout: Duration) -> Result<MultiplexedConnection, BusError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(timeout))
        .set_response_timeout(None);
    match tokio::time::timeout(
        timeout,
        client.get_multiplexed_async_connection_with_config(&config),
    )
    .await
    {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(classify(error)),
        Err(_elapsed) => Err(BusError::Timeout),
    }
}

/// What a Redis error means for the caller.
pub(super) fn classify(error: RedisError) -> BusError {
    let out_of_reach = ["LOADING", "MASTERDOWN", "READONLY", "CLUSTERDOWN", "TRYAGAIN"];
    if error.is_timeout() {
        BusError::Timeout
    } else if error.is_io_error()
        || error.is_unrecoverable_error()
        || out_of_reach.iter().any(|code| answered_with(&error, code))
    {
        BusError::Unavailable(Box::new(error))
    } else {
        BusError::Refused(Box::new(error))
    }
}

/// Whether Redis refused with this error code.
pub(super) fn has_code(error: &BusError, code: &str) -> bool {
    let BusError::Refused(source) = error else {
        return false;
    };
    source
        .downcast_ref::<RedisError>()
        .is_some_and(|error| answered_with(error, code))
}

/// Looks into the answers of a pipeline as well.
fn answered_with(error: &RedisError, code: &str) -> bool {
    let answers = error.clone().into_server_errors();
    answers.is_some_and(|answers| answers.iter().any(|(_command, answer)| answer.code() == code))
}

/// Names the group that a refusal says is missing.
pub(super) fn group_missing(error: BusError, stream: &str, group: &str) -> BusError {
    if has_code(&error, "NOGROUP") {
        BusError::NoGroup {
            stream: stream.to_owned(),
            group: group.to_owned(),
        }
    } else {
        error
    }
}
