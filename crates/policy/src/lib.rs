//! Policy decisions: may this principal have this authority on this resource?
//!
//! Adopters write *data documents*: Rego modules that define grants, roles and restrictions, and
//! no decision logic. The platform owns the decision contract, the rules that read those
//! documents (`docs/contract/decision-contract.md`).
//!
//! - [`document`] answers whether a text may be stored as a data document;
//! - [`Bundle::check`] answers whether documents may be put in force, and names the line where they may not;
//! - [`Bundle::compile`] turns the documents of one zone into tables, once, when they are loaded;
//! - [`decide`] applies the contract to the tables and one [`Input`].
//!
//! The contract is native Rust. Its equal in Rego, `contract.rego` beside this file, is the
//! reference the native one is tested against, and its digest names the contract in approvals.
//! Documents that read `input` are evaluated by an interpreter for each decision, with a time
//! limit; all others cost a few hash look-ups. A set may also have a *decision policy*, full Rego that restricts the contract
//! or, where the zone says so, takes its place ([`Regime`]); it runs on a virtual machine with budgets.
//!
//! Nothing here does I/O or reads a clock, the stopwatch of the interpreter aside.

mod analysis;
mod bundle;
mod contract;
mod data;
mod decision;
pub mod document;
mod documents;
mod facts;
mod finding;
mod input;
mod interpreter;
mod measure;
pub mod opa_bundle;
mod place;
mod program;
mod question;
mod regime;
mod shape;
mod simulation;
mod stack;
mod tables;
mod verdict;

pub use bundle::{Bundle, CompileError};
pub use contract::{CONTRACT_VERSION, Explanation, GateReport, PolicyError, contract_sha256, decide};
pub use data::{DECISION_PATH, DataAnswer, DataQuestion};
pub use decision::{
    ApprovalTier, Approver, Decision, DeterminingPolicy, Diagnostic, Privacy, Reason, RiskHit, StepUp,
};
pub use finding::{Finding, Findings};
pub use input::{
    Action, ActionKind, CompleteClaims, Edge, Input, Principal, PrincipalType, Resource, SCHEMA_VERSION,
    SubjectClaims,
};
pub use interpreter::INTERPRETATION_LIMIT;
pub use program::{ALLOCATED_BYTES_MAX, INSTRUCTIONS_MAX, PROGRAM_LIMIT};
pub use question::{Answer, Question, decide_answered, question};
pub use regime::Regime;
pub use simulation::{explain, simulate, with_schema_version};
pub use tables::ShapeError;
