//! Stage 2b: would the STS refuse the operation? An early no, before the mandate is burned and authority is asked for.
//!
//! The STS decides the operation of every call that goes on, so this grants nothing and gives no proof. Only a proven caller, and
//! one whose mandate is for the resource, is told that an operation is not declared.

use caracal_wire::error::ErrorCode;

use super::authenticate::{Caller, Signature};
use super::route::Straight;
use super::{authenticate, replay, revocation};
use crate::Gateway;
use crate::context::Observation;
use crate::denial::Denial;
use crate::snapshot::operations::{Call, declared_path};

/// Longest part of a path that is recorded, in characters.
const RECORDED_CHARS_MAX: usize = 1_024;

/// Whether memory speaks against the operation. Two map reads where nothing is enforced; never waits.
pub(crate) fn is_doubtful(gateway: &Gateway, route: &Straight, caller: &Caller, seen: &Observation) -> bool {
    gateway.operations.doubts(call(route, caller, seen))
}

/// Refuses a doubtful operation if the STS would refuse it now. One call to the STS, shared with others of the moment. What is
/// looked at before an operation otherwise, is looked at before this refusal: earlier use and revocation.
///
/// # Errors
/// [`Denial::OperationNotPermitted`]; those of [`replay::peek`] and [`revocation::unrevoked`].
pub(crate) async fn settle(
    gateway: &Gateway,
    route: &Straight,
    caller: &Caller,
    seen: &Observation,
) -> Result<(), Denial> {
    // Whose signature is not right is nobody: the STS says so.
    if authenticate::signature(gateway, caller).await != Signature::Right
        || !gateway.operations.refuses(call(route, caller, seen)).await
    {
        return Ok(());
    }
    replay::peek(gateway, caller)?;
    revocation::unrevoked(caller)?;
    let path = declared_path(route.route().path());
    let recorded: String = path.chars().take(RECORDED_CHARS_MAX).collect();
    Err(Denial::OperationNotPermitted(recorded.into()))
}

/// Takes note of a call that the STS refused for its operation: something is known here that is no more.
pub(crate) fn learn(gateway: &Gateway, caller: &Caller, denial: &Denial) {
    if let Denial::StsRefused(relayed) = denial
        && relayed.code == ErrorCode::OperationNotPermitted.as_str()
    {
        gateway.operations.note_refusal(&caller.claims().zone_id);
    }
}

fn call<'a>(route: &'a Straight, caller: &'a Caller, seen: &'a Observation) -> Call<'a> {
    Call {
        resource: route.route().resource(),
        method: &seen.method,
        raw_path: route.route().path(),
        claims: caller.claims(),
    }
}
