//! What must hold of every parser of untrusted bytes, whatever the bytes are?
//!
//! Each target takes any bytes and panics when a promise is broken. `cargo test` runs every target over the kept inputs
//! (`corpus/<target>`) and over generated ones; `./x fuzz` lets libFuzzer look for more, guided by coverage. An input that
//! broke something is kept in the corpus.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a broken promise ends the run, and shows the bytes that broke it"
)]

mod channel;
mod evidence;
mod forms;
mod gateway;
mod http;
mod identity;
mod operations;
mod policy;
mod routes;
mod streams;
mod tokens;

/// A named target.
pub type Target = (&'static str, fn(&[u8]));

/// Every target, by the name of its corpus.
pub const TARGETS: &[Target] = &[
    ("form", forms::form),
    ("token_answer", forms::token_answer),
    ("mandate", tokens::mandate),
    ("key_set", tokens::key_set),
    ("envelope", tokens::envelope),
    ("dpop_proof", tokens::dpop_proof),
    ("client_cert", tokens::client_cert),
    ("id_token", identity::id_token),
    ("issuer_keys", identity::issuer_keys),
    ("client_assertion", identity::client_assertion),
    ("path", http::path),
    ("trace", http::trace),
    ("proxy_header", http::proxy_header),
    ("request_head", gateway::request_head),
    ("response_head", gateway::response_head),
    ("route_table", routes::route_table),
    ("operation_template", operations::operation_template),
    ("upstream_address", gateway::upstream_address),
    ("policy_document", policy::document),
    ("opa_bundle", policy::opa_bundle),
    ("constraints", policy::constraints),
    ("stream_message", streams::message),
    ("stream_signature", streams::signature),
    ("audit_event", evidence::audit_event),
    ("channel_frame", channel::channel_frame),
];

/// Runs one target.
///
/// # Panics
/// When there is no such target, and when a promise is broken.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    let (_, run) = target.unwrap_or_else(|| panic!("no target is called {name}"));
    run(bytes);
}
