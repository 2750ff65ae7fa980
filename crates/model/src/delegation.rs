//! What may be passed on from one session to another, and does a presented delegation still hold?
//!
//! - [`constraints`]: what the JSON of an edge says, read strictly;
//! - [`authority`]: whether a child edge stays within its parent (narrowing);
//! - [`edge`]: one edge with everything the token exchange needs of it;
//! - [`lineage`]: whether a whole path of edges supports a request;
//! - [`refusal`]: with which sentence it is refused;
//! - [`cycle`]: whether a new edge would close a circle.
//!
//! The rules are those of `docs/contract/delegation-rules.md`.

pub mod authority;
pub mod constraints;
pub mod cycle;
pub mod edge;
pub mod lineage;
pub mod refusal;

pub use authority::{
    Authority, Exceeds, Inbound, InboundEdge, LapsedAuthority, ParentError, Source, attenuate,
    authority_to_delegate, resolve_parent,
};
pub use constraints::{Budget, ConstraintError, Constraints};
pub use cycle::would_cycle;
pub use edge::{DelegationEdge, EdgeStatus};
pub use lineage::{Chain, ChainHop, Lineage, Request};
pub use refusal::{LineageError, ReferenceError};
