//! How is one credential fetched?

use std::sync::Arc;

use caracal_oauth::{Grant, TokenError, TokenSet};

use super::entry::Entry;
use super::{Held, Source, Unavailable, UpstreamCredentials, connection};
use crate::zone::OAuthProvider;

/// One fetch.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) entry: Arc<Entry>,
    pub(super) source: Source,
    /// Whether there still is a good one, which is to be replaced in time.
    pub(super) is_ahead: bool,
}

impl Flight {
    /// Gets the credential: by one call of the token endpoint, or for a connected account from the database first.
    pub(super) async fn fetch(&self, credentials: &UpstreamCredentials) -> Result<Held, Unavailable> {
        let provider = &self.source.provider;
        match (&self.source.subject, &provider.grant) {
            (Some(subject), _) => connection::fetch(credentials, &self.source, subject, self.is_ahead).await,
            (None, Some(grant)) => {
                let tokens = ask(credentials, provider, Grant::Client(grant)).await?;
                let now = credentials.clock.unix_seconds();
                let life = tokens
                    .expires_in
                    .map_or(credentials.ttl_max, |life| life.min(credentials.ttl_max));
                let end = now.saturating_add(life);
                Ok(Held::new(
                    &self.source,
                    tokens.access_token,
                    None,
                    now,
                    Some(end),
                    true,
                ))
            }
            (None, None) => Err(Unavailable::NotConnected),
        }
    }
}

/// Calls the token endpoint, unless the provider is left alone.
pub(super) async fn ask(
    credentials: &UpstreamCredentials,
    provider: &OAuthProvider,
    grant: Grant<'_>,
) -> Result<TokenSet, Unavailable> {
    ask_with_cause(credentials, provider, grant)
        .await
        .map_err(|(reason, _)| reason)
}

/// As [`ask`], with whether the server said that what was presented is not good any more.
pub(super) async fn ask_with_cause(
    credentials: &UpstreamCredentials,
    provider: &OAuthProvider,
    grant: Grant<'_>,
) -> Result<TokenSet, (Unavailable, bool)> {
    let circuit = credentials.circuit(&provider.id);
    let now = credentials.clock.unix_seconds();
    if !circuit.is_closed(now) {
        return Err((Unavailable::Paused, false));
    }
    match credentials.caller.request(&provider.client, grant, now).await {
        Ok(tokens) => {
            circuit.close();
            Ok(tokens)
        }
        Err(error) => {
            // One account that was disconnected at the provider says nothing about the others.
            if counts(&error, grant) && circuit.count_failure(credentials.clock.unix_seconds()) {
                credentials.counters.circuit_open.inc();
            }
            tracing::debug!(provider.id = %provider.id, error = &error as &dyn std::error::Error, "a token call failed");
            let is_spent = error.is_invalid_grant();
            Err((Unavailable::Refused(error.to_string()), is_spent))
        }
    }
}

fn counts(error: &TokenError, grant: Grant<'_>) -> bool {
    matches!(grant, Grant::Client(_)) || error.is_outage()
}
