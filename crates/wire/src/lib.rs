//! Everything that crosses a process: forms, bodies, headers, events, signatures.
//!
//! Bytes in, bytes out. Nothing here performs I/O, reads a clock or draws random numbers. The facts are those of
//! `docs/contract/wire-formats.md`, `docs/contract/streams.md` and `docs/contract/audit-events.md`; each module names
//! its section.
//!
//! | module | question |
//! |---|---|
//! | [`form`] | what does this form body say? |
//! | [`sts`] | what does the token endpoint take and give? |
//! | [`error`] | how does a service say no? |
//! | [`approval`] | how does a service say "ask a human first"? |
//! | [`gateway_signature`] | did our gateway send this? |
//! | [`gateway_document`] | what does the token service keep for gateways? |
//! | [`gateway_operations`] | what does the token service tell gateways about operations? |
//! | [`stream`] | which streams exist, and who signed this entry? |
//! | [`event`] | what does this stream entry say? |
//! | [`audit`] | what happened, and is the ledger whole? |
//! | [`header`] | which headers are ours, which end at one hop? |
//! | [`trace`] | which trace does this request belong to? |
//! | [`path`] | does this path climb? |
//! | [`proxy_header`] | on whose behalf does a load balancer connect? |
//! | [`policy`] | what is asked about policies between services? |
//! | [`manifest`] | which policy versions does this set hold? |
//! | [`key_name`] | under which name is this kept in the shared store? |

mod digest;
mod json_text;

pub mod answer_mac;
pub mod approval;
pub mod audit;
pub mod channel;
pub mod error;
pub mod event;
pub mod form;
pub mod gateway_document;
pub mod gateway_operations;
pub mod gateway_signature;
pub mod header;
pub mod key_name;
pub mod manifest;
pub mod path;
pub mod policy;
pub mod proxy_header;
pub mod stream;
pub mod sts;
pub mod trace;
