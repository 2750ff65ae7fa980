//! A migration that is added must reach the template database of the next test.

fn main() {
    println!("cargo:rerun-if-changed=../../migrations/sql");
}
