//! For what do we ask the token endpoint?

use std::fmt;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::assertion::{AssertionError, AssertionKey};
use crate::client::{ConfigError, OAuthClient, OAuthSecrets, assertion_key};

/// How long an RFC 7523 grant assertion may be used, in seconds.
const GRANT_ASSERTION_SECONDS: i64 = 300;

/// One request to the token endpoint.
#[derive(Clone, Copy)]
pub enum Grant<'a> {
    /// As the client itself.
    Client(&'a ClientGrant),
    /// RFC 6749 section 4.1.3 with the verifier of RFC 7636.
    AuthorizationCode {
        /// The code from the redirect.
        code: &'a str,
        /// The verifier whose hash was in the authorization request.
        code_verifier: &'a str,
    },
    /// RFC 6749 section 6.
    RefreshToken(&'a str),
}

impl fmt::Debug for Grant<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Client(_) => "Client",
            Self::AuthorizationCode { .. } => "AuthorizationCode",
            Self::RefreshToken(_) => "RefreshToken",
        })
    }
}

impl Grant<'_> {
    /// Whether asking twice does no harm. A code and a rotating refresh token are good for one use: a server that sees
    /// either twice may take it for stolen and end the whole connection (RFC 9700 section 4.14.2).
    pub(crate) fn is_repeatable(&self) -> bool {
        matches!(self, Self::Client(_))
    }
}

/// A grant the client makes for itself.
#[derive(Debug)]
pub enum ClientGrant {
    /// RFC 6749 section 4.4.
    ClientCredentials {
        /// Audience, where the server wants one.
        audience: Option<String>,
        /// RFC 8707 resource.
        resource: Option<String>,
    },
    /// RFC 7523 section 2.1.
    JwtBearer {
        /// `sub`; the client id unless configured.
        subject: Option<String>,
        /// `aud`; the token endpoint unless configured.
        audience: Option<String>,
        /// Signs the assertion.
        key: AssertionKey,
    },
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Members {
    grant_type: Option<String>,
    audience: Option<String>,
    resource: Option<String>,
    assertion_subject: Option<String>,
    assertion_audience: Option<String>,
    key_id: Option<String>,
}

impl ClientGrant {
    /// Understands the grant part of a provider's configuration.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn read(config: &Value, secrets: &OAuthSecrets) -> Result<Self, ConfigError> {
        let members = Members::deserialize(config).or(Err(ConfigError::Malformed))?;
        match members.grant_type.as_deref().unwrap_or("client_credentials") {
            "client_credentials" => Ok(Self::ClientCredentials {
                audience: members.audience,
                resource: members.resource,
            }),
            "jwt_bearer" => Ok(Self::JwtBearer {
                subject: members.assertion_subject,
                audience: members.assertion_audience,
                key: assertion_key(members.key_id, None, secrets)?,
            }),
            _ => Err(ConfigError::Setting("grant_type")),
        }
    }
}

/// The claims of an assertion of the client that is good for `seconds` from `now`, in Unix seconds.
pub(crate) fn claims(
    client: &OAuthClient,
    subject: &str,
    audience: &str,
    now: i64,
    seconds: i64,
) -> Map<String, Value> {
    let members = [
        ("iss", Value::from(client.client_id.as_str())),
        ("sub", Value::from(subject)),
        ("aud", Value::from(audience)),
        ("iat", Value::from(now)),
        ("exp", Value::from(now.saturating_add(seconds))),
    ];
    members
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// The form members of `grant`, without those that authenticate the client. `now` is in Unix seconds.
pub(crate) fn members(
    client: &OAuthClient,
    grant: Grant<'_>,
    now: i64,
) -> Result<Vec<(&'static str, String)>, AssertionError> {
    let mut members: Vec<(&'static str, String)> = Vec::with_capacity(6);
    match grant {
        Grant::Client(ClientGrant::ClientCredentials { audience, resource }) => {
            members.push(("grant_type", "client_credentials".to_owned()));
            members.extend(client.scope().map(|scope| ("scope", scope)));
            members.extend(audience.clone().map(|audience| ("audience", audience)));
            members.extend(resource.clone().map(|resource| ("resource", resource)));
        }
        Grant::Client(ClientGrant::JwtBearer {
            subject,
            audience,
            key,
        }) => {
            let subject = subject.as_ref().unwrap_or(&client.client_id);
            let audience = audience.as_deref().unwrap_or(client.token_endpoint.as_str());
            let mut claims = claims(client, subject, audience, now, GRANT_ASSERTION_SECONDS);
            if let Some(scope) = client.scope() {
                claims.insert("scope".to_owned(), Value::String(scope));
            }
            members.push((
                "grant_type",
                "urn:ietf:params:oauth:grant-type:jwt-bearer".to_owned(),
            ));
            members.push(("assertion", key.sign(claims)?));
        }
        Grant::AuthorizationCode { code, code_verifier } => {
            members.push(("grant_type", "authorization_code".to_owned()));
            members.push(("code", code.to_owned()));
            members.push(("code_verifier", code_verifier.to_owned()));
            members.extend(client.redirect_uri.clone().map(|uri| ("redirect_uri", uri)));
        }
        Grant::RefreshToken(token) => {
            members.push(("grant_type", "refresh_token".to_owned()));
            members.push(("refresh_token", token.to_owned()));
        }
    }
    Ok(members)
}
