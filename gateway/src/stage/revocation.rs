//! Stage 3: is anything the mandate stands on revoked? Memory only; knowledge that is not fresh refuses.

use std::sync::Arc;

use super::authenticate::Caller;
use super::replay::{OneUse, Unseen};
use crate::Gateway;
use crate::denial::Denial;

/// Proof that everything revoked up to a moment ago is known here.
#[derive(Debug)]
pub struct Fresh(());

/// Asks how complete the knowledge of revocations is. One atomic load.
///
/// # Errors
/// [`Denial::RevocationStale`].
pub(crate) fn fresh(gateway: &Gateway) -> Result<Fresh, Denial> {
    if gateway.revocations.is_fresh(gateway.clock.now()) {
        Ok(Fresh(()))
    } else {
        Err(Denial::RevocationStale)
    }
}

/// Proof that a genuine mandate, not used before as far as this process knows, stands on nothing revoked.
#[derive(Debug)]
pub struct Standing(Arc<OneUse>);

impl Standing {
    /// Whose mandate it is.
    pub(crate) fn caller(&self) -> &Caller {
        self.0.caller()
    }

    /// Which use of it.
    pub(super) fn one_use(&self) -> &OneUse {
        &self.0
    }
}

/// Asks both questions again: between the first answer and the upstream lie an exchange, a lookup, an append and a
/// connect, each of which may take seconds. Memory only.
///
/// # Errors
/// [`Denial::RevocationStale`], [`Denial::Revoked`].
pub(crate) fn recheck(gateway: &Gateway, standing: &Standing) -> Result<(), Denial> {
    let Fresh(()) = fresh(gateway)?;
    unrevoked(standing.caller())
}

/// Looks the four anchors up. At most four reads in memory; one when nothing was revoked since the last time.
///
/// # Errors
/// [`Denial::Revoked`].
pub(crate) fn check(unseen: Unseen) -> Result<Standing, Denial> {
    let this = unseen.into_use();
    let Fresh(()) = this.caller().fresh();
    unrevoked(this.caller())?;
    Ok(Standing(this))
}

/// The same of a caller that gets no further.
///
/// # Errors
/// [`Denial::Revoked`].
pub(super) fn unrevoked(caller: &Caller) -> Result<(), Denial> {
    match caller.held().revoked() {
        Some(anchor) => Err(Denial::Revoked(anchor.clone())),
        None => Ok(()),
    }
}
