//! What have users allowed applications to do for them (`docs/contract/admin-api.md` section 6.5)?
//!
//! A record for people. No exchange reads it: what is granted follows from policy alone. Taking one back takes back what
//! the user has under way.

use caracal_model::{ApplicationId, GrantId, ResourceId, SubjectId, ZoneId};
use caracal_storage::delegated_grant::{self, Filter, Grant, NamedGrant, NewGrant};
use caracal_storage::outbox::Producer;
use caracal_storage::page::Page;
use caracal_storage::revocation_cascade::{self, Root};
use caracal_storage::{ZoneScope, application, resource};
use serde_json::{Map, Value};

use crate::caller::Caller;
use crate::change::{Change, Done, Kind};
use crate::control::Control;
use crate::ids;
use crate::refusal::{Code, Refusal};

/// Why a user's authority ends with a grant.
const REASON: &str = "grant_revoked";

/// What a caller asks for.
#[derive(Debug)]
pub(crate) struct CreateGrant {
    pub(crate) application_id: ApplicationId,
    pub(crate) user_id: SubjectId,
    pub(crate) resource_id: ResourceId,
    pub(crate) scopes: Vec<String>,
}

/// Grants of a zone.
pub(crate) async fn list(
    control: &Control,
    zone: &ZoneId,
    filter: &Filter,
    page: &Page,
) -> Result<Vec<NamedGrant>, Refusal> {
    let mut tx = control.database.read_in(ZoneScope::Zone(zone)).await?;
    Ok(delegated_grant::list(&mut tx, zone, filter, page).await?)
}

/// One grant, whatever its state.
pub(crate) async fn find(control: &Control, zone: &ZoneId, id: &GrantId) -> Result<Grant, Refusal> {
    let mut tx = control.database.read_in(ZoneScope::Zone(zone)).await?;
    let found = delegated_grant::find(&mut tx, zone, id).await?;
    found.ok_or_else(|| Code::GrantNotFound.into())
}

/// Makes a grant for a live application, within what the resource declares.
pub(crate) async fn create(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    request: &CreateGrant,
    members: &Map<String, Value>,
) -> Result<Grant, Refusal> {
    let id: GrantId = ids::new()?;
    let mut change = Change::in_zone(control, caller, zone).await?;
    let now = control.clock.unix_seconds();
    application::find(change.tx(), zone, &request.application_id)
        .await?
        .filter(|found| found.expires_at.is_none_or(|end| end.unix_timestamp() > now))
        .ok_or(Code::ApplicationNotFound)?;
    let resource = resource::find(change.tx(), zone, &request.resource_id)
        .await?
        .ok_or(Code::ResourceNotFound)?;
    if resource.identifier == control.audience {
        return Err(Code::ControlResourceNotGrantable.into());
    }
    if let Some(beyond) = request
        .scopes
        .iter()
        .find(|scope| !resource.scopes.contains(scope))
    {
        let sentence = format!("The resource does not declare {beyond}");
        return Err(Refusal::because(Code::GrantScopesExceedResource, sentence));
    }
    let new = NewGrant {
        id: &id,
        application_id: &request.application_id,
        user_id: &request.user_id,
        resource_id: &request.resource_id,
        scopes: &request.scopes,
    };
    let made = delegated_grant::insert(change.tx(), zone, &new, caller.by()).await?;
    change
        .commit(done(zone, &id, 201, Kind::Create, Some(members)))
        .await?;
    Ok(made)
}

/// Revokes a grant and ends everything its user has under way in the zone. Again is no error, and ends nothing more.
pub(crate) async fn revoke(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    id: &GrantId,
) -> Result<(), Refusal> {
    let mut change = Change::in_zone(control, caller, zone).await?;
    match delegated_grant::revoke(change.tx(), zone, id, caller.by()).await? {
        Some(revoked) => {
            let root = Root::Grant {
                id,
                user: &revoked.user_id,
            };
            revocation_cascade::revoke(change.tx(), Producer::Api, zone, root, REASON).await?;
        }
        // What its user has begun since has nothing to do with it.
        None => {
            delegated_grant::find(&mut *change.tx(), zone, id)
                .await?
                .ok_or(Code::GrantNotFound)?;
        }
    }
    change.commit(done(zone, id, 204, Kind::Delete, None)).await
}

fn done<'a>(
    zone: &'a ZoneId,
    id: &'a GrantId,
    status: u16,
    kind: Kind,
    members: Option<&'a Map<String, Value>>,
) -> Done<'a> {
    Done {
        status,
        kind,
        entity: ("grants", id.as_str()),
        zone,
        members,
    }
}
