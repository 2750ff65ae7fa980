//! The stages of a request, in order. Each takes the proof of the one before and returns its own.
//!
//! Fields of a proof are private to the file of its stage, so that no other code can make one: skipping a stage or
//! forging its result does not compile. `crate::admit` is the order. The proofs have names outside of the crate only
//! so that this can be shown:
//!
//! ```
//! use caracal_gateway::stage::{audit::Recorded, replay::FirstUse, revocation::Fresh, revocation::Standing};
//! fn names_can_be_said(_: Option<(Fresh, Standing, FirstUse, Recorded)>) {}
//! ```
//!
//! ```compile_fail,E0423
//! let forged = caracal_gateway::stage::replay::FirstUse(());
//! ```
//!
//! ```compile_fail,E0423
//! let forged = caracal_gateway::stage::revocation::Fresh(());
//! ```
//!
//! ```compile_fail,E0423
//! let forged = caracal_gateway::stage::audit::Recorded(());
//! ```

pub mod audit;
pub(crate) mod authenticate;
pub(crate) mod exchange;
pub(crate) mod forward;
pub(crate) mod inject;
pub(crate) mod operation;
pub(crate) mod possession;
pub mod replay;
pub mod revocation;
pub(crate) mod route;
pub(crate) mod stream;
