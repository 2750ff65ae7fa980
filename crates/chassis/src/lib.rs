//! What every service's `main` needs, and nothing a service decides: configuration, logs, clock, shutdown,
//! background tasks, an HTTP server with limits, an HTTP client with limits, health, metrics.
//!
//! Invariant of absence: no word of the product's domain appears here. A zone, a token or a session is not
//! known to this crate; only names of environment variables common to every service are.

pub mod address_range;
pub mod backoff;
mod clock;
pub mod config;
pub mod health;
pub mod http_client;
pub mod metrics;
pub mod open_files;
mod secret;
pub mod server;
pub mod shutdown;
pub mod tasks;
pub mod telemetry;

pub use clock::Clock;
pub use secret::Secret;
