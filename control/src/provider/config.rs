//! Which configuration may a provider of each kind have?
//!
//! The members per kind are one table; the rules that tie members together follow it
//! (`docs/contract/admin-api.md` section 6.2). The result is split into the part that is shown and the part that is
//! sealed.

use std::collections::BTreeMap;

use caracal_oauth::{AUTHORIZATION_PARAMS_RESERVED, TOKEN_PARAMS_RESERVED};
use serde_json::{Map, Value};
use url::Url;

use super::kind::Kind;
use super::member::{self, Fault};

/// A checked configuration, split by who may read it.
#[derive(Debug)]
pub(crate) struct ProviderConfig {
    /// Stored in the row and returned by the API.
    pub(crate) public: Map<String, Value>,
    /// Sealed; only the names of its members are ever shown. Empty when no secret was sent.
    pub(crate) secret: BTreeMap<&'static str, String>,
}

/// Whether every secret the kind needs must be present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Secrets {
    /// A new provider, or one that changes its kind.
    Complete,
    /// An existing one of the same kind: secrets that are not sent stay as they are stored.
    MayBeKept,
}

/// Members that hold a secret, whatever the kind.
pub(crate) const SECRET_MEMBERS: [&str; 7] = [
    "api_key",
    "bearer_token",
    "password",
    "client_secret",
    "private_key",
    "secret_access_key",
    "session_token",
];

const API_KEY: [&str; 8] = [
    "auth_location",
    "header_name",
    "query_param_name",
    "api_key",
    "allowed_token_hosts",
    "auth_scheme",
    "forward_caracal_identity",
    "allow_runtime_injection",
];
const BEARER_TOKEN: [&str; 6] = [
    "bearer_token",
    "allowed_token_hosts",
    "auth_header",
    "auth_scheme",
    "forward_caracal_identity",
    "allow_runtime_injection",
];
const HTTP_BASIC: [&str; 4] = [
    "username",
    "password",
    "allowed_token_hosts",
    "forward_caracal_identity",
];
const CLIENT_CREDENTIALS: [&str; 19] = [
    "token_endpoint",
    "client_id",
    "client_secret",
    "private_key",
    "scopes",
    "client_auth_method",
    "grant_type",
    "assertion_subject",
    "assertion_audience",
    "audience",
    "resource",
    "allowed_token_hosts",
    "token_params",
    "key_id",
    "certificate",
    "auth_header",
    "auth_scheme",
    "forward_caracal_identity",
    "allow_runtime_injection",
];
const AUTHORIZATION_CODE: [&str; 14] = [
    "authorization_endpoint",
    "token_endpoint",
    "redirect_uri",
    "client_id",
    "client_secret",
    "scopes",
    "client_auth_method",
    "revocation_endpoint",
    "allowed_token_hosts",
    "authorization_params",
    "token_params",
    "auth_header",
    "auth_scheme",
    "forward_caracal_identity",
];

const AWS_SIGV4: [&str; 6] = [
    "access_key_id",
    "secret_access_key",
    "session_token",
    "region",
    "service",
    "forward_caracal_identity",
];

impl Kind {
    const fn members(self) -> &'static [&'static str] {
        match self {
            Self::None | Self::CaracalMandate => &[],
            Self::ApiKey => &API_KEY,
            Self::BearerToken => &BEARER_TOKEN,
            Self::HttpBasic => &HTTP_BASIC,
            Self::ClientCredentials => &CLIENT_CREDENTIALS,
            Self::AuthorizationCode => &AUTHORIZATION_CODE,
            Self::AwsSigv4 => &AWS_SIGV4,
        }
    }
}

/// Checks `config` for a provider of `kind` and splits it.
///
/// # Errors
/// The first thing that is wrong with it, as a sentence for the client; it never repeats a value.
pub(crate) fn check(
    kind: Kind,
    config: &Map<String, Value>,
    secrets: Secrets,
) -> Result<ProviderConfig, Fault> {
    if let Some(unknown) = config
        .keys()
        .find(|name| !kind.members().contains(&name.as_str()))
    {
        return Err(format!("config_json.{unknown} is not a member of kind {}", kind.as_str()).into());
    }
    let mut checked = ProviderConfig {
        public: Map::new(),
        secret: BTreeMap::new(),
    };
    for name in kind.members() {
        let Some(value) = config.get(*name).filter(|value| !value.is_null()) else {
            continue;
        };
        if SECRET_MEMBERS.contains(name) {
            checked.secret.insert(name, member::secret(name, value)?);
        } else {
            checked
                .public
                .insert((*name).to_owned(), public_member(name, value)?);
        }
    }
    match kind {
        Kind::None | Kind::CaracalMandate => {}
        Kind::ApiKey => api_key(&checked, secrets)?,
        Kind::BearerToken => bearer_token(&checked, secrets)?,
        Kind::HttpBasic => http_basic(&checked, secrets)?,
        Kind::ClientCredentials => client_credentials(&mut checked, secrets)?,
        Kind::AuthorizationCode => authorization_code(&mut checked, secrets)?,
        Kind::AwsSigv4 => aws_sigv4(&checked, secrets)?,
    }
    Ok(checked)
}

fn public_member(name: &'static str, value: &Value) -> Result<Value, Fault> {
    match name {
        "auth_location" => member::word(name, value, &["header", "query"]),
        "client_auth_method" => member::word(
            name,
            value,
            &[
                "client_secret_basic",
                "client_secret_post",
                "private_key_jwt",
                "none",
            ],
        ),
        "grant_type" => member::word(name, value, &["client_credentials", "jwt_bearer"]),
        "header_name" | "auth_header" => member::header_name(name, value),
        "query_param_name" | "access_key_id" | "region" | "service" => member::parameter_name(name, value),
        "auth_scheme" => member::auth_scheme(name, value),
        "allowed_token_hosts" => member::hosts(name, value),
        "scopes" => member::texts(name, value),
        "authorization_params" => member::parameters(name, value, &AUTHORIZATION_PARAMS_RESERVED),
        "token_params" => member::parameters(name, value, &TOKEN_PARAMS_RESERVED),
        "token_endpoint" | "authorization_endpoint" | "revocation_endpoint" => {
            member::https_endpoint(name, value)
        }
        "redirect_uri" => member::absolute_uri(name, value),
        "certificate" => member::certificate(name, value),
        "forward_caracal_identity" | "allow_runtime_injection" => member::boolean(name, value),
        _ => member::text(name, value),
    }
}

fn api_key(config: &ProviderConfig, secrets: Secrets) -> Result<(), Fault> {
    let in_query = config.text("auth_location") == Some("query");
    if in_query {
        config.require("query_param_name")?;
        config.forbid(&["header_name", "auth_scheme"], "auth_location query")?;
    } else {
        config.require("header_name")?;
        config.forbid(&["query_param_name"], "auth_location header")?;
    }
    config.require_secret("api_key", secrets)?;
    config.refuse_repeated_scheme("api_key", config.text("auth_scheme"))
}

fn bearer_token(config: &ProviderConfig, secrets: Secrets) -> Result<(), Fault> {
    config.require_secret("bearer_token", secrets)?;
    config.refuse_repeated_scheme(
        "bearer_token",
        Some(config.text("auth_scheme").unwrap_or("Bearer")),
    )
}

fn http_basic(config: &ProviderConfig, secrets: Secrets) -> Result<(), Fault> {
    config.require("username")?;
    // RFC 7617 section 2: the first colon ends the user id.
    if config.text("username").is_some_and(|name| name.contains(':')) {
        return Err("config_json.username must not contain a colon".into());
    }
    config.require_secret("password", secrets)
}

fn client_credentials(config: &mut ProviderConfig, secrets: Secrets) -> Result<(), Fault> {
    config.require("token_endpoint")?;
    config.require("client_id")?;
    let jwt_bearer = config.text("grant_type") == Some("jwt_bearer");
    let method = config
        .text("client_auth_method")
        .unwrap_or(if jwt_bearer { "none" } else { "client_secret_basic" })
        .to_owned();
    if jwt_bearer && method == "private_key_jwt" {
        return Err("config_json.client_auth_method private_key_jwt cannot be used with jwt_bearer".into());
    }
    if jwt_bearer {
        config.forbid(&["audience", "resource"], "grant_type jwt_bearer")?;
    } else {
        config.forbid(
            &["assertion_subject", "assertion_audience"],
            "grant_type client_credentials",
        )?;
    }
    if jwt_bearer || method == "private_key_jwt" {
        config.require_secret("private_key", secrets)?;
    } else {
        config.forbid(&["private_key", "key_id"], "this client_auth_method")?;
    }
    match method.as_str() {
        "private_key_jwt" => config.forbid(&["client_secret"], "client_auth_method private_key_jwt")?,
        "none" => config.forbid(&["certificate"], "client_auth_method none")?,
        _ => {
            config.require_secret("client_secret", secrets)?;
            config.forbid(&["certificate"], "this client_auth_method")?;
        }
    }
    config.default_token_hosts();
    Ok(())
}

fn authorization_code(config: &mut ProviderConfig, secrets: Secrets) -> Result<(), Fault> {
    for name in [
        "authorization_endpoint",
        "token_endpoint",
        "redirect_uri",
        "client_id",
    ] {
        config.require(name)?;
    }
    match config.text("client_auth_method").unwrap_or("client_secret_basic") {
        "private_key_jwt" => {
            return Err(
                "config_json.client_auth_method private_key_jwt is not available for this kind".into(),
            );
        }
        "none" => {}
        _ => config.require_secret("client_secret", secrets)?,
    }
    config.default_token_hosts();
    let hosts = config.public.get("allowed_token_hosts").and_then(Value::as_array);
    if let Some(host) = config.text("revocation_endpoint").and_then(host_of)
        && !hosts.is_some_and(|hosts| hosts.iter().any(|allowed| allowed.as_str() == Some(&host)))
    {
        return Err("config_json.revocation_endpoint must be on one of allowed_token_hosts".into());
    }
    Ok(())
}

fn aws_sigv4(config: &ProviderConfig, secrets: Secrets) -> Result<(), Fault> {
    for name in ["access_key_id", "region", "service"] {
        config.require(name)?;
    }
    config.require_secret("secret_access_key", secrets)
}

impl ProviderConfig {
    fn text(&self, name: &str) -> Option<&str> {
        self.public.get(name).and_then(Value::as_str)
    }

    fn require(&self, name: &str) -> Result<(), Fault> {
        if self.public.contains_key(name) {
            return Ok(());
        }
        Err(format!("config_json.{name} is required").into())
    }

    fn require_secret(&self, name: &str, secrets: Secrets) -> Result<(), Fault> {
        if self.secret.contains_key(name) || (secrets == Secrets::MayBeKept && self.secret.is_empty()) {
            return Ok(());
        }
        Err(format!("config_json.{name} is required").into())
    }

    fn forbid(&self, names: &[&str], reason: &str) -> Result<(), Fault> {
        let sent = names
            .iter()
            .find(|name| self.public.contains_key(**name) || self.secret.contains_key(**name));
        match sent {
            Some(name) => Err(format!("config_json.{name} cannot be used with {reason}").into()),
            None => Ok(()),
        }
    }

    /// A credential that repeats its scheme would be sent as `Bearer Bearer x`.
    fn refuse_repeated_scheme(&self, name: &str, scheme: Option<&str>) -> Result<(), Fault> {
        let (Some(scheme), Some(secret)) = (scheme, self.secret.get(name)) else {
            return Ok(());
        };
        let repeated = secret
            .get(..scheme.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(scheme))
            && secret[scheme.len()..].starts_with(' ');
        if repeated {
            return Err(format!("config_json.{name} must not begin with its scheme {scheme}").into());
        }
        Ok(())
    }

    fn default_token_hosts(&mut self) {
        if !self.public.contains_key("allowed_token_hosts")
            && let Some(host) = self.text("token_endpoint").and_then(host_of)
        {
            self.public
                .insert("allowed_token_hosts".to_owned(), Value::from(vec![host]));
        }
    }
}

fn host_of(endpoint: &str) -> Option<String> {
    Url::parse(endpoint).ok()?.host_str().map(str::to_ascii_lowercase)
}

#[cfg(test)]
mod tests;
