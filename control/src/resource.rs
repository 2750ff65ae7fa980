//! Making, changing and ending resources.

mod operations;
mod routing;

use caracal_model::{ApplicationId, ProviderId, ResourceId, ZoneId};
use caracal_storage::outbox::Producer;
use caracal_storage::page::Page;
use caracal_storage::provider::NewProvider;
use caracal_storage::resource::{self, Resource, ResourceContent};
use caracal_storage::revocation_cascade::{self, Root};
use caracal_storage::{StorageError, ZoneScope, application, binding, provider, zone};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::caller::Caller;
use crate::change::{Change, Done, Kind};
use crate::control::Control;
use crate::refusal::{Code, Refusal};
use crate::{ids, naming, reserved};

pub(crate) use operations::Operation;
pub(crate) use routing::is_upstream;

const IDENTIFIER_KEY: &str = "resources_zone_id_identifier_key";

/// Every operation needs its scope, and operations that are not declared are refused.
pub(crate) const ENFORCED: &str = "enforced";
/// One mandate covers whatever is sent.
pub(crate) const TRANSPORT_UNIFORM: &str = "transport_uniform";

/// What a caller asks for.
#[derive(Debug)]
pub(crate) struct CreateResource {
    pub(crate) name: Option<String>,
    pub(crate) identifier: Option<String>,
    pub(crate) upstream_url: Option<String>,
    pub(crate) scopes: Vec<String>,
    pub(crate) credential_provider_id: Option<ProviderId>,
    pub(crate) operations: Vec<Operation>,
    pub(crate) operation_enforcement: &'static str,
    pub(crate) gateway_application_id: Option<ApplicationId>,
}

/// What a caller changes. `Some(None)` empties a member.
#[derive(Debug, Default)]
#[expect(
    clippy::option_option,
    reason = "not sent and null mean different things in a PATCH"
)]
pub(crate) struct PatchResource {
    pub(crate) name: Option<String>,
    pub(crate) identifier: Option<String>,
    pub(crate) upstream_url: Option<Option<String>>,
    pub(crate) scopes: Option<Vec<String>>,
    pub(crate) credential_provider_id: Option<Option<ProviderId>>,
    pub(crate) operations: Option<Vec<Operation>>,
    pub(crate) operation_enforcement: Option<&'static str>,
    pub(crate) gateway_application_id: Option<Option<ApplicationId>>,
}

/// Resources of a zone; the one that stands for this API only for those who reach every zone.
pub(crate) async fn list(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    page: &Page,
) -> Result<Vec<Resource>, Refusal> {
    let hidden = (!caller.actor.is_global()).then_some(control.audience.as_str());
    let mut tx = control.database.read_in(ZoneScope::Zone(zone)).await?;
    Ok(resource::list(&mut tx, zone, hidden, page).await?)
}

/// One resource that is not archived.
pub(crate) async fn find(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    id: &ResourceId,
) -> Result<Resource, Refusal> {
    let mut tx = control.database.read_in(ZoneScope::Zone(zone)).await?;
    let found = resource::find(&mut tx, zone, id).await?;
    let visible = found.filter(|found| caller.actor.is_global() || found.identifier != control.audience);
    visible.ok_or_else(|| Code::ResourceNotFound.into())
}

/// Makes a resource, and its gateway binding when one is asked for.
pub(crate) async fn create(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    request: &CreateResource,
    members: &Map<String, Value>,
) -> Result<Resource, Refusal> {
    if let Some(identifier) = &request.identifier {
        check_identifier(control, caller, identifier)?;
    }
    match try_create(control, caller, zone, request, members).await {
        // Somebody took the derived identifier in between: derive another one, once.
        Err(refusal)
            if refusal.code() == Code::ResourceIdentifierConflict && request.identifier.is_none() =>
        {
            try_create(control, caller, zone, request, members).await
        }
        answer => answer,
    }
}

async fn try_create(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    request: &CreateResource,
    members: &Map<String, Value>,
) -> Result<Resource, Refusal> {
    let operations = operations::check(&request.operations, &request.scopes)?;
    let id: ResourceId = ids::new()?;
    let mut change = Change::in_zone(control, caller, zone).await?;
    if !zone::hold(change.tx(), zone).await? {
        return Err(Code::ZoneNotFound.into());
    }
    let quota = control.resources_per_zone_max;
    if quota > 0 && !resource::has_room(change.tx(), zone, quota).await? {
        return Err(Code::ResourceQuotaExceeded.into());
    }
    let identifier = match &request.identifier {
        Some(identifier) => identifier.clone(),
        None => {
            derive_identifier(
                &mut change,
                caller,
                zone,
                request.name.as_deref().unwrap_or_default(),
            )
            .await?
        }
    };
    let stands_for_control = identifier == control.audience;
    let provider = check_routing(
        &mut change,
        caller,
        zone,
        stands_for_control,
        request.credential_provider_id.as_ref(),
        request.upstream_url.as_deref(),
    )
    .await?;
    let content = ResourceContent {
        name: request.name.as_deref().unwrap_or(&identifier),
        identifier: &identifier,
        upstream_url: request.upstream_url.as_deref(),
        scopes: &request.scopes,
        credential_provider_id: &provider,
        operations: &operations::to_json(&operations),
        operation_enforcement: request.operation_enforcement,
    };
    let mut made = resource::insert(change.tx(), zone, &id, &content, caller.by())
        .await
        .map_err(identifier_conflict)?;
    if let Some(application) = &request.gateway_application_id {
        bind(&mut change, zone, &identifier, application).await?;
        made.gateway_application_id = Some(application.to_string());
    }
    change
        .commit(done(zone, &id, 201, Kind::Create, Some(members)))
        .await?;
    Ok(made)
}

async fn derive_identifier(
    change: &mut Change<'_>,
    caller: &Caller,
    zone: &ZoneId,
    name: &str,
) -> Result<String, Refusal> {
    let base = format!("resource://{}", naming::slug(name, "resource"));
    reserved::check_resource(&caller.actor, &base)?;
    let candidates = naming::candidates(&base);
    let taken = resource::taken_identifiers(change.tx(), zone, &candidates).await?;
    let free = naming::first_free(candidates, &taken);
    Ok(free.unwrap_or_else(|| format!("{base}-{}", Uuid::now_v7().simple())))
}

/// Changes a resource; what is not sent stays as it is, and the whole is checked again.
pub(crate) async fn patch(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    id: &ResourceId,
    request: PatchResource,
    members: &Map<String, Value>,
) -> Result<Resource, Refusal> {
    if let Some(identifier) = &request.identifier {
        check_identifier(control, caller, identifier)?;
    }
    let mut change = Change::in_zone(control, caller, zone).await?;
    let before = resource::lock(change.tx(), zone, id)
        .await?
        .ok_or(Code::ResourceNotFound)?;
    if before.identifier == control.audience && !caller.actor.is_global() {
        return Err(Code::ResourceNotFound.into());
    }
    let gateway_application_id = request.gateway_application_id.clone();
    let after = merge(&before, request)?;
    let operations = operations::check(&after.operations, &after.scopes)?;
    let stands_for_control = after.identifier == control.audience;
    let provider = check_routing(
        &mut change,
        caller,
        zone,
        stands_for_control,
        after.provider.as_ref(),
        after.upstream_url.as_deref(),
    )
    .await?;
    let content = ResourceContent {
        name: &after.name,
        identifier: &after.identifier,
        upstream_url: after.upstream_url.as_deref(),
        scopes: &after.scopes,
        credential_provider_id: &provider,
        operations: &operations::to_json(&operations),
        operation_enforcement: &after.operation_enforcement,
    };
    let mut changed = resource::update(change.tx(), zone, id, &content, caller.by())
        .await
        .map_err(identifier_conflict)?
        .ok_or(Code::ResourceNotFound)?;
    if after.identifier != before.identifier {
        binding::rename(change.tx(), zone, &before.identifier, &after.identifier).await?;
    }
    changed.gateway_application_id = match gateway_application_id {
        None => before.gateway_application_id,
        Some(None) => {
            binding::delete(change.tx(), zone, &after.identifier).await?;
            None
        }
        Some(Some(application)) => {
            bind(&mut change, zone, &after.identifier, &application).await?;
            Some(application.to_string())
        }
    };
    change
        .commit(done(zone, id, 200, Kind::Update, Some(members)))
        .await?;
    Ok(changed)
}

/// A resource as it will be.
struct After {
    name: String,
    identifier: String,
    upstream_url: Option<String>,
    scopes: Vec<String>,
    provider: Option<ProviderId>,
    operations: Vec<Operation>,
    operation_enforcement: String,
}

fn merge(before: &Resource, request: PatchResource) -> Result<After, Refusal> {
    let corrupt = |column| {
        Refusal::from(StorageError::inconsistent(
            "resources",
            column,
            before.id.as_str(),
        ))
    };
    let provider = match request.credential_provider_id {
        Some(provider) => provider,
        None => match &before.credential_provider_id {
            Some(id) => Some(id.parse().ok().ok_or_else(|| corrupt("credential_provider_id"))?),
            None => None,
        },
    };
    let operations = match request.operations {
        Some(operations) => operations,
        None => operations::from_json(&before.operations).ok_or_else(|| corrupt("operations"))?,
    };
    Ok(After {
        name: request.name.unwrap_or_else(|| before.name.clone()),
        identifier: request.identifier.unwrap_or_else(|| before.identifier.clone()),
        upstream_url: request
            .upstream_url
            .unwrap_or_else(|| before.upstream_url.clone()),
        scopes: request.scopes.unwrap_or_else(|| before.scopes.clone()),
        provider,
        operations,
        operation_enforcement: request
            .operation_enforcement
            .map_or_else(|| before.operation_enforcement.clone(), str::to_owned),
    })
}

/// Archives a resource, its binding, and the delegations that were for nothing else.
pub(crate) async fn archive(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    id: &ResourceId,
) -> Result<(), Refusal> {
    let mut change = Change::in_zone(control, caller, zone).await?;
    // First of all locks, as everybody who builds on a resource takes it first as well.
    revocation_cascade::lock_out(change.tx(), zone).await?;
    let found = resource::lock(change.tx(), zone, id)
        .await?
        .ok_or(Code::ResourceNotFound)?;
    if found.identifier == control.audience {
        return Err(Code::ProtectedResource.into());
    }
    let root = Root::Resource {
        id,
        identifier: &found.identifier,
    };
    revocation_cascade::revoke(change.tx(), Producer::Api, zone, root, "resource_archived").await?;
    if !resource::archive(change.tx(), zone, id, caller.by()).await? {
        return Err(Code::ResourceNotFound.into());
    }
    binding::delete(change.tx(), zone, &found.identifier).await?;
    change.commit(done(zone, id, 204, Kind::Delete, None)).await
}

/// The provider a resource gets: it must exist, and there must be somewhere to forward to. The resource that stands for
/// this API needs neither.
async fn check_routing(
    change: &mut Change<'_>,
    caller: &Caller,
    zone: &ZoneId,
    stands_for_control: bool,
    provider: Option<&ProviderId>,
    upstream_url: Option<&str>,
) -> Result<ProviderId, Refusal> {
    let Some(id) = provider else {
        if stands_for_control {
            return none_provider(change, caller, zone).await;
        }
        return Err(Code::CredentialProviderRequired.into());
    };
    if upstream_url.is_none() && !stands_for_control {
        return Err(Code::UpstreamUrlRequired.into());
    }
    match provider::find(change.tx(), zone, id).await? {
        Some(provider) => Ok(provider.id),
        None => Err(Code::ProviderNotFound.into()),
    }
}

/// The provider without credentials that the resource of this API refers to.
async fn none_provider(
    change: &mut Change<'_>,
    caller: &Caller,
    zone: &ZoneId,
) -> Result<ProviderId, Refusal> {
    let id: ProviderId = format!("provider-none-{zone}")
        .parse()
        .map_err(Refusal::internal)?;
    if let Some(provider) = provider::find(change.tx(), zone, &id).await? {
        return Ok(provider.id);
    }
    let new = NewProvider {
        id: &id,
        zone_id: zone,
        name: "provider://none",
        identifier: "provider://none",
        kind: "none",
        config: &json!({}),
        secret_keys: &[],
        is_unproven: false,
        by: caller.by(),
    };
    Ok(provider::insert(change.tx(), &new).await?.id)
}

/// Binds a resource to a live application of the zone.
pub(crate) async fn bind(
    change: &mut Change<'_>,
    zone: &ZoneId,
    identifier: &str,
    application: &ApplicationId,
) -> Result<binding::Binding, Refusal> {
    if application::lock(change.tx(), zone, application).await?.is_none() {
        return Err(Code::ApplicationNotFound.into());
    }
    Ok(binding::put(change.tx(), zone, identifier, application).await?)
}

fn check_identifier(control: &Control, caller: &Caller, identifier: &str) -> Result<(), Refusal> {
    if identifier == control.audience {
        return if caller.actor.is_global() {
            Ok(())
        } else {
            Err(Code::ProtectedResource.into())
        };
    }
    routing::check_identifier(identifier)?;
    reserved::check_resource(&caller.actor, identifier)
}

fn done<'a>(
    zone: &'a ZoneId,
    id: &'a ResourceId,
    status: u16,
    kind: Kind,
    members: Option<&'a Map<String, Value>>,
) -> Done<'a> {
    Done {
        status,
        kind,
        entity: ("resources", id.as_str()),
        zone,
        members,
    }
}

fn identifier_conflict(error: StorageError) -> Refusal {
    match error.conflict() {
        Some(IDENTIFIER_KEY) => Code::ResourceIdentifierConflict.into(),
        _ => error.into(),
    }
}
