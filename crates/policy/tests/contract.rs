//! Does the native decision contract decide as it is written down?
//!
//! `reference` evaluates `src/contract.rego` with an interpreter; `cases` are the published facts and
//! ours; `differential` compares the two on generated documents and requests.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "what the generators and the reference share runs only in tests"
)]

mod contract {
    mod cases;
    mod differential;
    mod reference;
}
