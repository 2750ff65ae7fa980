//! The scenarios: each starts a stack of its own, measures, and adds to the report.

pub(crate) mod gateway;
pub(crate) mod propagation;
pub(crate) mod streams;
pub(crate) mod sts;
