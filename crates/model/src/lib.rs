//! Typed ids, scopes and the state machines of sessions and delegations.
