//! Where does the gateway send the request, and with which credential?

use std::collections::BTreeMap;
use std::sync::Arc;

use caracal_wire::sts::{AuthLocation, AuthMode, Upstream};

use super::client::Caller;
use super::refusal::Refusal;
use crate::zone::{Credential, Placement, Resource, SecretCredential};

/// The directive of every granted resource, by identifier. Memory only: secrets were opened when the zone was loaded.
///
/// # Errors
/// [`Refusal::ProviderCredential`] for the first resource whose provider gives no credential.
pub(crate) fn directives(
    caller: &Caller,
    granted: &[Arc<Resource>],
) -> Result<BTreeMap<String, Upstream>, Refusal> {
    let directive =
        |resource: &Arc<Resource>| Ok((resource.identifier.to_string(), directive(caller, resource)?));
    granted.iter().map(directive).collect()
}

fn directive(caller: &Caller, resource: &Resource) -> Result<Upstream, Refusal> {
    let bare = Upstream {
        url: resource.upstream_url.clone(),
        ..Upstream::default()
    };
    let Some(id) = &resource.provider_id else {
        return Ok(bare);
    };
    let unavailable = |reason: String| Refusal::ProviderCredential {
        resource: resource.identifier.clone(),
        reason,
    };
    let provider = caller
        .zone()
        .provider(id)
        .ok_or_else(|| unavailable("provider is gone".to_owned()))?;
    let credential = provider
        .credential
        .as_ref()
        .map_err(|reason| unavailable(reason.to_string()))?;
    let provider_id = Some(provider.id.to_string());
    Ok(match credential {
        Credential::None => bare,
        Credential::Mandate => Upstream {
            auth_mode: AuthMode::CaracalJwt,
            auth_header: Some("Authorization".to_owned()),
            auth_scheme: Some("Bearer".to_owned()),
            ..bare
        },
        Credential::Secret(secret) => Upstream {
            provider_id,
            ..with_secret(bare, secret)
        },
    })
}

fn with_secret(bare: Upstream, secret: &SecretCredential) -> Upstream {
    let common = Upstream {
        allowed_token_hosts: secret.allowed_hosts.clone(),
        provider_token: Some(secret.value.expose().clone()),
        forward_caracal_identity: secret.forwards_identity,
        ..bare
    };
    match &secret.placement {
        Placement::KeyHeader { name, scheme } => Upstream {
            auth_mode: AuthMode::ProviderApikey,
            auth_location: Some(AuthLocation::Header),
            auth_header: Some(name.clone()),
            auth_scheme: scheme.clone(),
            ..common
        },
        Placement::KeyQuery { name } => Upstream {
            auth_mode: AuthMode::ProviderApikey,
            auth_location: Some(AuthLocation::Query),
            query_param_name: Some(name.clone()),
            ..common
        },
        Placement::TokenHeader { name, scheme } => Upstream {
            auth_mode: AuthMode::ProviderOauth,
            auth_header: Some(name.clone()),
            auth_scheme: Some(scheme.clone()),
            ..common
        },
    }
}
