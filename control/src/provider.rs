//! Making, changing and ending providers of upstream credentials.

mod config;
mod destination;
mod kind;
mod member;

use caracal_model::{ProviderId, ZoneId};
use caracal_storage::page::Page;
use caracal_storage::provider::{self, NewProvider, Provider, ProviderChange};
use caracal_storage::{StorageError, ZoneScope, oauth_state, provider_connection, secret, zone};
use config::{ProviderConfig, Secrets};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::caller::Caller;
use crate::change::{Change, Done, Kind as ChangeKind};
use crate::control::Control;
use crate::refusal::{Code, Refusal};
use crate::{ids, naming, reserved};

pub(crate) use kind::Kind;

const IDENTIFIER_KEY: &str = "providers_zone_identifier_active_uidx";
const SCHEME: &str = "provider://";

/// What a caller asks for.
#[derive(Debug)]
pub(crate) struct CreateProvider {
    pub(crate) name: Option<String>,
    pub(crate) identifier: Option<String>,
    pub(crate) kind: Kind,
    pub(crate) config: Map<String, Value>,
}

/// What a caller changes.
#[derive(Debug, Default)]
pub(crate) struct PatchProvider {
    pub(crate) name: Option<String>,
    pub(crate) identifier: Option<String>,
    pub(crate) kind: Option<Kind>,
    pub(crate) config: Option<Map<String, Value>>,
}

/// Providers of a zone.
pub(crate) async fn list(control: &Control, zone: &ZoneId, page: &Page) -> Result<Vec<Provider>, Refusal> {
    let mut tx = control.database.read_in(ZoneScope::Zone(zone)).await?;
    Ok(provider::list(&mut tx, zone, page).await?)
}

/// One provider that is not archived.
pub(crate) async fn find(control: &Control, zone: &ZoneId, id: &ProviderId) -> Result<Provider, Refusal> {
    let mut tx = control.database.read_in(ZoneScope::Zone(zone)).await?;
    provider::find(&mut tx, zone, id)
        .await?
        .ok_or_else(|| Code::ProviderNotFound.into())
}

/// Makes a provider; its secrets are sealed in the same transaction.
pub(crate) async fn create(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    request: &CreateProvider,
    members: &Map<String, Value>,
) -> Result<Provider, Refusal> {
    if let Some(identifier) = &request.identifier {
        check_identifier(caller, identifier)?;
    }
    let config = check_config(request.kind, &request.config, Secrets::Complete)?;
    match try_create(control, caller, zone, request, &config, members).await {
        // Somebody took the derived identifier in between: derive another one, once.
        Err(refusal)
            if refusal.code() == Code::ProviderIdentifierConflict && request.identifier.is_none() =>
        {
            try_create(control, caller, zone, request, &config, members).await
        }
        answer => answer,
    }
}

async fn try_create(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    request: &CreateProvider,
    config: &ProviderConfig,
    members: &Map<String, Value>,
) -> Result<Provider, Refusal> {
    let id: ProviderId = ids::new()?;
    let mut change = Change::in_zone(control, caller, zone).await?;
    if !zone::hold(change.tx(), zone).await? {
        return Err(Code::ZoneNotFound.into());
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
    let new = NewProvider {
        id: &id,
        zone_id: zone,
        name: request.name.as_deref().unwrap_or(&identifier),
        identifier: &identifier,
        kind: request.kind.as_str(),
        config: &Value::Object(config.public.clone()),
        secret_keys: &secret_names(config),
        is_unproven: request.kind.is_oauth(),
        by: caller.by(),
    };
    let made = provider::insert(change.tx(), &new)
        .await
        .map_err(identifier_conflict)?;
    store_secrets(control, &mut change, zone, &id, config).await?;
    change
        .commit(done(zone, &id, 201, ChangeKind::Create, Some(members)))
        .await?;
    Ok(made)
}

async fn derive_identifier(
    change: &mut Change<'_>,
    caller: &Caller,
    zone: &ZoneId,
    name: &str,
) -> Result<String, Refusal> {
    let base = format!("{SCHEME}{}", naming::slug(name, "provider"));
    reserved::check_provider(&caller.actor, &base)?;
    let candidates = naming::candidates(&base);
    let taken = provider::taken_identifiers(change.tx(), zone, &candidates).await?;
    let free = naming::first_free(candidates, &taken);
    Ok(free.unwrap_or_else(|| format!("{base}-{}", Uuid::now_v7().simple())))
}

/// Changes a provider. A configuration replaces the public part as a whole; secrets that are not sent stay, unless the
/// kind or a place that secrets are sent to changes. Then the accounts connected through it are disconnected too: their
/// tokens would go to that place.
pub(crate) async fn patch(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    id: &ProviderId,
    request: &PatchProvider,
    members: &Map<String, Value>,
) -> Result<Provider, Refusal> {
    if let Some(identifier) = &request.identifier {
        check_identifier(caller, identifier)?;
    }
    if request.kind.is_some() && request.config.is_none() {
        return Err(Code::ProviderConfigRequired.into());
    }
    let mut change = Change::in_zone(control, caller, zone).await?;
    let before = provider::lock(change.tx(), zone, id)
        .await?
        .ok_or(Code::ProviderNotFound)?;
    let config = match &request.config {
        Some(config) => Some(check_new_config(&before, request.kind, config)?),
        None => None,
    };
    let public = config
        .as_ref()
        .map(|config| Value::Object(config.checked.public.clone()));
    let names = config
        .as_ref()
        .filter(|config| config.replaces_secrets)
        .map(|c| secret_names(&c.checked));
    let columns = ProviderChange {
        name: request.name.as_deref(),
        identifier: request.identifier.as_deref(),
        kind: request.kind.map(Kind::as_str),
        config: public.as_ref(),
        secret_keys: names.as_deref(),
    };
    let changed = provider::update(change.tx(), zone, id, &columns, caller.by())
        .await
        .map_err(identifier_conflict)?
        .ok_or(Code::ProviderNotFound)?;
    if let Some(config) = config.filter(|config| config.replaces_secrets) {
        store_secrets(control, &mut change, zone, id, &config.checked).await?;
        if config.moves {
            provider_connection::revoke_of_provider(change.tx(), zone, id).await?;
            oauth_state::delete_of_provider(change.tx(), zone, id).await?;
        }
    }
    change
        .commit(done(zone, id, 200, ChangeKind::Update, Some(members)))
        .await?;
    Ok(changed)
}

struct NewConfig {
    checked: ProviderConfig,
    replaces_secrets: bool,
    /// Whether secrets would be sent somewhere else than before.
    moves: bool,
}

fn check_new_config(
    before: &Provider,
    kind: Option<Kind>,
    config: &Map<String, Value>,
) -> Result<NewConfig, Refusal> {
    let stored_kind = Kind::parse(&before.provider_kind).ok_or_else(|| {
        Refusal::from(StorageError::inconsistent(
            "providers",
            "provider_kind",
            before.id.as_str(),
        ))
    })?;
    let kind = kind.unwrap_or(stored_kind);
    let changes_kind = kind != stored_kind;
    if !changes_kind {
        let kept = check_config(kind, config, Secrets::MayBeKept)?;
        let moved = destination::moved(&before.config_json, &kept.public);
        if moved.is_empty() && keeps_enough(before, kind, config) {
            let replaces_secrets = !kept.secret.is_empty();
            return Ok(NewConfig {
                checked: kept,
                replaces_secrets,
                moves: false,
            });
        }
        if !moved.is_empty() {
            return Ok(NewConfig {
                checked: config::check(kind, config, Secrets::Complete)
                    .map_err(|_incomplete| secrets_required(&moved))?,
                replaces_secrets: true,
                moves: true,
            });
        }
    }
    let checked = check_config(kind, config, Secrets::Complete)?;
    let replaces_secrets = changes_kind || !checked.secret.is_empty();
    Ok(NewConfig {
        checked,
        replaces_secrets,
        moves: changes_kind,
    })
}

/// Whoever may write need not know the stored secrets, so must not be able to have them sent to a place of his choice.
fn secrets_required(moved: &[&str]) -> Refusal {
    let sentence = "The secrets must be sent with a change of where they are sent to";
    Refusal::because(Code::ProviderSecretsRequired, sentence).with_details(json!({ "members": moved }))
}

/// Whether the stored secrets fit the new configuration: an OAuth provider may change from a client secret to a private
/// key, and then the stored secret is not the one that is needed.
fn keeps_enough(before: &Provider, kind: Kind, config: &Map<String, Value>) -> bool {
    let needs_key = config.get("grant_type").and_then(Value::as_str) == Some("jwt_bearer")
        || config.get("client_auth_method").and_then(Value::as_str) == Some("private_key_jwt");
    let holds = |name: &str| before.secret_config_keys.iter().any(|key| key == name);
    match kind {
        Kind::ClientCredentials if needs_key => holds("private_key"),
        Kind::ClientCredentials | Kind::AuthorizationCode => {
            config.get("client_auth_method").and_then(Value::as_str) == Some("none") || holds("client_secret")
        }
        Kind::AwsSigv4 => holds("secret_access_key"),
        Kind::None | Kind::CaracalMandate | Kind::ApiKey | Kind::BearerToken | Kind::HttpBasic => {
            !before.secret_config_keys.is_empty()
        }
    }
}

/// Archives a provider and deletes its secrets. Resources that still name it answer that it is missing.
pub(crate) async fn archive(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    id: &ProviderId,
) -> Result<(), Refusal> {
    let mut change = Change::in_zone(control, caller, zone).await?;
    if !provider::archive(change.tx(), zone, id, caller.by()).await? {
        return Err(Code::ProviderNotFound.into());
    }
    secret::delete(change.tx(), zone, &secret_reference(zone, id)).await?;
    change.commit(done(zone, id, 204, ChangeKind::Delete, None)).await
}

/// Seals the secret document under its own reference, or deletes it when there is none.
async fn store_secrets(
    control: &Control,
    change: &mut Change<'_>,
    zone: &ZoneId,
    id: &ProviderId,
    config: &ProviderConfig,
) -> Result<(), Refusal> {
    let reference = secret_reference(zone, id);
    if config.secret.is_empty() {
        secret::delete(change.tx(), zone, &reference).await?;
        return Ok(());
    }
    let document =
        caracal_chassis::Secret::new(serde_json::to_vec(&config.secret).map_err(Refusal::internal)?);
    let envelope = control
        .keyring
        .seal(document.expose(), reference.as_bytes())
        .map_err(Refusal::internal)?;
    secret::put(change.tx(), zone, &reference, &envelope).await?;
    Ok(())
}

/// Where the secret document is stored; also what its envelope is bound to.
fn secret_reference(zone: &ZoneId, id: &ProviderId) -> String {
    format!("zones/{zone}/providers/{id}/secretConfig")
}

fn secret_names(config: &ProviderConfig) -> Vec<&'static str> {
    config.secret.keys().copied().collect()
}

fn check_config(
    kind: Kind,
    config: &Map<String, Value>,
    secrets: Secrets,
) -> Result<ProviderConfig, Refusal> {
    config::check(kind, config, secrets).map_err(|fault| Refusal::because(Code::InvalidProviderConfig, fault))
}

fn check_identifier(caller: &Caller, identifier: &str) -> Result<(), Refusal> {
    let is_word =
        |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let well_formed = identifier
        .strip_prefix(SCHEME)
        .is_some_and(|rest| rest.split('-').all(is_word));
    if !well_formed {
        return Err(Refusal::because(
            Code::InvalidProviderIdentifier,
            "Expected provider:// and lower-case words joined by hyphens",
        ));
    }
    reserved::check_provider(&caller.actor, identifier)
}

fn done<'a>(
    zone: &'a ZoneId,
    id: &'a ProviderId,
    status: u16,
    kind: ChangeKind,
    members: Option<&'a Map<String, Value>>,
) -> Done<'a> {
    Done {
        status,
        kind,
        entity: ("providers", id.as_str()),
        zone,
        members,
    }
}

fn identifier_conflict(error: StorageError) -> Refusal {
    match error.conflict() {
        Some(IDENTIFIER_KEY) => Code::ProviderIdentifierConflict.into(),
        _ => error.into(),
    }
}
