//! Making, changing and ending applications.

pub(crate) mod keys;
mod traits;

use caracal_chassis::Secret;
use caracal_model::{ApplicationId, ZoneId};
use caracal_storage::application::{self, Application, ApplicationChange, Bound, NewApplication};
use caracal_storage::outbox::Producer;
use caracal_storage::page::Page;
use caracal_storage::revocation_cascade::{self, Root};
use caracal_storage::{StorageError, ZoneScope, binding, secret, zone};
use caracal_token::client_secret;
use serde_json::{Map, Value};

use crate::caller::Caller;
use crate::change::{Change, Done, Kind};
use crate::control::Control;
use crate::refusal::{Code, Refusal};
use crate::{ids, reserved};

const NAME_KEY: &str = "applications_zone_name_key";

/// What a caller asks for.
#[derive(Debug)]
pub(crate) struct CreateApplication {
    pub(crate) name: String,
    pub(crate) traits: Vec<String>,
    pub(crate) bound: Bound,
}

/// What a caller changes.
#[derive(Debug, Default)]
pub(crate) struct PatchApplication {
    pub(crate) name: Option<String>,
    pub(crate) traits: Option<Vec<String>>,
    pub(crate) client_secret: Option<Secret>,
    pub(crate) dpop_bound: Option<bool>,
    pub(crate) certificate_bound: Option<bool>,
}

/// Applications of a zone: the archived ones or the others.
pub(crate) async fn list(
    control: &Control,
    zone: &ZoneId,
    archived: bool,
    page: &Page,
) -> Result<Vec<Application>, Refusal> {
    let mut tx = control.database.read_in(ZoneScope::Zone(zone)).await?;
    Ok(application::list(&mut tx, zone, archived, page).await?)
}

/// One application that is not archived.
pub(crate) async fn find(
    control: &Control,
    zone: &ZoneId,
    id: &ApplicationId,
) -> Result<Application, Refusal> {
    let mut tx = control.database.read_in(ZoneScope::Zone(zone)).await?;
    application::find(&mut tx, zone, id)
        .await?
        .ok_or_else(|| Code::ApplicationNotFound.into())
}

/// Makes an application; its secret is in the answer and nowhere else.
pub(crate) async fn create(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    request: &CreateApplication,
    members: &Map<String, Value>,
) -> Result<(Application, Secret), Refusal> {
    reserved::check_name(&caller.actor, &request.name)?;
    traits::check(&request.traits, caller.actor.is_global())?;
    let secret = Secret::new(client_secret::generate("cs_"));
    // Hashed before the transaction begins: nobody waits for a lock while it runs.
    let hash = control.hash_secret(&secret).await?;
    let id: ApplicationId = ids::new()?;
    let mut change = Change::in_zone(control, caller, zone).await?;
    if !zone::hold(change.tx(), zone).await? {
        return Err(Code::ZoneNotFound.into());
    }
    let new = NewApplication {
        id: &id,
        zone_id: zone,
        name: &request.name,
        traits: &request.traits,
        bound: request.bound,
        client_secret_hash: &hash,
        by: caller.by(),
    };
    let made = application::insert(change.tx(), &new)
        .await
        .map_err(name_conflict)?;
    change
        .commit(done(zone, &id, 201, Kind::Create, Some(members)))
        .await?;
    Ok((made, secret))
}

/// Replaces the secret; the old one ends with the answer.
pub(crate) async fn rotate_secret(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    id: &ApplicationId,
) -> Result<(Application, Secret), Refusal> {
    // Looked up first, so that guessing ids does not buy hashes.
    find(control, zone, id).await?;
    let secret = Secret::new(client_secret::generate("cs_"));
    let hash = control.hash_secret(&secret).await?;
    let mut change = Change::in_zone(control, caller, zone).await?;
    let columns = ApplicationChange {
        client_secret_hash: Some(&hash),
        ..ApplicationChange::default()
    };
    let changed = application::update(change.tx(), zone, id, &columns, caller.by())
        .await?
        .ok_or(Code::ApplicationNotFound)?;
    change
        .commit(done(zone, id, 200, Kind::SecretRotation, None))
        .await?;
    Ok((changed, secret))
}

/// Changes an application.
pub(crate) async fn patch(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    id: &ApplicationId,
    request: &PatchApplication,
    members: &Map<String, Value>,
) -> Result<Application, Refusal> {
    if let Some(name) = &request.name {
        reserved::check_name(&caller.actor, name)?;
    }
    if let Some(traits) = &request.traits {
        traits::check(traits, caller.actor.is_global())?;
    }
    let before = find(control, zone, id).await?;
    if request.client_secret.is_some() && !before.has_secret {
        return Err(Code::ClientSecretNotConfigured.into());
    }
    if request.traits.is_some() && !caller.actor.is_global() {
        traits::check(&before.traits, false)?;
    }
    let hash = match &request.client_secret {
        Some(secret) => Some(control.hash_secret(secret).await?),
        None => None,
    };
    let mut change = Change::in_zone(control, caller, zone).await?;
    let columns = ApplicationChange {
        name: request.name.as_deref(),
        traits: request.traits.as_deref(),
        client_secret_hash: hash.as_deref(),
        dpop_bound: request.dpop_bound,
        certificate_bound: request.certificate_bound,
    };
    let changed = application::update(change.tx(), zone, id, &columns, caller.by())
        .await
        .map_err(name_conflict)?
        .ok_or(Code::ApplicationNotFound)?;
    change
        .commit(done(zone, id, 200, Kind::Update, Some(members)))
        .await?;
    Ok(changed)
}

/// Archives an application and ends everything that was alive through it.
pub(crate) async fn archive(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    id: &ApplicationId,
) -> Result<(), Refusal> {
    let mut change = Change::in_zone(control, caller, zone).await?;
    let root = Root::Application(id);
    revocation_cascade::revoke(change.tx(), Producer::Api, zone, root, "application_archived").await?;
    if !application::archive(change.tx(), zone, id, caller.by()).await? {
        return Err(Code::ApplicationNotFound.into());
    }
    binding::delete_of(change.tx(), zone, id).await?;
    secret::delete(
        change.tx(),
        zone,
        &format!("zones/{zone}/applications/{id}/clientSecret"),
    )
    .await?;
    change.commit(done(zone, id, 204, Kind::Delete, None)).await
}

fn done<'a>(
    zone: &'a ZoneId,
    id: &'a ApplicationId,
    status: u16,
    kind: Kind,
    members: Option<&'a Map<String, Value>>,
) -> Done<'a> {
    Done {
        status,
        kind,
        entity: ("applications", id.as_str()),
        zone,
        members,
    }
}

fn name_conflict(error: StorageError) -> Refusal {
    match error.conflict() {
        Some(NAME_KEY) => Code::ApplicationNameTaken.into(),
        _ => error.into(),
    }
}
