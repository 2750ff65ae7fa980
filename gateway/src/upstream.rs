//! Which of an upstream's addresses is a request sent to?

mod outliers;

pub(crate) use outliers::{EjectionRules, Outliers};
