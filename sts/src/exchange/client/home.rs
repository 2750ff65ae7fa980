//! In which zone is an application? For clients that name themselves and no zone.

use std::net::IpAddr;

use caracal_model::{ApplicationId, ZoneId};
use caracal_storage::zone_model;

use super::Caller;
use crate::exchange::refusal::Refusal;
use crate::state::Sts;

/// How many are remembered: only applications that have proved who they are.
const HOMES_MAX: u64 = 100_000;

/// The zones of applications. An application never moves to another zone.
#[derive(Debug)]
pub(crate) struct Homes(moka::sync::Cache<ApplicationId, ZoneId>);

impl Homes {
    pub(crate) fn new() -> Self {
        Self(moka::sync::Cache::new(HOMES_MAX))
    }

    /// Remembers where a client is that has proved who it is.
    pub(crate) fn remember(&self, caller: &Caller) {
        let (application, zone) = (&caller.application().id, &caller.zone().id);
        if !self.0.contains_key(application) {
            self.0.insert(application.clone(), zone.clone());
        }
    }
}

/// The zone of an application that has proved itself here. One map read.
pub(crate) fn known(sts: &Sts, application_id: &str) -> Option<ZoneId> {
    sts.homes.0.get(&ApplicationId::try_from(application_id).ok()?)
}

/// The zone of an application, `None` for one that does not exist. Cost: one map read, or one statement for an application
/// that has not proved itself here yet; that takes a place in the queue of derivations, so strangers cause few.
///
/// # Errors
/// [`Refusal::VerifierBusy`] and [`Refusal::ZoneUnavailable`].
pub(crate) async fn zone_of(
    sts: &Sts,
    application_id: &str,
    source: IpAddr,
) -> Result<Option<ZoneId>, Refusal> {
    let Ok(id) = ApplicationId::try_from(application_id) else {
        return Ok(None);
    };
    if let Some(zone) = sts.homes.0.get(&id) {
        return Ok(Some(zone));
    }
    let _place = sts.secrets.enter(source).ok_or(Refusal::VerifierBusy)?;
    stored_zone(sts, &id).await
}

/// The zone of an application as the database has it: one statement.
///
/// # Errors
/// [`Refusal::ZoneUnavailable`].
pub(super) async fn stored_zone(sts: &Sts, id: &ApplicationId) -> Result<Option<ZoneId>, Refusal> {
    let mut tx = sts.database.read().await.or(Err(Refusal::ZoneUnavailable))?;
    let found = zone_model::application_zone(&mut tx, id).await;
    let found = found.or(Err(Refusal::ZoneUnavailable))?;
    Ok(found.map(|(zone, _)| zone))
}
