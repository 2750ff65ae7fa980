//! Everything that is configured in one zone, as of one version. Immutable; replaced as a whole.

use std::collections::HashMap;
use std::sync::Arc;

use caracal_model::{
    ApplicationId, Operation, Operations, ProviderId, ResourceId, ResourceIdentifier, ScopeSet, UnixSeconds,
    ZoneId,
};
use caracal_policy::Regime;
use caracal_storage::zone_model::{ApplicationRow, MintLimitRow, ResourceRow, SubjectIssuerRow, ZoneRows};
use caracal_token::KeySet;
use caracal_token::envelope::Keyring;
use caracal_wire::gateway_operations::EnforcedResource;

use super::loading::Loading;
use super::policy::ZonePolicy;
use super::provider::{self, Provider};
use crate::exchange::control_key::ControlKey;
use crate::key::KeyRing;
use crate::limit::mint_rate::Rate;

/// The configuration of one zone.
#[derive(Debug)]
pub(crate) struct ZoneModel {
    pub(crate) id: ZoneId,
    /// The version of the configuration this was read at.
    pub(crate) version: i64,
    applications: HashMap<ApplicationId, Arc<Application>>,
    resources: Vec<Arc<Resource>>,
    by_identifier: HashMap<ResourceIdentifier, usize>,
    by_id: HashMap<ResourceId, usize>,
    providers: HashMap<ProviderId, Provider>,
    /// Which application may present a reusable mandate for a resource at the gateway.
    bindings: HashMap<String, ApplicationId>,
    /// Issuers of users, by what their tokens say in `iss`.
    subject_issuers: HashMap<String, Arc<SubjectIssuerRow>>,
    pub(crate) keys: KeyRing,
    pub(crate) policy: ZonePolicy,
    /// What a decision policy may do.
    pub(crate) regime: Regime,
    /// The platform's limit of mints per minute, when one is set.
    mints_per_minute: Option<u32>,
}

/// A client.
#[derive(Debug)]
pub(crate) struct Application {
    pub(crate) id: ApplicationId,
    pub(crate) name: String,
    pub(crate) registration_method: String,
    /// The stored form of its secret; `None` when it cannot authenticate.
    pub(crate) secret_hash: Option<Arc<str>>,
    /// The keys it may prove itself with; empty when it has none.
    pub(crate) keys: KeySet,
    expires_at: Option<UnixSeconds>,
    /// Whether it has to prove a key with every request for a mandate.
    pub(crate) is_dpop_bound: bool,
    /// Whether its mandates are bound to its client certificate.
    pub(crate) is_certificate_bound: bool,
    /// What its traits allow at the control endpoint, if it is a control key.
    pub(crate) control_key: Option<ControlKey>,
}

/// A protected resource.
#[derive(Debug)]
pub(crate) struct Resource {
    pub(crate) id: ResourceId,
    pub(crate) identifier: ResourceIdentifier,
    /// Where the gateway forwards to; empty when it does not.
    pub(crate) upstream_url: String,
    pub(crate) provider_id: Option<ProviderId>,
    /// Declared scopes.
    pub(crate) scopes: ScopeSet,
    /// The operations that are allowed; `None` when all are.
    enforced: Option<Enforced>,
    mint_rate: Option<Rate>,
}

/// Declared operations, as they are told to gateways and as they are looked up.
#[derive(Debug)]
struct Enforced {
    declared: Vec<Operation>,
    compiled: Operations,
}

/// The scope with which an application starts sessions; every resource behind the gateway accepts it.
pub(crate) const LIFECYCLE_SCOPE: &str = "agent:lifecycle";

impl ZoneModel {
    /// Builds the model of `zone` from its rows. A row that cannot be understood is left out with a warning, so that
    /// what needs it is refused. `previous` is what was served until now: an unchanged policy is not compiled again,
    /// and a policy that cannot be compiled does not replace one that could. `now` is in Unix seconds.
    pub(super) fn build(
        zone: &ZoneId,
        rows: ZoneRows,
        keyring: &Keyring,
        previous: Option<&Self>,
        now: i64,
        loading: &Loading,
    ) -> Self {
        loading
            .secrets_read
            .inc_by(u64::try_from(rows.secrets.len()).unwrap_or_default());
        let providers = provider::read_all(zone, rows.providers, &rows.secrets, keyring);
        let sealed = providers.values().filter(|provider| provider.is_sealed()).count();
        loading
            .secrets_sealed
            .inc_by(u64::try_from(sealed).unwrap_or_default());
        let keys = KeyRing::open(zone, rows.signing_keys, keyring, UnixSeconds(now));
        let invalid = keys.invalid(UnixSeconds(now));
        loading
            .keys_invalid
            .inc_by(u64::try_from(invalid).unwrap_or_default());
        let resources = rows
            .resources
            .into_iter()
            .filter_map(|row| resource(zone, row).map(Arc::new));
        let resources: Vec<Arc<Resource>> = resources.collect();
        let numbered = || resources.iter().enumerate();
        Self {
            id: zone.clone(),
            version: rows.version,
            applications: rows
                .applications
                .into_iter()
                .map(|row| (row.id.clone(), Arc::new(application(zone, row))))
                .collect(),
            by_identifier: numbered()
                .map(|(at, resource)| (resource.identifier.clone(), at))
                .collect(),
            by_id: numbered()
                .map(|(at, resource)| (resource.id.clone(), at))
                .collect(),
            resources,
            providers,
            bindings: rows
                .bindings
                .into_iter()
                .map(|row| (row.resource, row.application_id))
                .collect(),
            subject_issuers: rows
                .subject_issuers
                .into_iter()
                .map(|row| (row.issuer.clone(), Arc::new(row)))
                .collect(),
            keys,
            policy: ZonePolicy::load(
                zone,
                rows.policy,
                previous.map(|previous| &previous.policy),
                now,
                &loading.compiling,
            )
            .with_shadow(
                zone,
                rows.shadow,
                previous.map(|previous| &previous.policy),
                &loading.compiling,
            ),
            regime: regime(zone, &rows.policy_mode),
            mints_per_minute: rows.mints_per_minute.and_then(|limit| u32::try_from(limit).ok()),
        }
    }

    /// The application, unless it does not exist or has expired.
    pub(crate) fn application(&self, id: &ApplicationId, now: UnixSeconds) -> Option<&Arc<Application>> {
        let application = self.applications.get(id)?;
        application
            .expires_at
            .is_none_or(|end| end > now)
            .then_some(application)
    }

    /// The issuer of users whose tokens say exactly this.
    pub(crate) fn subject_issuer(&self, issuer: &str) -> Option<&Arc<SubjectIssuerRow>> {
        self.subject_issuers.get(issuer)
    }

    /// The resource with this identifier or row id.
    pub(crate) fn resource(&self, identifier_or_id: &str) -> Option<&Arc<Resource>> {
        let at = self
            .by_identifier
            .get(identifier_or_id)
            .or_else(|| self.by_id.get(identifier_or_id))?;
        self.resources.get(*at)
    }

    /// The resources whose operations are enforced, as gateways are told of them.
    pub(crate) fn enforced(&self) -> impl Iterator<Item = EnforcedResource> {
        self.resources.iter().filter_map(|resource| {
            let enforced = resource.enforced.as_ref()?;
            let means_it = |name: &&str| {
                let named = self.resource(name);
                named.is_some_and(|named| Arc::ptr_eq(named, resource))
            };
            let names = [resource.identifier.as_str(), resource.id.as_str()];
            Some(EnforcedResource {
                identifier: resource.identifier.clone(),
                names: names.into_iter().filter(means_it).map(str::to_owned).collect(),
                reusable_by: self.bindings.get(resource.identifier.as_str()).cloned(),
                operations: enforced.declared.clone(),
            })
        })
    }

    /// The provider, unless it does not exist.
    pub(crate) fn provider(&self, id: &ProviderId) -> Option<&Provider> {
        self.providers.get(id)
    }

    /// Whether `application` may present a reusable mandate for the resource with this identifier at the gateway.
    pub(crate) fn binds(&self, identifier: &ResourceIdentifier, application: &ApplicationId) -> bool {
        self.bindings.get(identifier.as_str()) == Some(application)
    }

    /// The limit of mints for `resource`: its own when it has one, else the service's, or the platform's when that is
    /// lower.
    pub(crate) fn mint_rate(&self, resource: &Resource, per_minute: u32) -> Rate {
        resource.mint_rate.unwrap_or_else(|| self.usual_rate(per_minute))
    }

    /// The limit of what has none of its own: the service's, or the platform's when that is lower.
    pub(crate) fn usual_rate(&self, per_minute: u32) -> Rate {
        Rate::per_minute(self.mints_per_minute.unwrap_or(per_minute).min(per_minute))
    }
}

impl Resource {
    /// Whether every one of `scopes` may be asked for.
    pub(crate) fn declares(&self, scopes: &ScopeSet) -> bool {
        let implied = |scope: &str| scope == LIFECYCLE_SCOPE && !self.upstream_url.is_empty();
        scopes
            .iter()
            .all(|scope| self.scopes.contains(scope) || implied(scope))
    }

    /// Whether operations are not enforced, or `method` on `path` is declared for a scope that the mandate carries.
    pub(crate) fn permits_operation(&self, method: &str, path: &str, carries: impl Fn(&str) -> bool) -> bool {
        self.enforced
            .as_ref()
            .is_none_or(|enforced| enforced.compiled.permits(method, path, carries))
    }
}

/// Keys that cannot be read are no keys: the application cannot authenticate with them.
fn application(zone: &ZoneId, row: ApplicationRow) -> Application {
    let keys = row
        .client_jwks
        .map(|jwks| KeySet::from_jwks_bytes(jwks.to_string().as_bytes()));
    let keys = keys.transpose().unwrap_or_else(|error| {
        tracing::warn!(zone.id = %zone, application.id = %row.id, %error, "the keys of an application cannot be read");
        None
    });
    Application {
        keys: keys.unwrap_or_default(),
        id: row.id,
        name: row.name,
        registration_method: row.registration_method,
        secret_hash: row.client_secret_hash.map(Arc::from),
        expires_at: row.expires_at.map(UnixSeconds),
        is_dpop_bound: row.dpop_bound,
        is_certificate_bound: row.certificate_bound,
        control_key: ControlKey::of_traits(&row.traits),
    }
}

/// A word nobody knows leaves both the contract and the decision policy a say.
fn regime(zone: &ZoneId, policy_mode: &str) -> Regime {
    Regime::parse(policy_mode).unwrap_or_else(|| {
        tracing::error!(zone.id = %zone, policy_mode, "an unknown policy mode; decision policies restrict");
        Regime::Restrict
    })
}

fn resource(zone: &ZoneId, row: ResourceRow) -> Option<Resource> {
    let Ok(identifier) = ResourceIdentifier::try_from(row.identifier) else {
        tracing::warn!(zone.id = %zone, resource.id = %row.id, "a resource has no usable identifier");
        return None;
    };
    Some(Resource {
        // Anything but the one word that turns it off is enforcement.
        enforced: (row.operation_enforcement != "transport_uniform")
            .then(|| enforced(zone, &row.id, row.operations)),
        id: row.id,
        identifier,
        upstream_url: row.upstream_url.unwrap_or_default(),
        provider_id: row.provider_id,
        scopes: row.scopes.iter().collect(),
        mint_rate: row.mint_limit.and_then(mint_rate),
    })
}

fn mint_rate(row: MintLimitRow) -> Option<Rate> {
    Some(Rate::per_seconds(
        u32::try_from(row.max_requests).ok()?,
        u32::try_from(row.window_seconds).ok()?,
    ))
}

/// An operation that cannot be read is not declared.
fn enforced(zone: &ZoneId, resource: &ResourceId, declared: serde_json::Value) -> Enforced {
    let declared = match declared {
        serde_json::Value::Array(declared) => declared,
        _ => Vec::new(),
    };
    let read = |entry: serde_json::Value| {
        serde_json::from_value(entry)
            .inspect_err(|error| {
                tracing::warn!(zone.id = %zone, resource.id = %resource, %error, "an operation cannot be read");
            })
            .ok()
    };
    let declared: Vec<Operation> = declared.into_iter().filter_map(read).collect();
    Enforced {
        compiled: Operations::compile(&declared),
        declared,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(upstream: Option<&str>) -> Resource {
        let row = ResourceRow {
            id: ResourceId::try_from("r1").unwrap(),
            identifier: "resource://crm".to_owned(),
            upstream_url: upstream.map(str::to_owned),
            provider_id: None,
            scopes: vec!["crm:read".to_owned(), "crm:write".to_owned()],
            operations: json!([
                {"method": "get", "path": "/v1/contacts", "scope": "crm:read"},
                {"method": "POST", "path": "/v1/contacts", "scope": "crm:write"},
                {"path": "/v1/broken"},
            ]),
            operation_enforcement: "enforced".to_owned(),
            mint_limit: None,
        };
        resource(&ZoneId::try_from("z1").unwrap(), row).unwrap()
    }

    #[test]
    fn the_lifecycle_scope_is_implied_by_an_upstream_only() {
        let asked = ScopeSet::parse("agent:lifecycle crm:read");
        assert!(row(Some("https://crm.example")).declares(&asked));
        assert!(!row(None).declares(&asked));
        assert!(!row(Some("https://crm.example")).declares(&ScopeSet::parse("crm:delete")));
    }

    #[test]
    fn an_operation_needs_method_path_and_scope() {
        let resource = row(None);
        let read = |scope: &str| scope == "crm:read";
        assert!(resource.permits_operation("GET", "/v1/contacts", read));
        assert!(
            !resource.permits_operation("POST", "/v1/contacts", read),
            "declared for another scope"
        );
        assert!(
            !resource.permits_operation("GET", "/v1/contacts/", read),
            "paths compare exactly"
        );
        assert!(!resource.permits_operation("GET", "/v1/broken", read));
    }
}
