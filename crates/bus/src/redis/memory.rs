//! Since when does the Redis that answers remember every claim it has confirmed?
//!
//! Redis may lose what it confirmed when it is started anew, when a replica takes its place, or when somebody empties
//! it. Each life of a server has a run id. Whoever makes a connection for claims compares it with the one written beside
//! the claims; when it is another one, or none, memory begins now, by Redis' own clock. The claims and this note are lost
//! together or not at all.

use redis::aio::MultiplexedConnection;
use redis::{RedisError, Script, Value, cmd};

use super::reply;
use crate::error::BusError;

/// Where it is written down.
pub(super) const KEY: &str = "caracal:claims";
/// The field with the beginning of memory, in Unix milliseconds.
pub(super) const SINCE: &str = "since";

/// Writes the beginning of memory anew unless this life of the server has done so. `TIME` is the server's clock.
const BEGIN: &str = r"
if redis.call('HGET', KEYS[1], 'run_id') ~= ARGV[1] then
  local now = redis.call('TIME')
  local ms = string.format('%d', now[1] * 1000 + math.floor(now[2] / 1000))
  redis.call('HSET', KEYS[1], 'run_id', ARGV[1], 'since', ms)
end
return redis.call('HGET', KEYS[1], 'since')";

/// Introduces a new connection.
pub(super) async fn begin(mut connection: MultiplexedConnection) -> Result<(), RedisError> {
    let info: Value = cmd("INFO").arg("server").query_async(&mut connection).await?;
    let run_id =
        reply::run_id(&info).map_err(|error| (redis::ErrorKind::Io, "INFO server", error.to_string()))?;
    let _since: Value = Script::new(BEGIN)
        .key(KEY)
        .arg(run_id)
        .invoke_async(&mut connection)
        .await?;
    Ok(())
}

/// Reads the beginning of memory.
pub(super) fn since(value: &Value) -> Result<i64, BusError> {
    reply::text(value)
        .and_then(|text| text.parse().ok())
        .ok_or(BusError::Unexpected("beginning of the memory of claims"))
}
