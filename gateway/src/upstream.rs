//! Which of an upstream's addresses is a request sent to, and as whom does the gateway present itself there?

mod check;
mod identity;
mod outliers;
mod pool;
mod probes;

pub(crate) use check::{Check, CheckRule, Checks};
pub(crate) use identity::{Identity, IdentityFiles};
pub(crate) use outliers::{ConnectionId, EjectionRules, Failure, Outliers};
pub(crate) use pool::Pool;
pub(crate) use probes::{Prober, run as run_probes};
