//! Which workload asks, and how is that proved?

use std::sync::Arc;

use caracal_model::{ApplicationId, ResourceId};
use caracal_storage::workload;
use caracal_storage::{StorageError, ZoneScope};
use serde_json::Value;

use super::binding::Binding;
use super::refusal::RunRefusal;
use super::{Claim, evidence};
use crate::exchange::refusal::Refusal;
use crate::limit::lockout::Suspect;
use crate::state::Sts;
use crate::zone::{ZoneError, ZoneModel};

/// A workload that has proved who it is.
#[derive(Debug)]
pub(super) struct Workload {
    pub(super) id: String,
    pub(super) zone: Arc<ZoneModel>,
    bindings: Value,
}

impl Workload {
    /// What it is launched with.
    ///
    /// # Errors
    /// [`RunRefusal::Bindings`] when the stored form is not understood.
    pub(super) fn bindings(&self) -> Result<Vec<Binding>, RunRefusal> {
        serde_json::from_value(self.bindings.clone()).map_err(|error| {
            tracing::error!(workload.id = self.id, %error, "the bindings of a workload cannot be read");
            RunRefusal::Bindings
        })
    }
}

/// Authenticates the caller: one statement and, the first time, one derivation of the secret, both with a place in the same
/// bounded queue as clients, and at the same cost for ids that do not exist. Only a workload that exists is counted, so a stranger can
/// neither fill memory nor use up somebody's budget.
///
/// # Errors
/// [`RunRefusal::Workload`] for every failure alike, [`RunRefusal::Common`] when the source is locked out or too many
/// wait, [`RunRefusal::RateLimited`].
pub(super) async fn authenticate(sts: &Sts, claim: &Claim, endpoint: &str) -> Result<Workload, RunRefusal> {
    let suspect = Suspect::new(&format!("workload:{}", claim.unverified_id), claim.source);
    if sts.lockout.is_blocked(suspect, sts.clock.unix_micros()) {
        return Err(RunRefusal::Common(Refusal::LockedOut));
    }
    // Only who has a place costs a statement.
    let place = sts.secrets.enter(claim.source);
    let place = place.ok_or(RunRefusal::Common(Refusal::VerifierBusy))?;
    let found = find(sts, &claim.unverified_id).await.map_err(|error| {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "a workload cannot be read"
        );
        RunRefusal::Common(Refusal::ZoneUnavailable)
    })?;
    let stored: Option<Arc<str>> = found.as_ref().map(|found| Arc::from(found.secret_hash.as_str()));
    let is_known = stored
        .as_ref()
        .is_some_and(|stored| sts.secrets.knows(&claim.secret, stored));
    let is_proven = is_known || sts.secrets.derive(&place, &claim.secret, stored.as_ref()).await;
    drop(place);
    if !is_proven {
        let locks_out = sts.lockout.count_failure(suspect, sts.clock.unix_micros());
        if let Some(found) = &found {
            evidence::not_authenticated(sts, claim, &found.zone_id).await;
        }
        return Err(if locks_out {
            RunRefusal::Common(Refusal::LockedOut)
        } else {
            RunRefusal::Workload
        });
    }
    let found = found.ok_or(RunRefusal::Workload)?;
    let zone = match sts.zones.model(&found.zone_id).await {
        Ok(zone) => zone,
        Err(ZoneError::Unknown) => return Err(RunRefusal::Workload),
        Err(ZoneError::Unavailable) => return Err(RunRefusal::Common(Refusal::ZoneUnavailable)),
    };
    count(sts, &zone, &claim.unverified_id, endpoint)?;
    Ok(Workload {
        id: claim.unverified_id.clone(),
        zone,
        bindings: found.bindings,
    })
}

async fn find(sts: &Sts, id: &str) -> Result<Option<workload::Credentials>, StorageError> {
    // Ids have the form of every other id; a text that is none cannot be the id of a workload.
    if ApplicationId::try_from(id).is_err() {
        return Ok(None);
    }
    let mut tx = sts.database.read_in(ZoneScope::All).await?;
    workload::credentials(&mut tx, id).await
}

/// The budgets are those of mints, under names no resource has: identifiers of rows are never words with a colon.
fn count(sts: &Sts, zone: &ZoneModel, workload: &str, endpoint: &str) -> Result<(), RunRefusal> {
    let key = (
        zone.id.clone(),
        ResourceId::try_from(format!("run:{endpoint}")).or(Err(RunRefusal::Workload))?,
        ApplicationId::try_from(workload).or(Err(RunRefusal::Workload))?,
    );
    let rate = zone.usual_rate(sts.settings.mints_per_minute);
    let admitted = sts.mint_rate.admit(key, rate, sts.clock.unix_micros());
    admitted.map_err(|spent| RunRefusal::RateLimited(spent.retry_after_s))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Duration;

    use caracal_chassis::Secret;

    use super::*;
    use crate::rig::Rig;

    fn claim(last: u8) -> Claim {
        Claim {
            unverified_id: "w-nobody".to_owned(),
            secret: Secret::from("wrong"),
            launch_id: None,
            request_id: "req-1".to_owned(),
            source: IpAddr::from([192, 0, 2, last]),
            wait: Duration::ZERO,
        }
    }

    #[tokio::test]
    async fn who_guesses_locks_out_himself_and_ids_that_do_not_exist_are_no_exception() {
        let rig = Rig::new().await;
        let refusal = async |last: u8| {
            let outcome = authenticate(&rig.sts, &claim(last), "manifest").await;
            outcome.unwrap_err()
        };
        let suspect = Suspect::new("workload:w-nobody", claim(1).source);
        let now_us = rig.sts.clock.unix_micros();
        while !rig.sts.lockout.count_failure(suspect, now_us) {}
        assert_eq!(refusal(1).await, RunRefusal::Common(Refusal::LockedOut));
        assert_eq!(
            refusal(2).await,
            RunRefusal::Workload,
            "another source is not concerned"
        );
        assert!(
            !rig.sts
                .lockout
                .is_blocked(Suspect::new("w-nobody", claim(1).source), now_us),
            "nor is an application of the same name"
        );
        let suspect = Suspect::new("workload:w-nobody", claim(3).source);
        for _failure in 0..60 {
            assert!(!rig.sts.lockout.count_failure(suspect, now_us));
        }
        assert_eq!(
            refusal(3).await,
            RunRefusal::Common(Refusal::LockedOut),
            "a failure of its own is counted"
        );
    }

    #[tokio::test]
    async fn too_many_derivations_at_once_are_not_begun() {
        let rig = Rig::new().await;
        let source = claim(1).source;
        let places: Vec<_> = std::iter::from_fn(|| rig.sts.secrets.enter(source)).collect();
        let before = rig.counts().statements;
        let refusal = authenticate(&rig.sts, &claim(1), "manifest").await.unwrap_err();
        assert_eq!(refusal, RunRefusal::Common(Refusal::VerifierBusy));
        assert_eq!(
            rig.counts().statements,
            before,
            "nor is anything asked of the database"
        );
        drop(places);
    }
}
