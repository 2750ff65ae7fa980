//! Governed sessions: how they start, end, and look to a caller.

pub(crate) mod inherit;
pub(crate) mod start;
pub(crate) mod terminate;
pub(crate) mod view;
