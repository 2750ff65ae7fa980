//! Benches and load scenarios.
//!
//! `cargo bench -p caracal-bench` runs the micro benches in `benches/`: the processor time of each
//! thing a governed request does. Everything they measure is in memory.
