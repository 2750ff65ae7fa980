//! With which credential is a resource's upstream called?
//!
//! The provider's public configuration and its opened secrets, turned once, when the zone is loaded, into what the
//! gateway has to do (`docs/contract/upstream-credentials.md`).

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use caracal_chassis::Secret;
use caracal_model::{ProviderId, ZoneId};
use caracal_oauth::{ClientGrant, ConfigError, OAuthClient, OAuthSecrets};
use caracal_storage::zone_model::{ProviderRow, SecretRow};
use caracal_token::envelope::Keyring;
use caracal_wire::sts::AwsSigning;
use serde::{Deserialize, Deserializer};

/// A provider of upstream credentials.
#[derive(Debug)]
pub(crate) struct Provider {
    pub(crate) id: ProviderId,
    /// The credential, or why there is none. The reason names configuration only, never a secret.
    pub(crate) credential: Result<Credential, Unusable>,
    /// Whether a workload may be given it: the operator has opened it up, and it is a key or token of a client, which is of
    /// use alone. Not a password, not the account of a user, not a key that signs.
    pub(crate) is_injectable: bool,
}

/// Why a provider gives no credential.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unusable {
    #[error("provider kind {0} is not supported")]
    Kind(String),
    #[error("provider configuration is malformed")]
    Config,
    #[error("provider setting {0} is invalid")]
    Setting(&'static str),
    #[error("provider secret {0} is missing")]
    SecretMissing(&'static str),
    #[error("provider secrets cannot be opened")]
    SecretSealed,
    #[error(transparent)]
    OAuth(#[from] ConfigError),
}

impl Provider {
    /// Whether its secrets are there and cannot be opened.
    pub(super) fn is_sealed(&self) -> bool {
        matches!(self.credential, Err(Unusable::SecretSealed))
    }
}

/// What the gateway puts into the upstream request.
#[derive(Debug)]
pub(crate) enum Credential {
    /// Nothing.
    None,
    /// The resource mandate itself, as bearer.
    Mandate,
    /// A secret of the provider.
    Secret(SecretCredential),
    /// A token the client gets for itself.
    Client(Arc<OAuthProvider>),
    /// A token of an account the caller's subject has connected.
    Connection(Arc<OAuthProvider>),
    /// A signature of the request.
    Aws {
        signing: AwsSigning,
        /// Whether the mandate goes along in a header of its own.
        forwards_identity: bool,
    },
}

/// An OAuth server and how its tokens are presented to the upstream.
#[derive(Debug)]
pub(crate) struct OAuthProvider {
    pub(crate) id: ProviderId,
    pub(crate) zone_id: ZoneId,
    pub(crate) client: OAuthClient,
    /// For what the client asks on its own behalf; only where it does.
    pub(crate) grant: Option<ClientGrant>,
    pub(crate) placement: Placement,
    pub(crate) forwards_identity: bool,
    /// Changes with anything a token depends on: kind, configuration, secrets.
    pub(crate) fingerprint: [u8; 32],
}

/// A secret of the provider and where it goes.
#[derive(Debug)]
pub(crate) struct SecretCredential {
    pub(crate) value: Secret,
    pub(crate) placement: Placement,
    /// Upstream hosts that may receive it, lower-cased; empty allows any.
    pub(crate) allowed_hosts: Vec<String>,
    /// Whether the mandate goes along in a header of its own.
    pub(crate) forwards_identity: bool,
}

/// Where a secret goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Placement {
    /// An API key in a header, after an optional scheme.
    KeyHeader { name: String, scheme: Option<String> },
    /// An API key in the query.
    KeyQuery { name: String },
    /// A token in a header, after a scheme.
    TokenHeader { name: String, scheme: String },
}

/// The parts of a provider's public configuration that matter here; it may hold more.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    auth_location: Option<String>,
    header_name: Option<String>,
    query_param_name: Option<String>,
    auth_header: Option<String>,
    auth_scheme: Option<String>,
    allowed_token_hosts: Vec<String>,
    forward_caracal_identity: bool,
    username: Option<String>,
    access_key_id: Option<String>,
    region: Option<String>,
    service: Option<String>,
}

/// The secret document of a provider.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct SecretDocument {
    api_key: Option<SecretText>,
    bearer_token: Option<SecretText>,
    password: Option<SecretText>,
    client_secret: Option<SecretText>,
    private_key: Option<SecretText>,
    secret_access_key: Option<SecretText>,
    session_token: Option<SecretText>,
}

#[derive(Debug)]
struct SecretText(Secret);

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Secret::new(text)))
    }
}

/// Opens the secrets of `rows` and reads their configuration.
pub(super) fn read_all(
    zone: &ZoneId,
    rows: Vec<ProviderRow>,
    secrets: &[SecretRow],
    keyring: &Keyring,
) -> HashMap<ProviderId, Provider> {
    let envelopes: HashMap<&str, &SecretRow> = secrets
        .iter()
        .map(|secret| (secret.reference.as_str(), secret))
        .collect();
    let read = |row: ProviderRow| {
        let reference = format!("zones/{zone}/providers/{}/secretConfig", row.id);
        let credential = credential(zone, &row, envelopes.get(reference.as_str()).copied(), keyring);
        if let Err(reason) = &credential {
            tracing::warn!(zone.id = %zone, provider.id = %row.id, %reason, "a provider has no usable credential");
        }
        (
            row.id.clone(),
            Provider {
                is_injectable: is_injectable(&row),
                id: row.id,
                credential,
            },
        )
    };
    rows.into_iter().map(read).collect()
}

fn is_injectable(row: &ProviderRow) -> bool {
    let is_opened = row.config.get("allow_runtime_injection") == Some(&serde_json::Value::Bool(true));
    is_opened
        && matches!(
            row.kind.as_str(),
            "api_key" | "bearer_token" | "oauth2_client_credentials"
        )
}

fn credential(
    zone: &ZoneId,
    row: &ProviderRow,
    sealed: Option<&SecretRow>,
    keyring: &Keyring,
) -> Result<Credential, Unusable> {
    let config: Config = Config::deserialize(&row.config).or(Err(Unusable::Config))?;
    let secret = match row.kind.as_str() {
        "none" => return Ok(Credential::None),
        "caracal_mandate" => return Ok(Credential::Mandate),
        "api_key" => api_key(&config, open(sealed, keyring)?)?,
        "bearer_token" => bearer_token(&config, open(sealed, keyring)?)?,
        "http_basic" => http_basic(&config, open(sealed, keyring)?)?,
        "oauth2_client_credentials" | "oauth2_authorization_code" => {
            let secrets = open(sealed, keyring)?;
            return oauth(zone, row, &config, &secrets);
        }
        "aws_sigv4" => {
            return Ok(Credential::Aws {
                signing: aws(&config, open(sealed, keyring)?)?,
                forwards_identity: config.forward_caracal_identity,
            });
        }
        other => return Err(Unusable::Kind(other.to_owned())),
    };
    Ok(Credential::Secret(secret))
}

/// A provider without a secret document has an empty one.
fn open(sealed: Option<&SecretRow>, keyring: &Keyring) -> Result<SecretDocument, Unusable> {
    let Some(sealed) = sealed else {
        return Ok(SecretDocument::default());
    };
    let plain = keyring
        .open(&sealed.envelope, sealed.reference.as_bytes())
        .or(Err(Unusable::SecretSealed))?;
    serde_json::from_slice(&plain).or(Err(Unusable::SecretSealed))
}

fn api_key(config: &Config, secrets: SecretDocument) -> Result<SecretCredential, Unusable> {
    let in_query = match config.auth_location.as_deref() {
        Some("query") => true,
        Some("header") => false,
        Some(_) => return Err(Unusable::Setting("auth_location")),
        None => config.header_name.is_none() && config.query_param_name.is_some(),
    };
    let placement = if in_query {
        let name = config
            .query_param_name
            .as_deref()
            .filter(|name| is_query_name(name));
        Placement::KeyQuery {
            name: name.ok_or(Unusable::Setting("query_param_name"))?.to_owned(),
        }
    } else {
        let name = config.header_name.as_deref().filter(|name| is_header_name(name));
        Placement::KeyHeader {
            name: name.ok_or(Unusable::Setting("header_name"))?.to_owned(),
            scheme: scheme(config)?.map(str::to_owned),
        }
    };
    finish(config, secret(secrets.api_key, "api_key")?, placement)
}

fn bearer_token(config: &Config, secrets: SecretDocument) -> Result<SecretCredential, Unusable> {
    let placement = token_header(config)?;
    finish(config, secret(secrets.bearer_token, "bearer_token")?, placement)
}

/// `Authorization: Bearer`, unless configured otherwise.
fn token_header(config: &Config) -> Result<Placement, Unusable> {
    let name = config
        .auth_header
        .as_deref()
        .filter(|name| !name.is_empty())
        .unwrap_or("Authorization");
    if !is_header_name(name) {
        return Err(Unusable::Setting("auth_header"));
    }
    Ok(Placement::TokenHeader {
        name: name.to_owned(),
        scheme: scheme(config)?.unwrap_or("Bearer").to_owned(),
    })
}

fn oauth(
    zone: &ZoneId,
    row: &ProviderRow,
    config: &Config,
    secrets: &SecretDocument,
) -> Result<Credential, Unusable> {
    let held = |text: &Option<SecretText>| text.as_ref().map(|text| text.0.clone());
    let secrets = OAuthSecrets {
        client_secret: held(&secrets.client_secret),
        private_key: held(&secrets.private_key),
    };
    let is_client = row.kind == "oauth2_client_credentials";
    let grant = is_client
        .then(|| ClientGrant::read(&row.config, &secrets))
        .transpose()?;
    let client = OAuthClient::read(&row.config, &secrets)?;
    if !client.is_endpoint_allowed() {
        return Err(Unusable::Setting("allowed_token_hosts"));
    }
    let provider = Arc::new(OAuthProvider {
        id: row.id.clone(),
        zone_id: zone.clone(),
        client,
        grant,
        placement: token_header(config)?,
        forwards_identity: config.forward_caracal_identity,
        fingerprint: fingerprint(row, &secrets),
    });
    Ok(if is_client {
        Credential::Client(provider)
    } else {
        Credential::Connection(provider)
    })
}

fn fingerprint(row: &ProviderRow, secrets: &OAuthSecrets) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    let secret = |text: &Option<Secret>| {
        let text = text.as_ref().map(|text| text.expose().as_bytes());
        caracal_token::digest(text.unwrap_or_default())
    };
    context.update(row.kind.as_bytes());
    context.update(&[0]);
    context.update(row.config.to_string().as_bytes());
    context.update(&[0]);
    context.update(&secret(&secrets.client_secret));
    context.update(&secret(&secrets.private_key));
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(context.finish().as_ref());
    fingerprint
}

fn aws(config: &Config, secrets: SecretDocument) -> Result<AwsSigning, Unusable> {
    let word = |text: &Option<String>, name: &'static str| {
        let text = text.as_deref().filter(|text| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        });
        text.map(str::to_owned).ok_or(Unusable::Setting(name))
    };
    Ok(AwsSigning {
        access_key_id: word(&config.access_key_id, "access_key_id")?,
        secret_access_key: secret(secrets.secret_access_key, "secret_access_key")?
            .expose()
            .clone(),
        session_token: secrets
            .session_token
            .map(|token| token.0.expose().clone())
            .filter(|token| !token.is_empty()),
        region: word(&config.region, "region")?,
        service: word(&config.service, "service")?,
    })
}

/// RFC 7617 section 2: user-id and password joined by a colon, in base64.
fn http_basic(config: &Config, secrets: SecretDocument) -> Result<SecretCredential, Unusable> {
    let username = config
        .username
        .as_deref()
        .map(str::trim)
        .filter(|name| !name.is_empty() && !name.contains(':'));
    let username = username.ok_or(Unusable::Setting("username"))?;
    let password = secret(secrets.password, "password")?;
    let pair = Secret::new(format!("{username}:{}", password.expose()));
    let value = Secret::new(STANDARD.encode(pair.expose()));
    let placement = Placement::TokenHeader {
        name: "Authorization".to_owned(),
        scheme: "Basic".to_owned(),
    };
    finish(config, value, placement)
}

fn finish(config: &Config, value: Secret, placement: Placement) -> Result<SecretCredential, Unusable> {
    let hosts = config
        .allowed_token_hosts
        .iter()
        .map(|host| host.trim().to_ascii_lowercase());
    let allowed_hosts: Vec<String> = hosts.filter(|host| !host.is_empty()).collect();
    if !allowed_hosts.iter().all(|host| is_host(host)) {
        return Err(Unusable::Setting("allowed_token_hosts"));
    }
    Ok(SecretCredential {
        value,
        placement,
        allowed_hosts,
        forwards_identity: config.forward_caracal_identity,
    })
}

fn secret(text: Option<SecretText>, name: &'static str) -> Result<Secret, Unusable> {
    text.map(|text| text.0)
        .filter(|secret| !secret.expose().is_empty())
        .ok_or(Unusable::SecretMissing(name))
}

fn scheme(config: &Config) -> Result<Option<&str>, Unusable> {
    match config.auth_scheme.as_deref() {
        None | Some("") => Ok(None),
        Some(scheme) if is_scheme(scheme) => Ok(Some(scheme)),
        Some(_) => Err(Unusable::Setting("auth_scheme")),
    }
}

/// A letter, then letters, digits and hyphens.
fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// A token of RFC 9110 section 5.6.2.
fn is_header_name(text: &str) -> bool {
    http::HeaderName::from_bytes(text.as_bytes()).is_ok()
}

fn is_query_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte))
}

fn is_host(text: &str) -> bool {
    let ends = |character: Option<char>| character.is_some_and(|end| end.is_ascii_alphanumeric());
    text.len() <= 253
        && !text.contains("..")
        && ends(text.chars().next())
        && ends(text.chars().next_back())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-:".contains(&byte))
}

#[cfg(test)]
mod tests;
