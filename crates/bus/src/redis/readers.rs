//! Which connection does a read that waits for news use?

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Client, Cmd, Value};

use super::link::{classify, dial};
use crate::error::BusError;

/// Idle connections kept. A process reads for a handful of cursors and groups.
const IDLE_MAX: usize = 16;

/// Connections for reads, each used by one read at a time. One whose read failed or was given up is closed, so that a
/// late answer can never reach another reader.
pub(super) struct Readers {
    client: Client,
    connect_timeout: Duration,
    response_timeout: Duration,
    idle: Mutex<Vec<MultiplexedConnection>>,
}

impl Readers {
    pub(super) fn new(client: Client, connect_timeout: Duration, response_timeout: Duration) -> Self {
        Self {
            client,
            connect_timeout,
            response_timeout,
            idle: Mutex::default(),
        }
    }

    /// Sends a read that waits up to `block` on Redis' side.
    pub(super) async fn send(&self, read: &Cmd, block: Duration) -> Result<Value, BusError> {
        let mut connection = match self.take() {
            Some(connection) => connection,
            None => dial(&self.client, self.connect_timeout).await?,
        };
        let bound = self.response_timeout.saturating_add(block);
        match tokio::time::timeout(bound, read.query_async(&mut connection)).await {
            Ok(Ok(answer)) => {
                self.give_back(connection);
                Ok(answer)
            }
            Ok(Err(error)) => {
                let error = classify(error);
                if !error.is_unavailable() {
                    self.give_back(connection);
                }
                Err(error)
            }
            Err(_elapsed) => Err(BusError::Timeout),
        }
    }

    fn take(&self) -> Option<MultiplexedConnection> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn give_back(&self, connection: MultiplexedConnection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push(connection);
        }
    }
}

impl fmt::Debug for Readers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The client holds a password.
        formatter.debug_struct("Readers").finish_non_exhaustive()
    }
}
