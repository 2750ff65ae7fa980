//! The stages of a request, in order. Each takes the proof of the one before and returns its own.
//!
//! Fields of a proof are private to the file of its stage, so that no other code can make one: skipping a stage or
//! forging its result does not compile. `crate::admit` is the order.

pub(crate) mod audit;
pub(crate) mod authenticate;
pub(crate) mod exchange;
pub(crate) mod forward;
pub(crate) mod inject;
pub(crate) mod replay;
pub(crate) mod revocation;
pub(crate) mod route;
pub(crate) mod stream;
