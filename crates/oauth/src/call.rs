//! How is a token endpoint asked? At most twice, five seconds each, over the guarded client.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use caracal_chassis::Secret;
use caracal_egress::{Client, ClientError, Request, Response};
use form_urlencoded::Serializer;
use http::StatusCode;
use http::header::{ACCEPT, AUTHORIZATION, HeaderValue, InvalidHeaderValue};
use serde::Deserialize;
use url::Url;

use crate::assertion::{AssertionError, AssertionKey};
use crate::client::{Authentication, OAuthClient};
use crate::grant::{self, Grant};
use crate::tokens::{Members, TokenSet};

/// Calls for one grant at most.
const ATTEMPTS: u32 = 2;
/// The time limit of one call.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause before the second call, to which up to as much again is added at random.
const PAUSE_MS: u64 = 100;
/// Bytes of an answer at most.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// How long a client assertion may be used, in seconds.
const CLIENT_ASSERTION_SECONDS: i64 = 60;
const CLIENT_ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// Asks token endpoints. Cheap to clone; clones share connections.
#[derive(Debug, Clone)]
pub struct TokenCaller {
    client: Client,
}

/// Why there is no token. No text of it contains a secret, or anything the server said but its error code.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The rules of egress do not allow to call the endpoint.
    #[error("the token endpoint may not be called")]
    Forbidden(#[source] ClientError),
    /// No usable answer.
    #[error("the token endpoint cannot be reached")]
    Unreachable(#[source] ClientError),
    /// The server refused (RFC 6749 section 5.2).
    #[error("the token endpoint refused with status {status}{}", code.as_deref().map(|code| format!(" ({code})")).unwrap_or_default())]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The `error` member, if it is a code.
        code: Option<String>,
    },
    /// A 200 that is no token response.
    #[error("the token endpoint gave an answer that is no token response")]
    Malformed,
    /// The token is of a type nobody said how to present.
    #[error("the token endpoint gave a token that is not a bearer token")]
    TokenType,
    /// The assertion could not be signed.
    #[error("no assertion could be made")]
    Assertion(#[from] AssertionError),
    /// The credentials cannot stand in a header.
    #[error("the client credentials cannot stand in a header")]
    Credentials(#[source] InvalidHeaderValue),
}

impl TokenError {
    /// Whether the server said that what was presented is not good any more (RFC 6749 section 5.2).
    pub fn is_invalid_grant(&self) -> bool {
        matches!(self, Self::Refused { code: Some(code), .. } if code == "invalid_grant" || code == "bad_refresh_token")
    }

    /// Whether the server itself fails: out of reach, overloaded, or answering nonsense. A refusal of what was presented
    /// is not that.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Malformed => true,
            Self::Refused { status, .. } => *status >= 500 || *status == 429,
            Self::Forbidden(_) | Self::TokenType | Self::Assertion(_) | Self::Credentials(_) => false,
        }
    }

    /// Whether the same call may be made again at once.
    fn may_be_repeated(&self, grant: Grant<'_>) -> bool {
        match self {
            Self::Unreachable(error) => error.is_unsent() || grant.is_repeatable(),
            Self::Refused { status, .. } => *status >= 500 && grant.is_repeatable(),
            Self::Forbidden(_)
            | Self::Malformed
            | Self::TokenType
            | Self::Assertion(_)
            | Self::Credentials(_) => false,
        }
    }
}

impl TokenCaller {
    /// Calls through `client`.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// Asks for the tokens of `grant`. `now` is in Unix seconds. At most two calls of five seconds each.
    ///
    /// # Errors
    /// [`TokenError`] of the last call.
    pub async fn request(
        &self,
        client: &OAuthClient,
        grant: Grant<'_>,
        now: i64,
    ) -> Result<TokenSet, TokenError> {
        let mut attempt = 1;
        loop {
            match self.ask(client, grant, now).await {
                Err(error) if attempt < ATTEMPTS && error.may_be_repeated(grant) => attempt += 1,
                outcome => return outcome,
            }
            tokio::time::sleep(pause()).await;
        }
    }

    /// Asks the server to forget `token` (RFC 7009). `hint` is `refresh_token` or `access_token`.
    ///
    /// # Errors
    /// [`TokenError`]: it may still be good.
    pub async fn revoke(
        &self,
        client: &OAuthClient,
        endpoint: &Url,
        token: &Secret,
        hint: &'static str,
        now: i64,
    ) -> Result<(), TokenError> {
        let members = vec![
            ("token", token.expose().clone()),
            ("token_type_hint", hint.to_owned()),
        ];
        let answer = self.post(client, endpoint, members, now).await?;
        if answer.status.is_success() {
            Ok(())
        } else {
            Err(refused(&answer))
        }
    }

    async fn ask(&self, client: &OAuthClient, grant: Grant<'_>, now: i64) -> Result<TokenSet, TokenError> {
        let members = grant::members(client, grant, now)?;
        let answer = self.post(client, &client.token_endpoint, members, now).await?;
        if answer.status != StatusCode::OK {
            return Err(refused(&answer));
        }
        read(client, &answer)
    }

    async fn post(
        &self,
        client: &OAuthClient,
        endpoint: &Url,
        members: Vec<(&'static str, String)>,
        now: i64,
    ) -> Result<Response, TokenError> {
        let (form, authorization) = authenticated(client, &members, now)?;
        let mut request = Request::post_form(endpoint, form)
            .header(ACCEPT, HeaderValue::from_static("application/json"))
            .only_to(&client.allowed_hosts)
            .within(ATTEMPT_TIMEOUT)
            .at_most(ANSWER_BYTES_MAX);
        if let Some(value) = authorization {
            request = request.header(AUTHORIZATION, value);
        }
        self.client.send(request).await.map_err(|error| match error {
            ClientError::Refused(_) => TokenError::Forbidden(error),
            other => TokenError::Unreachable(other),
        })
    }
}

/// The form with everything in it, and the value of `Authorization` where the client proves itself there.
fn authenticated(
    client: &OAuthClient,
    members: &[(&'static str, String)],
    now: i64,
) -> Result<(String, Option<HeaderValue>), TokenError> {
    let mut form = Serializer::new(String::new());
    for (name, value) in members {
        form.append_pair(name, value);
    }
    for (name, value) in &client.token_params {
        form.append_pair(name, value);
    }
    let mut authorization = None;
    match &client.authentication {
        Authentication::Basic(secret) => authorization = Some(basic(&client.client_id, secret)?),
        Authentication::Post(secret) => {
            form.append_pair("client_id", &client.client_id)
                .append_pair("client_secret", secret.expose());
        }
        Authentication::PrivateKeyJwt(key) => {
            form.append_pair("client_id", &client.client_id)
                .append_pair("client_assertion_type", CLIENT_ASSERTION_TYPE)
                .append_pair("client_assertion", &client_assertion(client, key, now)?);
        }
        Authentication::None => {
            form.append_pair("client_id", &client.client_id);
        }
    }
    Ok((form.finish(), authorization))
}

fn read(client: &OAuthClient, answer: &Response) -> Result<TokenSet, TokenError> {
    let members: Members = serde_json::from_slice(&answer.body).or(Err(TokenError::Malformed))?;
    let is_bearer = members
        .token_type
        .as_deref()
        .is_none_or(|kind| kind.is_empty() || kind.eq_ignore_ascii_case("bearer"));
    if !is_bearer && !client.accepts_any_token_type {
        return Err(TokenError::TokenType);
    }
    Ok(TokenSet {
        access_token: members.access_token.ok_or(TokenError::Malformed)?,
        refresh_token: members.refresh_token,
        expires_in: members.expires_in,
    })
}

fn basic(client_id: &str, secret: &Secret) -> Result<HeaderValue, TokenError> {
    let pair = Secret::new(format!("{client_id}:{}", secret.expose()));
    let value = format!("Basic {}", STANDARD.encode(pair.expose()));
    let mut value = HeaderValue::try_from(value).map_err(TokenError::Credentials)?;
    value.set_sensitive(true);
    Ok(value)
}

fn client_assertion(client: &OAuthClient, key: &AssertionKey, now: i64) -> Result<String, AssertionError> {
    let (subject, audience) = (&client.client_id, client.token_endpoint.as_str());
    key.sign(grant::claims(
        client,
        subject,
        audience,
        now,
        CLIENT_ASSERTION_SECONDS,
    ))
}

/// The server's error code, if what it sent is one: a few characters of RFC 6749 section 5.2, never more.
fn refused(answer: &Response) -> TokenError {
    #[derive(Deserialize)]
    struct Body {
        error: String,
    }
    let code = serde_json::from_slice::<Body>(&answer.body)
        .ok()
        .map(|body| body.error)
        .filter(|code| {
            code.len() <= 64
                && code
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
        });
    TokenError::Refused {
        status: answer.status.as_u16(),
        code,
    }
}

fn pause() -> Duration {
    let mut byte = [0];
    // Without randomness there is merely no jitter.
    let _unspecified = aws_lc_rs::rand::fill(&mut byte);
    Duration::from_millis(PAUSE_MS + u64::from(byte[0]) * PAUSE_MS / 255)
}

#[cfg(test)]
mod tests;
