//! What the gateway keeps in memory and refreshes in the background: routes, keys, revocations, operations.

pub(crate) mod keys;
pub(crate) mod operations;
pub(crate) mod reload;
pub(crate) mod revocations;
pub(crate) mod routes;
pub(crate) mod skew;
