//! Benches and load scenarios.
