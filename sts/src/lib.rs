//! The security token service: RFC 8693 token exchange, keys, key sets.
