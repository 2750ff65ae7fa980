//! What the gateway keeps in memory and refreshes in the background: routes, keys, revocations.

pub(crate) mod keys;
pub(crate) mod reload;
pub(crate) mod revocations;
pub(crate) mod routes;
pub(crate) mod skew;
