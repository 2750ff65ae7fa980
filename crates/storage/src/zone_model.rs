//! What is the whole configuration of one zone, as of one moment?
//!
//! Read only by the security token service, which keeps the result in memory and reads again when the zone's version
//! moves. Every statement of a load runs in the same snapshot, so the rows belong together.

use caracal_model::{
    ApplicationId, KeyId, PolicySetId, PolicySetVersionId, PolicyVersionId, ProviderId, ResourceId,
    SubjectIssuerId, ZoneId,
};
use serde_json::Value;
use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::error::{StorageError, checked};
use crate::tx::ReadTx;

/// The rows of one zone.
#[derive(Debug, Clone)]
pub struct ZoneRows {
    /// Version of the zone's configuration these rows are at, or above.
    pub version: i64,
    /// What a decision policy may do in the zone: `restrict` or `sole`.
    pub policy_mode: String,
    /// Applications that are not archived, expired ones included.
    pub applications: Vec<ApplicationRow>,
    /// Resources that are not archived.
    pub resources: Vec<ResourceRow>,
    /// Providers that are not archived.
    pub providers: Vec<ProviderRow>,
    /// Sealed documents of the secret store that belong to the zone.
    pub secrets: Vec<SecretRow>,
    /// Signing keys, newest first.
    pub signing_keys: Vec<SigningKeyRow>,
    /// The active policy set, if one is bound.
    pub policy: Option<PolicyRows>,
    /// The version on trial, if there is one.
    pub shadow: Option<PolicyRows>,
    /// Which application may present a reusable mandate for which resource at the gateway.
    pub bindings: Vec<BindingRow>,
    /// Issuers of users that are not archived.
    pub subject_issuers: Vec<SubjectIssuerRow>,
    /// The platform's limit of mints per minute, when one is set.
    pub mints_per_minute: Option<i32>,
}

/// An application (client).
#[derive(Clone)]
pub struct ApplicationRow {
    /// Its id.
    pub id: ApplicationId,
    /// Its display name.
    pub name: String,
    /// `managed` or `dcr`.
    pub registration_method: String,
    /// The stored form of its secret; `None` when it cannot authenticate.
    pub client_secret_hash: Option<String>,
    /// Its public keys, a JSON Web Key Set; `None` when it has none.
    pub client_jwks: Option<Value>,
    /// Its traits, e.g. `control:invoke`.
    pub traits: Vec<String>,
    /// Whether it has to prove a key with every request for a mandate.
    pub dpop_bound: bool,
    /// Whether its mandates are bound to its client certificate.
    pub certificate_bound: bool,
    /// When it stops existing, in Unix seconds.
    pub expires_at: Option<i64>,
}

impl std::fmt::Debug for ApplicationRow {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ApplicationRow")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// A protected resource.
#[derive(Debug, Clone)]
pub struct ResourceRow {
    /// Row id.
    pub id: ResourceId,
    /// Public identifier, e.g. `resource://crm`.
    pub identifier: String,
    /// Where the gateway forwards to; `None` when it is not reached through the gateway.
    pub upstream_url: Option<String>,
    /// Provider of the upstream credential.
    pub provider_id: Option<ProviderId>,
    /// Declared scopes.
    pub scopes: Vec<String>,
    /// Declared operations: an array of `{method, path, scope}`.
    pub operations: Value,
    /// `enforced` or `transport_uniform`.
    pub operation_enforcement: String,
    /// The resource's own limit of mints for each application, when one is set.
    pub mint_limit: Option<MintLimitRow>,
}

/// A limit of mints for one resource.
#[derive(Debug, Clone, Copy)]
pub struct MintLimitRow {
    /// How many in one window, at least 1.
    pub max_requests: i32,
    /// The window, in seconds, at least 1.
    pub window_seconds: i32,
}

/// A credential provider; its secrets are in the secret store.
#[derive(Debug, Clone)]
pub struct ProviderRow {
    /// Row id.
    pub id: ProviderId,
    /// One of the provider kinds.
    pub kind: String,
    /// Public configuration.
    pub config: Value,
}

/// A sealed document of the secret store.
#[derive(Debug, Clone)]
pub struct SecretRow {
    /// Its name, which is also the associated data of the envelope.
    pub reference: String,
    /// The envelope.
    pub envelope: Vec<u8>,
}

/// A zone signing key, sealed.
#[derive(Debug, Clone)]
pub struct SigningKeyRow {
    /// Key id (`kid`).
    pub id: KeyId,
    /// Row version.
    pub version: i32,
    /// The envelope of the PEM text.
    pub envelope: Vec<u8>,
    /// When it was made, in Unix seconds.
    pub created_at: i64,
    /// From when on it signs, in Unix seconds.
    pub signs_from: i64,
    /// When it was withdrawn, in Unix seconds.
    pub withdrawn_at: Option<i64>,
}

/// The active policy set version and its documents.
#[derive(Debug, Clone)]
pub struct PolicyRows {
    /// Policy set.
    pub policy_set_id: PolicySetId,
    /// Its active version.
    pub version_id: PolicySetVersionId,
    /// The stored hash of the manifest, lower-case hex.
    pub manifest_sha256: String,
    /// Documents in the order of the manifest; an entry without text names a version that does not exist.
    pub documents: Vec<PolicyDocumentRow>,
}

/// One document of a policy set version.
#[derive(Debug, Clone)]
pub struct PolicyDocumentRow {
    /// The immutable policy version.
    pub id: PolicyVersionId,
    /// Its text.
    pub content: Option<String>,
}

/// A gateway binding.
#[derive(Debug, Clone)]
pub struct BindingRow {
    /// Resource identifier.
    pub resource: String,
    /// The application it names.
    pub application_id: ApplicationId,
}

/// An issuer whose users the zone believes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectIssuerRow {
    /// Row id.
    pub id: SubjectIssuerId,
    /// What its tokens say in `iss`, byte for byte.
    pub issuer: String,
    /// Where its keys are.
    pub jwks_url: String,
    /// What its tokens must name in `aud`.
    pub audience: String,
}

/// Reads everything about `zone`; `None` when it does not exist or is archived.
///
/// Eleven statements in the caller's snapshot.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach, [`StorageError::Inconsistent`] when a row cannot
/// be read.
pub async fn load(tx: &mut ReadTx, zone: &ZoneId) -> Result<Option<ZoneRows>, StorageError> {
    let Some((version, policy_mode)) = version(tx, zone).await? else {
        return Ok(None);
    };
    Ok(Some(ZoneRows {
        version,
        policy_mode,
        applications: applications(tx, zone).await?,
        resources: resources(tx, zone).await?,
        providers: providers(tx, zone).await?,
        secrets: secrets(tx, zone).await?,
        signing_keys: signing_keys(tx, zone).await?,
        policy: policy(tx, zone, ACTIVE).await?,
        shadow: policy(tx, zone, SHADOW).await?,
        bindings: bindings(tx, zone).await?,
        subject_issuers: subject_issuers(tx, zone).await?,
        mints_per_minute: mints_per_minute(tx).await?,
    }))
}

/// Versions of those of `zones` that exist, for noticing a change nobody announced. One statement.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn versions(tx: &mut ReadTx, zones: &[ZoneId]) -> Result<Vec<(ZoneId, i64)>, StorageError> {
    let zones: Vec<&str> = zones.iter().map(ZoneId::as_str).collect();
    let rows = sqlx::query(
        "SELECT z.id, coalesce(v.version, 0) AS version
         FROM zones z LEFT JOIN zone_versions v ON v.zone_id = z.id
         WHERE z.id = ANY($1) AND z.archived_at IS NULL",
    )
    .bind(zones)
    .fetch_all(tx)
    .await?;
    rows.iter()
        .map(|row| Ok((id(row, "id", "zones")?, row.try_get("version")?)))
        .collect()
}

/// In which zone does an application live, for telling its owner that he asked in the wrong one? One statement.
///
/// # Errors
/// [`StorageError::Unavailable`] when the database is out of reach.
pub async fn application_zone(
    tx: &mut ReadTx,
    application: &ApplicationId,
) -> Result<Option<(ZoneId, Option<String>)>, StorageError> {
    let row = sqlx::query(
        "SELECT a.zone_id, a.client_secret_hash
         FROM applications a JOIN zones z ON z.id = a.zone_id
         WHERE a.id = $1 AND a.archived_at IS NULL AND z.archived_at IS NULL
           AND (a.expires_at IS NULL OR a.expires_at > now())",
    )
    .bind(application.as_str())
    .fetch_optional(tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some((
        id(&row, "zone_id", "applications")?,
        row.try_get("client_secret_hash")?,
    )))
}

async fn version(tx: &mut ReadTx, zone: &ZoneId) -> Result<Option<(i64, String)>, StorageError> {
    let version = sqlx::query_as(
        "SELECT coalesce(v.version, 0), z.policy_mode
         FROM zones z LEFT JOIN zone_versions v ON v.zone_id = z.id
         WHERE z.id = $1 AND z.archived_at IS NULL",
    )
    .bind(zone.as_str())
    .fetch_optional(tx)
    .await?;
    Ok(version)
}

async fn applications(tx: &mut ReadTx, zone: &ZoneId) -> Result<Vec<ApplicationRow>, StorageError> {
    let rows = sqlx::query(
        "SELECT id, name, registration_method, client_secret_hash, client_jwks, traits, dpop_bound,
             certificate_bound, floor(extract(epoch FROM expires_at))::bigint AS expires_at
         FROM applications WHERE zone_id = $1 AND archived_at IS NULL",
    )
    .bind(zone.as_str())
    .fetch_all(tx)
    .await?;
    let read = |row: &PgRow| {
        Ok(ApplicationRow {
            id: id(row, "id", "applications")?,
            name: row.try_get("name")?,
            registration_method: row.try_get("registration_method")?,
            client_secret_hash: row.try_get("client_secret_hash")?,
            client_jwks: row.try_get("client_jwks")?,
            traits: row.try_get("traits")?,
            dpop_bound: row.try_get("dpop_bound")?,
            certificate_bound: row.try_get("certificate_bound")?,
            expires_at: row.try_get("expires_at")?,
        })
    };
    rows.iter().map(read).collect()
}

async fn resources(tx: &mut ReadTx, zone: &ZoneId) -> Result<Vec<ResourceRow>, StorageError> {
    let rows = sqlx::query(
        "SELECT r.id, r.identifier, r.upstream_url, r.credential_provider_id, r.scopes, r.operations,
             r.operation_enforcement, l.max_requests, l.window_seconds
         FROM resources r LEFT JOIN resource_rate_limits l ON l.zone_id = r.zone_id AND l.resource_id = r.id
         WHERE r.zone_id = $1 AND r.archived_at IS NULL",
    )
    .bind(zone.as_str())
    .fetch_all(tx)
    .await?;
    let read = |row: &PgRow| {
        Ok(ResourceRow {
            id: id(row, "id", "resources")?,
            identifier: row.try_get("identifier")?,
            upstream_url: row.try_get("upstream_url")?,
            provider_id: optional_id(row, "credential_provider_id", "resources")?,
            scopes: row.try_get("scopes")?,
            operations: row.try_get("operations")?,
            operation_enforcement: row.try_get("operation_enforcement")?,
            mint_limit: mint_limit(row)?,
        })
    };
    rows.iter().map(read).collect()
}

fn mint_limit(row: &PgRow) -> Result<Option<MintLimitRow>, StorageError> {
    let max_requests: Option<i32> = row.try_get("max_requests")?;
    let window_seconds: Option<i32> = row.try_get("window_seconds")?;
    Ok(max_requests
        .zip(window_seconds)
        .map(|(max_requests, window_seconds)| MintLimitRow {
            max_requests,
            window_seconds,
        }))
}

async fn providers(tx: &mut ReadTx, zone: &ZoneId) -> Result<Vec<ProviderRow>, StorageError> {
    let rows = sqlx::query(
        "SELECT id, provider_kind, config_json FROM providers WHERE zone_id = $1 AND archived_at IS NULL",
    )
    .bind(zone.as_str())
    .fetch_all(tx)
    .await?;
    let read = |row: &PgRow| {
        Ok(ProviderRow {
            id: id(row, "id", "providers")?,
            kind: row.try_get("provider_kind")?,
            config: row.try_get("config_json")?,
        })
    };
    rows.iter().map(read).collect()
}

async fn secrets(tx: &mut ReadTx, zone: &ZoneId) -> Result<Vec<SecretRow>, StorageError> {
    let rows = sqlx::query("SELECT ref, envelope FROM secret_store WHERE zone_id = $1")
        .bind(zone.as_str())
        .fetch_all(tx)
        .await?;
    rows.iter()
        .map(|row| {
            Ok(SecretRow {
                reference: row.try_get("ref")?,
                envelope: row.try_get("envelope")?,
            })
        })
        .collect()
}

async fn signing_keys(tx: &mut ReadTx, zone: &ZoneId) -> Result<Vec<SigningKeyRow>, StorageError> {
    let rows = sqlx::query(
        "SELECT id, version, envelope, floor(extract(epoch FROM created_at))::bigint AS created_at,
             floor(extract(epoch FROM coalesce(signs_from, created_at)))::bigint AS signs_from,
             floor(extract(epoch FROM withdrawn_at))::bigint AS withdrawn_at
         FROM secrets WHERE zone_id = $1 AND entity_id = $1 AND name = 'zone_signing_key'
         ORDER BY secrets.created_at DESC, id DESC LIMIT 32",
    )
    .bind(zone.as_str())
    .fetch_all(tx)
    .await?;
    let read = |row: &PgRow| {
        Ok(SigningKeyRow {
            id: id(row, "id", "secrets")?,
            version: row.try_get("version")?,
            envelope: row.try_get("envelope")?,
            created_at: row.try_get("created_at")?,
            signs_from: row.try_get("signs_from")?,
            withdrawn_at: row.try_get("withdrawn_at")?,
        })
    };
    rows.iter().map(read).collect()
}

const ACTIVE: &str = "SELECT b.policy_set_id, v.id AS version_id, v.manifest_sha256, v.manifest_json
     FROM policy_set_bindings b JOIN policy_set_versions v ON v.id = b.active_version_id
     WHERE b.zone_id = $1";
const SHADOW: &str = "SELECT b.policy_set_id, v.id AS version_id, v.manifest_sha256, v.manifest_json
     FROM policy_set_bindings b JOIN policy_set_versions v ON v.id = b.shadow_version_id
     WHERE b.zone_id = $1 ORDER BY b.updated_at DESC LIMIT 1";

async fn policy(
    tx: &mut ReadTx,
    zone: &ZoneId,
    statement: &'static str,
) -> Result<Option<PolicyRows>, StorageError> {
    let row = sqlx::query(statement)
        .bind(zone.as_str())
        .fetch_optional(&mut *tx)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let version_id: PolicySetVersionId = id(&row, "version_id", "policy_set_versions")?;
    let manifest: Value = row.try_get("manifest_json")?;
    let entries = manifest_entries(&manifest).ok_or_else(|| {
        StorageError::inconsistent("policy_set_versions", "manifest_json", version_id.as_str())
    })?;
    Ok(Some(PolicyRows {
        policy_set_id: id(&row, "policy_set_id", "policy_set_bindings")?,
        version_id,
        manifest_sha256: row.try_get("manifest_sha256")?,
        documents: policy_documents(tx, entries).await?,
    }))
}

/// The ids of an array of `{"policy_version_id": id}`.
fn manifest_entries(manifest: &Value) -> Option<Vec<PolicyVersionId>> {
    let entry = |entry: &Value| {
        let id = entry.get("policy_version_id")?.as_str()?;
        PolicyVersionId::try_from(id.to_owned()).ok()
    };
    manifest.as_array()?.iter().map(entry).collect()
}

async fn policy_documents(
    tx: &mut ReadTx,
    ids: Vec<PolicyVersionId>,
) -> Result<Vec<PolicyDocumentRow>, StorageError> {
    let texts: Vec<&str> = ids.iter().map(PolicyVersionId::as_str).collect();
    let rows = sqlx::query("SELECT id, content FROM policy_versions WHERE id = ANY($1)")
        .bind(texts)
        .fetch_all(tx)
        .await?;
    let mut contents = std::collections::HashMap::with_capacity(rows.len());
    for row in &rows {
        contents.insert(
            row.try_get::<String, _>("id")?,
            row.try_get::<String, _>("content")?,
        );
    }
    let document = |id: PolicyVersionId| {
        let content = contents.get(id.as_str()).cloned();
        PolicyDocumentRow { id, content }
    };
    Ok(ids.into_iter().map(document).collect())
}

async fn bindings(tx: &mut ReadTx, zone: &ZoneId) -> Result<Vec<BindingRow>, StorageError> {
    let rows = sqlx::query(
        "SELECT resource_identifier, application_id FROM gateway_resource_bindings
         WHERE zone_id = $1 AND application_id IS NOT NULL",
    )
    .bind(zone.as_str())
    .fetch_all(tx)
    .await?;
    let read = |row: &PgRow| {
        Ok(BindingRow {
            resource: row.try_get("resource_identifier")?,
            application_id: id(row, "application_id", "gateway_resource_bindings")?,
        })
    };
    rows.iter().map(read).collect()
}

async fn subject_issuers(tx: &mut ReadTx, zone: &ZoneId) -> Result<Vec<SubjectIssuerRow>, StorageError> {
    let rows = sqlx::query(
        "SELECT id, issuer, jwks_url, audience FROM subject_issuers WHERE zone_id = $1 AND archived_at IS NULL",
    )
    .bind(zone.as_str())
    .fetch_all(tx)
    .await?;
    let read = |row: &PgRow| {
        Ok(SubjectIssuerRow {
            id: id(row, "id", "subject_issuers")?,
            issuer: row.try_get("issuer")?,
            jwks_url: row.try_get("jwks_url")?,
            audience: row.try_get("audience")?,
        })
    };
    rows.iter().map(read).collect()
}

async fn mints_per_minute(tx: &mut ReadTx) -> Result<Option<i32>, StorageError> {
    Ok(
        sqlx::query_scalar("SELECT limit_per_minute FROM sts_rate_limit LIMIT 1")
            .fetch_optional(tx)
            .await?,
    )
}

fn id<T: TryFrom<String>>(row: &PgRow, column: &'static str, table: &'static str) -> Result<T, StorageError> {
    let text: String = row.try_get(column)?;
    checked(text, table, column, "of a zone")
}

fn optional_id<T: TryFrom<String>>(
    row: &PgRow,
    column: &'static str,
    table: &'static str,
) -> Result<Option<T>, StorageError> {
    let text: Option<String> = row.try_get(column)?;
    text.map(|text| checked(text, table, column, "of a zone"))
        .transpose()
}
