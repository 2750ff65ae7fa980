//! What may a workload be launched with, and the credentials for it (`docs/contract/run.md`).
//!
//! A workload is no application: it proves itself with a secret of its own, gets no mandate, and is not told about anything
//! that its bindings do not name.

mod approval;
mod authenticate;
mod binding;
mod credential;
mod evidence;
mod manifest;
pub(crate) mod refusal;

use std::net::IpAddr;
use std::time::Duration;

use caracal_chassis::Secret;

pub(crate) use self::credential::{Wanted, credential};
pub(crate) use self::manifest::manifest;

/// Who asks, as it says.
#[derive(Debug)]
pub(crate) struct Claim {
    /// The id the caller gives; it need not exist.
    pub(crate) unverified_id: String,
    pub(crate) secret: Secret,
    /// Names one launch in the evidence, if the caller named it.
    pub(crate) launch_id: Option<String>,
    pub(crate) request_id: String,
    pub(crate) source: IpAddr,
    /// How long it may wait for a provider.
    pub(crate) wait: Duration,
}
