//! Policy decisions: the native decision contract and full Rego policies.
