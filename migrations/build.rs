//! Rebuilds the crate when a migration is added or changed: they are embedded by a macro that cargo cannot see through.

fn main() {
    println!("cargo:rerun-if-changed=sql");
}
