//! Black-box tests of the whole product: real processes, real stores, real sockets. One file per promise.

mod crate_rules;
