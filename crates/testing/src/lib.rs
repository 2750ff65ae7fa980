//! What a test needs besides the code under test: its own database and Redis, keys and mandates, an upstream that
//! remembers, a proxy that fails on demand, and whole stacks of real processes.
//!
//! For tests only: nothing here ships. What cannot be set up panics with the reason and the way to mend it, because a
//! test has nobody to hand an error to.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a test that cannot be set up has failed, and says why"
)]

mod certificate;
mod crossing;
mod database;
mod environment;
mod fault_proxy;
mod identity_provider;
mod keys;
mod live;
mod mandate;
mod open_stream;
mod pebble;
mod port;
mod presigned;
mod process;
mod proof;
mod redis;
mod redis_server;
pub mod stack;
mod tls;
mod upstream;
mod wait;

pub use caracal_migrations::Role;
pub use certificate::ClientCertificate;
pub use crossing::Crossing;
pub use database::TestDatabase;
pub use fault_proxy::FaultProxy;
pub use identity_provider::IdentityProvider;
pub use keys::TestKeys;
pub use live::{LiveBody, LiveUpstream, Pipe, Speaks};
pub use mandate::Mandate;
pub use open_stream::OpenStream;
pub use pebble::{BLOCKED_NAME, Pebble};
pub use port::{free_port, free_ports};
pub use presigned::Presigned;
pub use process::{Process, ProcessSpec};
pub use proof::{ProofKey, ProofText};
pub use redis::TestRedis;
pub use redis_server::RedisServer;
pub use stack::{Answer, Api, Service, Stack, StackOptions, TokenClient};
pub use tls::test_authority;
pub use upstream::{Behaviour, Custom, RecordedRequest, Upstream};
pub use wait::{wait_for, wait_until};
