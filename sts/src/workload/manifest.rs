//! What is a workload launched with?

use caracal_model::ZoneId;
use serde::Serialize;

use super::authenticate::authenticate;
use super::binding::Binding;
use super::refusal::RunRefusal;
use super::{Claim, evidence};
use crate::state::Sts;

/// The answer.
#[derive(Debug, Serialize)]
pub(crate) struct Manifest {
    zone_id: ZoneId,
    workload_id: String,
    bindings: Vec<Binding>,
}

/// The bindings of the workload; recorded before they are shown.
///
/// # Errors
/// [`RunRefusal`], the first in the order of the contract.
pub(crate) async fn manifest(sts: &Sts, claim: &Claim) -> Result<Manifest, RunRefusal> {
    let workload = authenticate(sts, claim, "manifest").await?;
    let bindings = workload.bindings()?;
    if bindings.is_empty() {
        return Err(RunRefusal::NoBindings);
    }
    evidence::launched(sts, claim, &workload.zone.id, bindings.len()).await?;
    Ok(Manifest {
        zone_id: workload.zone.id.clone(),
        workload_id: workload.id,
        bindings,
    })
}
