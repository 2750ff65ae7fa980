//! Which of an upstream's addresses is a request sent to, and as whom does the gateway present itself there?

mod identity;
mod outliers;

pub(crate) use identity::{Identity, IdentityFiles};
pub(crate) use outliers::{EjectionRules, Outliers};
