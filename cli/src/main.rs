//! The `caracal` executable.
fn main() {}
