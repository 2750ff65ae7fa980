//! Who are we at a token endpoint, and how do we prove it?

use std::collections::BTreeMap;

use caracal_chassis::Secret;
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use crate::assertion::AssertionKey;

/// A client registration at an authorization server.
#[derive(Debug)]
pub struct OAuthClient {
    pub(crate) token_endpoint: Url,
    pub(crate) client_id: String,
    pub(crate) authentication: Authentication,
    /// Hosts that may be called with these credentials, lower-cased; never empty.
    pub(crate) allowed_hosts: Vec<String>,
    /// Further members of every token request.
    pub(crate) token_params: BTreeMap<String, String>,
    /// Where users authorize, if this client is for them.
    pub(crate) authorization_endpoint: Option<Url>,
    pub(crate) authorization_params: BTreeMap<String, String>,
    pub(crate) redirect_uri: Option<String>,
    pub(crate) revocation_endpoint: Option<Url>,
    pub(crate) scopes: Vec<String>,
    /// Whether tokens of a type other than bearer are accepted, because the operator said how to present them.
    pub(crate) accepts_any_token_type: bool,
}

/// How the client proves itself (RFC 6749 section 2.3, RFC 7523 section 2.2).
#[derive(Debug)]
pub enum Authentication {
    /// Id and secret in the `Authorization` header, as they are: not form-encoded first.
    Basic(Secret),
    /// Id and secret in the form.
    Post(Secret),
    /// A signed assertion.
    PrivateKeyJwt(AssertionKey),
    /// The id only.
    None,
}

/// The secret members of a provider's configuration.
#[derive(Debug, Default, Clone)]
pub struct OAuthSecrets {
    /// The client secret.
    pub client_secret: Option<Secret>,
    /// The private key, PEM.
    pub private_key: Option<Secret>,
}

/// Why a configuration cannot be used. Names members, never values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// It is not an object with members of the right types.
    #[error("provider configuration is malformed")]
    Malformed,
    /// One member is missing or cannot be used.
    #[error("provider setting {0} is invalid")]
    Setting(&'static str),
    /// One secret is missing.
    #[error("provider secret {0} is missing")]
    SecretMissing(&'static str),
    /// One secret cannot be used.
    #[error("provider secret {0} is invalid")]
    SecretInvalid(&'static str),
}

/// What `authorization_params` cannot say, because the protocol does (RFC 6749 section 4.1.1, RFC 7636 section 4.3).
pub const AUTHORIZATION_PARAMS_RESERVED: [&str; 7] = [
    "client_id",
    "code_challenge",
    "code_challenge_method",
    "redirect_uri",
    "response_type",
    "scope",
    "state",
];

/// What `token_params` cannot say, because the protocol does (RFC 6749 sections 4.1.3 and 6, RFC 7521 section 4.2): sent
/// twice, nobody knows which of the two a server reads.
pub const TOKEN_PARAMS_RESERVED: [&str; 10] = [
    "client_assertion",
    "client_assertion_type",
    "client_id",
    "client_secret",
    "code",
    "code_verifier",
    "grant_type",
    "redirect_uri",
    "refresh_token",
    "scope",
];

/// The members that matter here; a configuration may hold more.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Members {
    token_endpoint: Option<String>,
    authorization_endpoint: Option<String>,
    revocation_endpoint: Option<String>,
    redirect_uri: Option<String>,
    client_id: Option<String>,
    client_auth_method: Option<String>,
    grant_type: Option<String>,
    scopes: Vec<String>,
    allowed_token_hosts: Vec<String>,
    authorization_params: BTreeMap<String, String>,
    token_params: BTreeMap<String, String>,
    key_id: Option<String>,
    certificate: Option<String>,
    auth_scheme: Option<String>,
}

impl OAuthClient {
    /// Understands a provider's public configuration and its secrets.
    ///
    /// # Errors
    /// [`ConfigError`], the first that is found.
    pub fn read(config: &Value, secrets: &OAuthSecrets) -> Result<Self, ConfigError> {
        let members = Members::deserialize(config).or(Err(ConfigError::Malformed))?;
        let token_endpoint = https(members.token_endpoint.as_deref(), "token_endpoint")?
            .ok_or(ConfigError::Setting("token_endpoint"))?;
        let client_id = members
            .client_id
            .clone()
            .filter(|id| !id.is_empty())
            .ok_or(ConfigError::Setting("client_id"))?;
        none_of(
            "authorization_params",
            &members.authorization_params,
            &AUTHORIZATION_PARAMS_RESERVED,
        )?;
        none_of("token_params", &members.token_params, &TOKEN_PARAMS_RESERVED)?;
        let allowed_hosts = allowed_hosts(&members.allowed_token_hosts, &token_endpoint);
        Ok(Self {
            authentication: authentication(&members, secrets)?,
            authorization_endpoint: https(
                members.authorization_endpoint.as_deref(),
                "authorization_endpoint",
            )?,
            revocation_endpoint: https(members.revocation_endpoint.as_deref(), "revocation_endpoint")?,
            authorization_params: members.authorization_params,
            redirect_uri: members.redirect_uri,
            scopes: members.scopes,
            token_params: members.token_params,
            accepts_any_token_type: members.auth_scheme.is_some_and(|scheme| !scheme.is_empty()),
            token_endpoint,
            client_id,
            allowed_hosts,
        })
    }

    /// Whether the token endpoint is on one of the allowed hosts. A call would be refused otherwise.
    pub fn is_endpoint_allowed(&self) -> bool {
        let host = self.token_endpoint.host_str().unwrap_or_default();
        self.allowed_hosts
            .iter()
            .any(|allowed| allowed.eq_ignore_ascii_case(host))
    }

    /// Where its tokens can be revoked, if the configuration says (RFC 7009).
    pub fn revocation_endpoint(&self) -> Option<&Url> {
        self.revocation_endpoint.as_ref()
    }

    /// Where the browser comes back to after authorization.
    pub fn redirect_uri(&self) -> Option<&str> {
        self.redirect_uri.as_deref()
    }

    /// The scopes to ask for, joined by spaces; `None` when there are none.
    pub fn scope(&self) -> Option<String> {
        (!self.scopes.is_empty()).then(|| self.scopes.join(" "))
    }
}

fn authentication(members: &Members, secrets: &OAuthSecrets) -> Result<Authentication, ConfigError> {
    let is_assertion_grant = members.grant_type.as_deref() == Some("jwt_bearer");
    let usual = if is_assertion_grant {
        "none"
    } else {
        "client_secret_basic"
    };
    let client_secret = || {
        let secret = secrets.client_secret.clone();
        secret
            .filter(|secret| !secret.expose().is_empty())
            .ok_or(ConfigError::SecretMissing("client_secret"))
    };
    match members.client_auth_method.as_deref().unwrap_or(usual) {
        "client_secret_basic" => client_secret().map(Authentication::Basic),
        "client_secret_post" => client_secret().map(Authentication::Post),
        "private_key_jwt" => assertion_key(members.key_id.clone(), members.certificate.as_deref(), secrets)
            .map(Authentication::PrivateKeyJwt),
        "none" => Ok(Authentication::None),
        _ => Err(ConfigError::Setting("client_auth_method")),
    }
}

/// The key with which assertions are signed.
pub(crate) fn assertion_key(
    key_id: Option<String>,
    certificate: Option<&str>,
    secrets: &OAuthSecrets,
) -> Result<AssertionKey, ConfigError> {
    let pem = secrets
        .private_key
        .as_ref()
        .ok_or(ConfigError::SecretMissing("private_key"))?;
    let key =
        AssertionKey::from_pem(pem.expose(), key_id).or(Err(ConfigError::SecretInvalid("private_key")))?;
    match certificate {
        None => Ok(key),
        Some(certificate) => key
            .with_certificate(certificate)
            .or(Err(ConfigError::Setting("certificate"))),
    }
}

/// Parameters must not say what the protocol says.
fn none_of(
    setting: &'static str,
    parameters: &BTreeMap<String, String>,
    reserved: &[&str],
) -> Result<(), ConfigError> {
    let is_free = !reserved.iter().any(|name| parameters.contains_key(*name));
    is_free.then_some(()).ok_or(ConfigError::Setting(setting))
}

fn https(text: Option<&str>, name: &'static str) -> Result<Option<Url>, ConfigError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let url = Url::parse(text).or(Err(ConfigError::Setting(name)))?;
    let is_plain = url.scheme() == "https" && url.username().is_empty() && url.password().is_none();
    is_plain.then_some(Some(url)).ok_or(ConfigError::Setting(name))
}

/// What the configuration lists, else the host of the token endpoint.
fn allowed_hosts(listed: &[String], endpoint: &Url) -> Vec<String> {
    let listed: Vec<String> = listed
        .iter()
        .map(|host| host.trim().to_ascii_lowercase())
        .filter(|host| !host.is_empty())
        .collect();
    if listed.is_empty() {
        endpoint
            .host_str()
            .map(str::to_ascii_lowercase)
            .into_iter()
            .collect()
    } else {
        listed
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn secrets() -> OAuthSecrets {
        OAuthSecrets {
            client_secret: Some(Secret::from("cs-1")),
            private_key: None,
        }
    }

    #[test]
    fn the_host_of_the_endpoint_is_allowed_when_none_is_listed() {
        let config = json!({"token_endpoint": "https://IdP.example:8443/token", "client_id": "c"});
        let client = OAuthClient::read(&config, &secrets()).unwrap();
        assert_eq!(client.allowed_hosts, ["idp.example"]);
        assert!(client.is_endpoint_allowed());
        let config = json!({"token_endpoint": "https://idp.example/token", "client_id": "c",
            "allowed_token_hosts": ["OTHER.example"]});
        assert!(
            !OAuthClient::read(&config, &secrets())
                .unwrap()
                .is_endpoint_allowed()
        );
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let base = json!({"token_endpoint": "https://idp.example/token", "client_id": "c"});
        for (member, value, error) in [
            (
                "token_endpoint",
                json!("http://idp.example/token"),
                ConfigError::Setting("token_endpoint"),
            ),
            (
                "token_endpoint",
                json!("https://u:p@idp.example/"),
                ConfigError::Setting("token_endpoint"),
            ),
            (
                "token_endpoint",
                json!(null),
                ConfigError::Setting("token_endpoint"),
            ),
            ("client_id", json!(""), ConfigError::Setting("client_id")),
            (
                "client_auth_method",
                json!("tls_client_auth"),
                ConfigError::Setting("client_auth_method"),
            ),
            (
                "client_auth_method",
                json!("private_key_jwt"),
                ConfigError::SecretMissing("private_key"),
            ),
            ("scopes", json!("a b"), ConfigError::Malformed),
            (
                "token_params",
                json!({"client_secret": "mine"}),
                ConfigError::Setting("token_params"),
            ),
            (
                "authorization_params",
                json!({"state": "mine"}),
                ConfigError::Setting("authorization_params"),
            ),
        ] {
            let mut config = base.clone();
            config[member] = value.clone();
            assert_eq!(
                OAuthClient::read(&config, &secrets()).unwrap_err(),
                error,
                "{member} {value}"
            );
        }
        assert_eq!(
            OAuthClient::read(&base, &OAuthSecrets::default()).unwrap_err(),
            ConfigError::SecretMissing("client_secret")
        );
    }

    #[test]
    fn no_secret_is_printed() {
        let config = json!({"token_endpoint": "https://idp.example/token", "client_id": "c"});
        let printed = format!("{:?}", OAuthClient::read(&config, &secrets()).unwrap());
        assert!(!printed.contains("cs-1"), "{printed}");
    }
}
