//! How does a test fail over from one Redis to another? With servers of its own, which it may kill.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use crate::port::ReservedPort;
use crate::process::{Process, ProcessSpec};
use crate::wait::wait_until;

/// Time for a server to start, or to have copied another one.
const SOON: Duration = Duration::from_secs(30);

/// A Redis server that keeps nothing on disk. It ends when dropped.
#[derive(Debug)]
pub struct RedisServer {
    process: Process,
    address: SocketAddr,
    _port: ReservedPort,
    _folder: TempDir,
}

impl RedisServer {
    /// Starts an empty one.
    ///
    /// # Panics
    /// When there is no `redis-server`, or it does not start.
    pub async fn start() -> Self {
        let port = ReservedPort::new();
        let folder = TempDir::new().expect("a temporary folder");
        let (number, directory) = (port.number().to_string(), folder.path().display().to_string());
        let mut spec = ProcessSpec::program("redis", PathBuf::from("redis-server"));
        spec.arguments = [
            "--port",
            &number,
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            "--dir",
            &directory,
            "--repl-diskless-sync-delay",
            "0",
        ]
        .map(str::to_owned)
        .to_vec();
        let server = Self {
            process: Process::spawn(spec),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port.number())),
            _port: port,
            _folder: folder,
        };
        wait_until(SOON, async || server.ask(&["PING"]).await.is_some()).await;
        server
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes it a copy of the server behind `primary`, and waits until it is one.
    pub async fn follow(&self, primary: SocketAddr) {
        let (host, port) = (primary.ip().to_string(), primary.port().to_string());
        self.ask(&["REPLICAOF", &host, &port]).await;
        wait_until(SOON, async || {
            let state = self.ask(&["INFO", "replication"]).await;
            state.is_some_and(|state| state.contains("master_link_status:up"))
        })
        .await;
    }

    /// Makes a copy a server of its own.
    pub async fn promote(&self) {
        self.ask(&["REPLICAOF", "NO", "ONE"]).await;
    }

    /// Kills it without a chance to say anything to anybody.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// What it answers to a command, as text.
    async fn ask(&self, words: &[&str]) -> Option<String> {
        let client = redis::Client::open(format!("redis://{}", self.address)).expect("a Redis URL");
        let mut connection = client.get_multiplexed_async_connection().await.ok()?;
        let (name, arguments) = words.split_first()?;
        let answer = redis::cmd(name).arg(arguments).query_async(&mut connection).await;
        answer.ok()
    }
}

#[cfg(test)]
mod tests {
    use redis::AsyncCommands;

    use super::*;

    #[tokio::test]
    async fn a_promoted_copy_has_what_it_was_told_and_goes_on_alone() {
        let mut primary = RedisServer::start().await;
        let copy = RedisServer::start().await;
        let client = redis::Client::open(format!("redis://{}", primary.address())).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let () = connection.set("key", "value").await.unwrap();
        copy.follow(primary.address()).await;
        primary.kill9();
        copy.promote().await;
        assert_eq!(copy.ask(&["GET", "key"]).await.as_deref(), Some("value"));
        assert_eq!(copy.ask(&["SET", "key", "other"]).await.as_deref(), Some("OK"));
    }
}
