//! Typed ids, scopes and the state machines of sessions and delegations.
//!
//! This crate is pure: it performs no I/O, reads no clock and draws no random numbers. Whoever needs the current
//! time passes it in. The words used here are those of `docs/glossary.md`; the rules of delegation are written
//! down in `docs/contract/delegation-rules.md`.

pub mod approval;
pub mod delegation;
pub mod id;
pub mod operation;
pub mod revocation;
pub mod scope;
pub mod session;
pub mod text;
pub mod time;

pub use approval::{ApprovalState, ApprovalTimes};
pub use delegation::{Authority, Constraints, DelegationEdge, Exceeds, Lineage, LineageError};
pub use id::{
    AdminTokenId, ApplicationId, ApprovalId, AuthorityRecordId, DelegationId, EventId, GrantId, IdError,
    KeyId, PolicyId, PolicySetId, PolicySetVersionId, PolicyVersionId, ProviderId, RequestId, ResourceId,
    SessionId, SubjectIssuerId, TokenId, ZoneId,
};
pub use operation::{Operation, Operations};
pub use revocation::{Anchor, AnchorKind, Anchors};
pub use scope::ScopeSet;
pub use session::{Lifecycle, SessionState, SessionStatus};
pub use text::{ResourceIdentifier, SubjectId, TextError};
pub use time::{UnixMicros, UnixSeconds};
