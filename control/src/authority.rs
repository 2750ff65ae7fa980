//! Taking one authority record back.

use caracal_model::{AuthorityRecordId, ZoneId};
use caracal_storage::audit_read;
use caracal_storage::outbox::Producer;
use caracal_storage::revocation_cascade::{self, Revoked, Root};
use serde_json::{Map, Value};

use crate::caller::Caller;
use crate::change::{Change, Done, Kind};
use crate::control::Control;
use crate::refusal::{Code, Refusal};

/// Why a record is revoked when nobody says.
pub(crate) const REASON_DEFAULT: &str = "authority_record_revoked";

/// Revokes a record and everything below it. Revoking again finds nothing left to end and is no error.
pub(crate) async fn revoke(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    id: &AuthorityRecordId,
    reason: &str,
    members: &Map<String, Value>,
) -> Result<Revoked, Refusal> {
    let mut change = Change::in_zone(control, caller, zone).await?;
    audit_read::authority_record(change.tx(), zone, id)
        .await?
        .ok_or(Code::AuthorityRecordNotFound)?;
    let root = Root::AuthorityRecord(id);
    let revoked = revocation_cascade::revoke(change.tx(), Producer::Api, zone, root, reason).await?;
    let done = Done {
        status: 200,
        kind: Kind::Action,
        entity: ("authority-records", id.as_str()),
        zone,
        members: Some(members),
    };
    change.commit(done).await?;
    Ok(revoked)
}
