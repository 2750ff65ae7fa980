//! Black-box tests of the whole product: see `tests/e2e`, one file per promise.
