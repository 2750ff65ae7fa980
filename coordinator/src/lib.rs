//! Sessions and delegations: lifecycle, cascades, revocation events.
