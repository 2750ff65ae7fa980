//! Where does the gateway send the request, and with which credential?

use std::collections::BTreeMap;
use std::sync::Arc;

use caracal_wire::sts::{AuthLocation, AuthMode, Upstream};

use super::client::Caller;
use super::credential::Credentials;
use super::refusal::Refusal;
use crate::upstream_credential::Held;
use crate::zone::{Credential, OAuthProvider, Placement, Resource, SecretCredential};

/// The directive of every granted resource, by identifier. Memory only: secrets were opened when the zone was loaded, and
/// `credentials` are those that run out.
///
/// # Errors
/// [`Refusal::ProviderCredential`] for the first resource whose provider gives no credential.
pub(crate) fn directives(
    caller: &Caller,
    granted: &[Arc<Resource>],
    credentials: &Credentials,
) -> Result<BTreeMap<String, Upstream>, Refusal> {
    let directive = |resource: &Arc<Resource>| {
        let held = credentials.get(&resource.identifier).map(AsRef::as_ref);
        Ok((
            resource.identifier.to_string(),
            directive(caller, resource, held)?,
        ))
    };
    granted.iter().map(directive).collect()
}

fn directive(caller: &Caller, resource: &Resource, held: Option<&Held>) -> Result<Upstream, Refusal> {
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
        Credential::Client(oauth) | Credential::Connection(oauth) => {
            let held = held.ok_or_else(|| unavailable("no token was obtained".to_owned()))?;
            Upstream {
                provider_id,
                ..with_token(bare, oauth, held)
            }
        }
        Credential::Aws {
            signing,
            forwards_identity,
        } => Upstream {
            provider_id,
            auth_mode: AuthMode::AwsSigv4,
            aws: Some(signing.clone()),
            forward_caracal_identity: *forwards_identity,
            ..bare
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
    placed(common, &secret.placement)
}

fn with_token(bare: Upstream, oauth: &OAuthProvider, held: &Held) -> Upstream {
    let common = Upstream {
        provider_token: Some(held.token.expose().clone()),
        forward_caracal_identity: oauth.forwards_identity,
        connection_id: held.connection_id.clone(),
        expires_at: held.connection_id.as_ref().and(held.expires_at),
        ..bare
    };
    placed(common, &oauth.placement)
}

fn placed(common: Upstream, placement: &Placement) -> Upstream {
    match placement {
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
