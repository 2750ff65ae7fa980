//! Making, changing and ending zones.

use caracal_model::{KeyId, ZoneId};
use caracal_storage::admin_token::revoke_of_zone;
use caracal_storage::outbox::Producer;
use caracal_storage::page::Page;
use caracal_storage::revocation_cascade::{self, Root};
use caracal_storage::zone::{self, NewZone, Zone, ZoneChange};
use caracal_storage::{StorageError, application, signing_key};
use caracal_token::SigningKey;
use caracal_token::envelope::ZONE_SIGNING_KEY_AAD;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::caller::Caller;
use crate::change::{Change, Done, Kind};
use crate::control::Control;
use crate::refusal::{Code, Refusal};
use crate::{ids, naming, reserved};

const SLUG_KEY: &str = "zones_slug_key";

/// What a caller asks for.
#[derive(Debug)]
pub(crate) struct CreateZone {
    pub(crate) name: String,
    pub(crate) slug: Option<String>,
    pub(crate) dcr_enabled: bool,
}

/// What happens to self-registered applications when registration ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DcrShutdown {
    KeepLive,
    RevokeLive,
}

/// What a caller changes.
#[derive(Debug, Default)]
pub(crate) struct PatchZone {
    pub(crate) name: Option<String>,
    pub(crate) slug: Option<String>,
    pub(crate) dcr_enabled: Option<bool>,
    pub(crate) dcr_shutdown: Option<DcrShutdown>,
    pub(crate) operator_coauthor_badge: Option<bool>,
    pub(crate) operator_governed: Option<bool>,
    pub(crate) policy_mode: Option<&'static str>,
}

/// Zones the caller may list.
pub(crate) async fn list(control: &Control, caller: &Caller, page: &Page) -> Result<Vec<Zone>, Refusal> {
    let mut tx = control.database.read().await?;
    Ok(zone::list(&mut tx, page, caller.account_id()).await?)
}

/// One zone.
pub(crate) async fn find(control: &Control, id: &ZoneId) -> Result<Zone, Refusal> {
    let mut tx = control.database.read().await?;
    zone::find(&mut tx, id)
        .await?
        .ok_or_else(|| Code::ZoneNotFound.into())
}

/// How many self-registered applications of a zone are alive.
pub(crate) async fn live_dcr_applications(control: &Control, id: &ZoneId) -> Result<(Zone, usize), Refusal> {
    let mut tx = control.database.read().await?;
    let zone = zone::find(&mut tx, id).await?.ok_or(Code::ZoneNotFound)?;
    let live = application::live_dcr(&mut tx, id).await?;
    Ok((zone, live.len()))
}

/// Makes a zone with its signing key.
pub(crate) async fn create(
    control: &Control,
    caller: &Caller,
    request: &CreateZone,
    members: &Map<String, Value>,
) -> Result<Zone, Refusal> {
    reserved::check_name(&caller.actor, &request.name)?;
    if let Some(slug) = &request.slug {
        reserved::check_slug(&caller.actor, slug)?;
    }
    match try_create(control, caller, request, members).await {
        // Somebody took the derived slug in between: derive another one, once.
        Err(refusal) if refusal.code() == Code::ZoneSlugConflict && request.slug.is_none() => {
            try_create(control, caller, request, members).await
        }
        answer => answer,
    }
}

async fn try_create(
    control: &Control,
    caller: &Caller,
    request: &CreateZone,
    members: &Map<String, Value>,
) -> Result<Zone, Refusal> {
    let id: ZoneId = ids::new()?;
    let mut change = Change::across_zones(control, caller).await?;
    let slug = match &request.slug {
        Some(slug) => slug.clone(),
        None => derive_slug(&mut change, caller, &request.name).await?,
    };
    let new = NewZone {
        id: &id,
        name: &request.name,
        slug: &slug,
        dcr_enabled: request.dcr_enabled,
        owner_account_id: caller.account_id(),
        by: caller.by(),
    };
    let made = zone::insert(change.tx(), &new).await.map_err(slug_conflict)?;
    insert_signing_key(control, &mut change, &id).await?;
    let done = Done {
        status: 201,
        kind: Kind::Create,
        entity: ("zones", id.as_str()),
        zone: &id,
        members: Some(members),
    };
    change.commit(done).await?;
    Ok(made)
}

async fn derive_slug(change: &mut Change<'_>, caller: &Caller, name: &str) -> Result<String, Refusal> {
    let base = naming::slug(name, "zone");
    reserved::check_slug(&caller.actor, &base)?;
    let candidates = naming::candidates(&base);
    let taken = zone::taken_slugs(change.tx(), &candidates).await?;
    let free = naming::first_free(candidates, &taken);
    Ok(free.unwrap_or_else(|| format!("{base}-{}", Uuid::now_v7().simple())))
}

/// The key exists from the start, so that the first mandate of a zone does not have to wait for it.
async fn insert_signing_key(
    control: &Control,
    change: &mut Change<'_>,
    zone: &ZoneId,
) -> Result<(), Refusal> {
    let kid: KeyId = ids::new()?;
    let key = SigningKey::generate(kid.clone()).map_err(Refusal::internal)?;
    let pem = key.to_sec1_pem().map_err(Refusal::internal)?;
    let envelope = control
        .keyring
        .seal(pem.as_bytes(), ZONE_SIGNING_KEY_AAD.as_bytes())
        .map_err(Refusal::internal)?;
    signing_key::insert(change.tx(), zone, &kid, &envelope).await?;
    Ok(())
}

/// Changes a zone.
pub(crate) async fn patch(
    control: &Control,
    caller: &Caller,
    id: &ZoneId,
    request: &PatchZone,
    members: &Map<String, Value>,
) -> Result<Zone, Refusal> {
    if let Some(name) = &request.name {
        reserved::check_name(&caller.actor, name)?;
    }
    if let Some(slug) = &request.slug {
        reserved::check_slug(&caller.actor, slug)?;
    }
    let mut change = Change::in_zone(control, caller, id).await?;
    if request.dcr_enabled == Some(false) {
        shut_registration_down(&mut change, caller, id, request.dcr_shutdown).await?;
    }
    let columns = ZoneChange {
        name: request.name.as_deref(),
        slug: request.slug.as_deref(),
        dcr_enabled: request.dcr_enabled,
        operator_coauthor_badge: request.operator_coauthor_badge,
        operator_governed: request.operator_governed,
        policy_mode: request.policy_mode,
    };
    let changed = zone::update(change.tx(), id, &columns, caller.by())
        .await
        .map_err(slug_conflict)?
        .ok_or(Code::ZoneNotFound)?;
    let done = Done {
        status: 200,
        kind: Kind::Update,
        entity: ("zones", id.as_str()),
        zone: id,
        members: Some(members),
    };
    change.commit(done).await?;
    Ok(changed)
}

/// Ends self-registration; the applications that registered themselves either stay until they expire or end now.
async fn shut_registration_down(
    change: &mut Change<'_>,
    caller: &Caller,
    id: &ZoneId,
    shutdown: Option<DcrShutdown>,
) -> Result<(), Refusal> {
    zone::lock(change.tx(), id).await?.ok_or(Code::ZoneNotFound)?;
    let live = application::live_dcr(change.tx(), id).await?;
    match shutdown {
        None if !live.is_empty() => {
            let details = json!({ "live_dcr_applications": live.len() });
            Err(Refusal::new(Code::DcrShutdownRequired).with_details(details))
        }
        None | Some(DcrShutdown::KeepLive) => Ok(()),
        Some(DcrShutdown::RevokeLive) => {
            for application in &live {
                application::archive(change.tx(), id, application, caller.by()).await?;
                let root = Root::Application(application);
                revocation_cascade::revoke(change.tx(), Producer::Api, id, root, "dcr_shutdown").await?;
            }
            Ok(())
        }
    }
}

/// Archives a zone and ends everything that is alive in it.
pub(crate) async fn archive(control: &Control, caller: &Caller, id: &ZoneId) -> Result<(), Refusal> {
    let mut change = Change::in_zone(control, caller, id).await?;
    revocation_cascade::revoke(change.tx(), Producer::Api, id, Root::Zone, "zone_archived").await?;
    if !zone::archive(change.tx(), id, caller.by()).await? {
        return Err(Code::ZoneNotFound.into());
    }
    revoke_of_zone(change.tx(), id).await?;
    let done = Done {
        status: 204,
        kind: Kind::Delete,
        entity: ("zones", id.as_str()),
        zone: id,
        members: None,
    };
    change.commit(done).await
}

fn slug_conflict(error: StorageError) -> Refusal {
    match error.conflict() {
        Some(SLUG_KEY) => Code::ZoneSlugConflict.into(),
        _ => error.into(),
    }
}
