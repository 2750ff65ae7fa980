//! Can the upstream credential of each granted resource be had, when it is one that runs out?
//!
//! Asked after the policy has granted and before anything is minted, so that a refused request causes no fetch and a
//! missing credential no token. Static credentials are already in the zone's model.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use caracal_model::ResourceIdentifier;
use caracal_wire::audit::status;

use super::client::Via;
use super::refusal::Refusal;
use super::resources::{Basis, Outcome, Verdict};
use super::subject_token::Presented;
use crate::upstream_credential::{Held, Source, Unavailable};
use crate::zone::{Credential, Resource};

/// The credentials of one exchange, by resource.
pub(crate) type Credentials = HashMap<ResourceIdentifier, Arc<Held>>;

/// Obtains the credential of every granted resource. A resource whose account is not connected, or cannot be refreshed, is
/// not granted. Memory only while credentials are good; else waits at most `wait` for one fetch each.
///
/// # Errors
/// [`Refusal::ProviderCredential`] when the client's own token cannot be had. When no resource is left granted, the first
/// reason: [`Refusal::CredentialNotConnected`], [`Refusal::CredentialNotRenewable`], [`Refusal::ProviderCredential`].
pub(crate) async fn obtain_all(
    basis: &Basis<'_>,
    verdicts: &mut [Verdict],
    wait: Duration,
) -> Result<Credentials, Refusal> {
    let mut credentials = Credentials::new();
    if basis.caller.via() != Via::Gateway {
        return Ok(credentials);
    }
    let mut first_reason = None;
    for verdict in verdicts.iter_mut() {
        let Some(resource) = verdict.granted().map(Arc::clone) else {
            continue;
        };
        let Some((source, is_own)) = source(basis, &resource) else {
            continue;
        };
        match Box::pin(basis.sts.upstream_credentials.obtain(source, wait)).await {
            Ok(held) => drop(credentials.insert(resource.identifier.clone(), held)),
            Err(reason) if is_own => return Err(unavailable(&resource, &reason)),
            Err(reason) => {
                verdict.outcome = Outcome::Refused(match reason {
                    Unavailable::NotConnected => status::CREDENTIAL_NOT_PROVISIONED,
                    _ => status::CREDENTIAL_REFRESH_FAILED,
                });
                first_reason.get_or_insert(match reason {
                    Unavailable::NotConnected => Refusal::CredentialNotConnected,
                    Unavailable::NotRenewable => Refusal::CredentialNotRenewable,
                    other => unavailable(&resource, &other),
                });
            }
        }
    }
    match first_reason {
        Some(reason) if verdicts.iter().all(|verdict| verdict.granted().is_none()) => Err(reason),
        _ => Ok(credentials),
    }
}

/// Where the credential comes from, if it is one that runs out, and whether it is the client's own.
fn source(basis: &Basis<'_>, resource: &Resource) -> Option<(Source, bool)> {
    let zone = basis.caller.zone();
    let provider = zone.provider(resource.provider_id.as_ref()?)?;
    match provider.credential.as_ref().ok()? {
        Credential::Client(oauth) => Some((Source::client(oauth), true)),
        Credential::Connection(oauth) => {
            let subject = basis.presented.map(Presented::claims).map(|claims| &claims.sub)?;
            Some((Source::connection(zone, oauth, subject), false))
        }
        Credential::None | Credential::Mandate | Credential::Secret(_) | Credential::Aws { .. } => None,
    }
}

fn unavailable(resource: &Resource, reason: &Unavailable) -> Refusal {
    Refusal::ProviderCredential {
        resource: resource.identifier.clone(),
        reason: reason.to_string(),
    }
}
