//! Which event bus does a process use?

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use caracal_bus::{Bus, RedisBus};

/// The value of `REDIS_URL` that stands for the in-process bus of `caracal dev`.
pub(crate) const IN_PROCESS: &str = "memory:";

/// Connects to Redis.
///
/// # Errors
/// When the URL is the in-process one, which only `caracal dev` can provide, or Redis cannot be reached.
pub(crate) fn connect(url: &str) -> Result<Arc<dyn Bus>> {
    if url.starts_with(IN_PROCESS) {
        bail!(
            "REDIS_URL: `{IN_PROCESS}` works only inside `caracal dev`; give the URL of a Redis 7, for example redis://127.0.0.1:6379"
        );
    }
    let bus = RedisBus::connect(url)
        .context("REDIS_URL: cannot connect to Redis; is it running, and is the URL right?")?;
    Ok(Arc::new(bus))
}
