//! Test support: databases, stores, keys, clocks, whole stacks.
