//! Connecting upstream accounts, and ending connections.
//!
//! What a connection is and who refreshes it: `docs/contract/upstream-credentials.md`. Tokens come in two ways, given by an
//! administrator or fetched with the code of a browser's authorization, and leave in none.

use caracal_chassis::Secret;
use caracal_model::{ProviderId, SubjectId, ZoneId};
use caracal_oauth::{Grant, OAuthClient, OAuthSecrets, TokenError, TokenSet, authorization_url, random_text};
use caracal_storage::page::Page;
use caracal_storage::provider_connection::{self, Connection, Filter, NewTokens, SealedTokens};
use caracal_storage::{ZoneScope, oauth_state, provider, secret};
use caracal_token::envelope::{CONNECTION_ACCESS_TOKEN_AAD, CONNECTION_REFRESH_TOKEN_AAD};
use serde::Deserialize;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::caller::Caller;
use crate::change::{self, Change, Done, Kind as ChangeKind, Unattended};
use crate::control::Control;
use crate::provider::Kind;
use crate::refusal::{Code, Refusal};

/// The subject of accounts that everybody in the zone uses.
pub(crate) const SHARED_SUBJECT: &str = "caracal:shared";
/// How long a browser may take to authorize, in seconds.
const STATE_SECONDS: i32 = 600;
const CODE_VERIFIER_AAD: &str = "caracal/providerConnections/codeVerifier";

/// Tokens that an administrator gives.
#[derive(Debug)]
pub(crate) struct GivenTokens {
    pub(crate) access_token: Secret,
    pub(crate) refresh_token: Option<Secret>,
    pub(crate) expires_at: Option<OffsetDateTime>,
}

/// An authorization that was started.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) authorization_url: String,
    pub(crate) state: String,
    pub(crate) expires_at: OffsetDateTime,
}

/// What became of the tokens at the provider (RFC 7009).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UpstreamRevocation {
    Revoked,
    Unsupported,
    Failed,
}

impl UpstreamRevocation {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Unsupported => "unsupported",
            Self::Failed => "failed",
        }
    }
}

/// Connections of a zone.
pub(crate) async fn list(
    control: &Control,
    zone: &ZoneId,
    filter: Filter<'_>,
    page: &Page,
) -> Result<Vec<Connection>, Refusal> {
    let mut tx = control.database.read_in(ZoneScope::Zone(zone)).await?;
    Ok(provider_connection::list(&mut tx, zone, filter, page).await?)
}

/// Stores tokens an administrator gives.
pub(crate) async fn create(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    (subject, provider): (&SubjectId, &ProviderId),
    tokens: &GivenTokens,
    members: &Map<String, Value>,
) -> Result<Connection, Refusal> {
    connectable(control, zone, provider).await?;
    let sealed = Sealed::of(control, &tokens.access_token, tokens.refresh_token.as_ref())?;
    let expires_at = tokens.expires_at.map(OffsetDateTime::unix_timestamp);
    let mut change = Change::in_zone(control, caller, zone).await?;
    let id = Uuid::now_v7().to_string();
    let new = sealed.tokens(expires_at);
    let made = provider_connection::connect(change.tx(), &id, zone, subject, provider, new).await?;
    let done = done(zone, &made.id, 201, ChangeKind::Create, Some(members));
    change.commit(done).await?;
    Ok(made)
}

/// Starts an authorization: where to send the browser, and the state by which it is known again.
pub(crate) async fn authorize(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    (subject, provider): (&SubjectId, &ProviderId),
    members: &Map<String, Value>,
) -> Result<Started, Refusal> {
    let config = connectable(control, zone, provider).await?;
    let client = client(control, zone, provider, &config).await?;
    let state = random_text().map_err(Refusal::internal)?;
    let verifier = random_text().map_err(Refusal::internal)?;
    let url =
        authorization_url(&client, &state, &verifier).ok_or(Code::ProviderAuthorizationEndpointInvalid)?;
    let sealed = seal(control, &Secret::new(verifier), CODE_VERIFIER_AAD)?;
    let mut change = Change::in_zone(control, caller, zone).await?;
    let digest = caracal_token::digest(state.as_bytes());
    let expires_at = oauth_state::insert(
        change.tx(),
        &digest,
        zone,
        subject,
        provider,
        &sealed,
        STATE_SECONDS,
    )
    .await?;
    let done = done(zone, provider.as_str(), 200, ChangeKind::Action, Some(members));
    change.commit(done).await?;
    Ok(Started {
        authorization_url: url.into(),
        state,
        expires_at,
    })
}

/// What the browser brought back.
#[derive(Debug)]
pub(crate) struct Callback {
    pub(crate) state: String,
    pub(crate) code: Option<Secret>,
    /// Whether the provider says that it was refused.
    pub(crate) is_denied: bool,
}

/// Finishes an authorization: the state is used up, whatever happens next; then the code becomes tokens.
pub(crate) async fn finish(
    control: &Control,
    zone: &ZoneId,
    callback: &Callback,
    request: &Unattended<'_>,
) -> Result<Connection, Refusal> {
    let digest = caracal_token::digest(callback.state.as_bytes());
    let mut tx = control.database.write(ZoneScope::All).await?;
    let taken = oauth_state::take(&mut tx, &digest).await?;
    tx.commit().await?;
    let taken = taken
        .filter(|state| state.is_live)
        .ok_or(Code::OauthStateExpired)?;
    if taken.zone_id != *zone {
        return Err(Code::OauthStateMismatch.into());
    }
    if callback.is_denied {
        return Err(Code::ProviderOauthDenied.into());
    }
    let code = callback.code.as_ref().ok_or(Code::AuthorizationCodeRequired)?;
    let verifier =
        open(control, &taken.code_verifier_ct, CODE_VERIFIER_AAD).or(Err(Code::OauthStateInvalid))?;
    let config = connectable(control, zone, &taken.provider_id).await?;
    let client = client(control, zone, &taken.provider_id, &config).await?;
    if !client.is_endpoint_allowed() {
        return Err(Code::ProviderTokenEndpointNotAllowed.into());
    }
    let now = control.clock.unix_seconds();
    let grant = Grant::AuthorizationCode {
        code: code.expose(),
        code_verifier: verifier.expose(),
    };
    let tokens = control
        .token_caller
        .request(&client, grant, now)
        .await
        .map_err(not_granted)?;
    store(
        control,
        zone,
        (&taken.subject_id, &taken.provider_id),
        &tokens,
        now,
        request,
    )
    .await
}

async fn store(
    control: &Control,
    zone: &ZoneId,
    (subject, provider): (&SubjectId, &ProviderId),
    tokens: &TokenSet,
    now: i64,
    request: &Unattended<'_>,
) -> Result<Connection, Refusal> {
    let sealed = Sealed::of(control, &tokens.access_token, tokens.refresh_token.as_ref())?;
    let new = sealed.tokens(tokens.expires_in.map(|life| now.saturating_add(life)));
    let mut tx = control.database.write(ZoneScope::Zone(zone)).await?;
    let id = Uuid::now_v7().to_string();
    let made = provider_connection::connect(&mut tx, &id, zone, subject, provider, new).await?;
    let done = done(zone, &made.id, 201, ChangeKind::Create, None);
    change::append_unattended(control, &mut tx, request, &done).await?;
    tx.commit().await?;
    Ok(made)
}

/// Ends a connection here, and then asks the provider to forget its tokens, if it can be asked.
pub(crate) async fn revoke(
    control: &Control,
    caller: &Caller,
    zone: &ZoneId,
    (subject, provider): (&SubjectId, &ProviderId),
    members: &Map<String, Value>,
) -> Result<(Connection, UpstreamRevocation), Refusal> {
    let mut change = Change::in_zone(control, caller, zone).await?;
    let (ended, tokens) = provider_connection::revoke(change.tx(), zone, subject, provider)
        .await?
        .ok_or(Code::ProviderConnectionNotFound)?;
    let done = done(zone, &ended.id, 200, ChangeKind::Action, Some(members));
    change.commit(done).await?;
    let upstream = revoke_upstream(control, zone, provider, &tokens).await;
    Ok((ended, upstream))
}

/// The refresh token first: who forgets that usually forgets both (RFC 7009 section 2.1).
pub(crate) async fn revoke_upstream(
    control: &Control,
    zone: &ZoneId,
    provider: &ProviderId,
    tokens: &SealedTokens,
) -> UpstreamRevocation {
    let Ok(config) = connectable(control, zone, provider).await else {
        return UpstreamRevocation::Unsupported;
    };
    let Ok(client) = client(control, zone, provider, &config).await else {
        return UpstreamRevocation::Unsupported;
    };
    let Some(endpoint) = client.revocation_endpoint() else {
        return UpstreamRevocation::Unsupported;
    };
    let now = control.clock.unix_seconds();
    let held = [
        (
            &tokens.refresh_token_ct,
            CONNECTION_REFRESH_TOKEN_AAD,
            "refresh_token",
        ),
        (
            &tokens.access_token_ct,
            CONNECTION_ACCESS_TOKEN_AAD,
            "access_token",
        ),
    ];
    let mut outcome = UpstreamRevocation::Unsupported;
    for (sealed, aad, hint) in held {
        let Some(sealed) = sealed else { continue };
        let Ok(token) = open(control, sealed, aad) else {
            return UpstreamRevocation::Failed;
        };
        outcome = UpstreamRevocation::Revoked;
        if let Err(error) = control
            .token_caller
            .revoke(&client, endpoint, &token, hint, now)
            .await
        {
            tracing::warn!(
                zone.id = %zone, provider.id = %provider, error = &error as &dyn std::error::Error,
                "a provider was not told that a connection has ended"
            );
            return UpstreamRevocation::Failed;
        }
    }
    outcome
}

/// The public configuration of a provider whose accounts are connected.
async fn connectable(control: &Control, zone: &ZoneId, id: &ProviderId) -> Result<Value, Refusal> {
    let mut tx = control.database.read_in(ZoneScope::Zone(zone)).await?;
    let found = provider::find(&mut tx, zone, id)
        .await?
        .ok_or(Code::ProviderNotFound)?;
    if Kind::parse(&found.provider_kind) != Some(Kind::AuthorizationCode) {
        return Err(Code::ProviderConnectionUnsupported.into());
    }
    Ok(found.config_json)
}

#[derive(Default, Deserialize)]
struct SecretDocument {
    client_secret: Option<String>,
}

async fn client(
    control: &Control,
    zone: &ZoneId,
    id: &ProviderId,
    config: &Value,
) -> Result<OAuthClient, Refusal> {
    let reference = format!("zones/{zone}/providers/{id}/secretConfig");
    let mut tx = control.database.read_in(ZoneScope::Zone(zone)).await?;
    let document = match secret::find(&mut tx, zone, &reference).await? {
        None => SecretDocument::default(),
        Some(sealed) => {
            let plain = control
                .keyring
                .open(&sealed.envelope, reference.as_bytes())
                .map_err(Refusal::internal)?;
            serde_json::from_slice(&plain).or(Err(Code::InvalidProviderConfig))?
        }
    };
    let secrets = OAuthSecrets {
        client_secret: document.client_secret.map(Secret::new),
        private_key: None,
    };
    OAuthClient::read(config, &secrets)
        .map_err(|error| Refusal::because(Code::InvalidProviderConfig, error.to_string()))
}

fn not_granted(error: TokenError) -> Refusal {
    let code = match &error {
        TokenError::Malformed => Code::ProviderTokenResponseInvalid,
        TokenError::TokenType => Code::ProviderTokenTypeUnsupported,
        TokenError::Forbidden(_)
        | TokenError::Unreachable(_)
        | TokenError::Refused { .. }
        | TokenError::Assertion(_)
        | TokenError::Credentials(_) => Code::ProviderTokenExchangeFailed,
    };
    let description = error.to_string();
    Refusal::caused(code, error).explained(description)
}

/// Tokens, sealed.
struct Sealed {
    access: Vec<u8>,
    refresh: Option<Vec<u8>>,
}

impl Sealed {
    fn of(control: &Control, access: &Secret, refresh: Option<&Secret>) -> Result<Self, Refusal> {
        Ok(Self {
            access: seal(control, access, CONNECTION_ACCESS_TOKEN_AAD)?,
            refresh: refresh
                .map(|token| seal(control, token, CONNECTION_REFRESH_TOKEN_AAD))
                .transpose()?,
        })
    }

    fn tokens(&self, expires_at: Option<i64>) -> NewTokens<'_> {
        NewTokens {
            access_token_ct: &self.access,
            refresh_token_ct: self.refresh.as_deref(),
            expires_at,
        }
    }
}

fn seal(control: &Control, text: &Secret, aad: &str) -> Result<Vec<u8>, Refusal> {
    let sealed = control.keyring.seal(text.expose().as_bytes(), aad.as_bytes());
    sealed.map_err(Refusal::internal)
}

fn open(control: &Control, sealed: &[u8], aad: &str) -> Result<Secret, Refusal> {
    let plain = control
        .keyring
        .open(sealed, aad.as_bytes())
        .map_err(Refusal::internal)?;
    let text = str::from_utf8(&plain).map_err(Refusal::internal)?;
    Ok(Secret::new(text.to_owned()))
}

fn done<'a>(
    zone: &'a ZoneId,
    id: &'a str,
    status: u16,
    kind: ChangeKind,
    members: Option<&'a Map<String, Value>>,
) -> Done<'a> {
    Done {
        status,
        kind,
        entity: ("provider-connections", id),
        zone,
        members,
    }
}
