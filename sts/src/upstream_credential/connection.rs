//! How does a connected account keep a good token, when several replicas use it?
//!
//! A provider that rotates refresh tokens takes the second use of one for theft and ends the connection. So a refresh is
//! made by one replica, the holder of a lease in the connection's row; the others read what it stored. A replica that dies
//! with the lease delays the next refresh by the lease, no more.

use std::time::Duration;

use caracal_chassis::Secret;
use caracal_model::SubjectId;
use caracal_oauth::{Grant, TokenSet, random_text};
use caracal_storage::provider_connection::{self, NewTokens, SealedTokens};
use caracal_storage::{StorageError, ZoneScope};
use caracal_token::envelope::{CONNECTION_ACCESS_TOKEN_AAD, CONNECTION_REFRESH_TOKEN_AAD};

use super::entry::refresh_from;
use super::flight::ask_with_cause;
use super::{Held, Source, Unavailable, UpstreamCredentials};

/// The subject of accounts that everybody in the zone uses.
const SHARED_SUBJECT: &str = "caracal:shared";
/// A token that runs out within this time is refreshed before it is handed out, in seconds; within half its life when
/// that is less.
const MARGIN_SECONDS: i64 = 30;
/// How long a lease lasts, in seconds: longer than two calls of five seconds and the statements around them.
const LEASE_SECONDS: i32 = 15;
/// How often somebody who waits for another replica's refresh looks, and how many times: a little longer than a lease.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const LOOKS_MAX: usize = 160;
/// How often tokens are tried to be stored, with pauses that grow to this: for about a minute.
const STORE_ATTEMPTS_MAX: u32 = 40;
const STORE_PAUSE_MAX: Duration = Duration::from_secs(2);

/// The token of the account `subject` has connected, refreshed when it runs out soon. One statement, and for a refresh
/// two more and one call.
pub(super) async fn fetch(
    credentials: &UpstreamCredentials,
    source: &Source,
    subject: &SubjectId,
    is_ahead: bool,
) -> Result<Held, Unavailable> {
    let mut has_waited = false;
    for _look in 0..LOOKS_MAX {
        let row = find(credentials, source, subject)
            .await?
            .ok_or(Unavailable::NotConnected)?;
        let now = credentials.clock.unix_seconds();
        let due = match row.expires_at {
            Some(end) if is_ahead => now >= refresh_from(row.obtained_at, end),
            Some(end) => {
                let margin = MARGIN_SECONDS.min(end.saturating_sub(row.obtained_at).max(0) / 2);
                end.saturating_sub(margin) < now
            }
            None => false,
        };
        if !due || (row.refresh_token_ct.is_none() && row.expires_at.is_none_or(|end| now < end)) {
            return held(credentials, source, &row);
        }
        if row.refresh_token_ct.is_none() {
            expire(credentials, source, &row).await?;
            return Err(Unavailable::NotRenewable);
        }
        let lease = random_text().or(Err(Unavailable::Store))?;
        if take_lease(credentials, source, &row, &lease).await? {
            credentials.counters.leased.inc();
            let refreshed = refresh(credentials, source, &row, &lease).await;
            refreshed.inspect_err(|_reason| credentials.counters.errors.inc())?;
        } else {
            if !has_waited {
                has_waited = true;
                credentials.counters.waited.inc();
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    Err(Unavailable::Late)
}

/// Refreshes with the lease held, and stores the outcome. On any failure the lease is given back.
async fn refresh(
    credentials: &UpstreamCredentials,
    source: &Source,
    row: &SealedTokens,
    lease: &str,
) -> Result<(), Unavailable> {
    let token = open(
        credentials,
        row.refresh_token_ct.as_deref(),
        CONNECTION_REFRESH_TOKEN_AAD,
    );
    let outcome = match &token {
        Ok(token) => ask_with_cause(credentials, &source.provider, Grant::RefreshToken(token.expose())).await,
        Err(reason) => Err((reason.clone(), false)),
    };
    match outcome {
        Ok(tokens) => store(credentials, source, row, &tokens).await,
        Err((_, true)) => {
            expire(credentials, source, row).await?;
            Err(Unavailable::NotRenewable)
        }
        Err((reason, false)) => {
            if let Err(error) = release(credentials, source, row, lease).await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a refresh lease was not given back"
                );
            }
            Err(reason)
        }
    }
}

/// Stores refreshed tokens. When the connection was ended or connected anew meanwhile, they are dropped: the next look
/// finds what holds now.
async fn store(
    credentials: &UpstreamCredentials,
    source: &Source,
    row: &SealedTokens,
    tokens: &TokenSet,
) -> Result<(), Unavailable> {
    let seal = |token: &Secret, aad: &str| {
        let sealed = credentials
            .keyring
            .seal(token.expose().as_bytes(), aad.as_bytes());
        sealed.or(Err(Unavailable::Sealed))
    };
    let access = seal(&tokens.access_token, CONNECTION_ACCESS_TOKEN_AAD)?;
    let rotated = tokens.refresh_token.as_ref();
    let refresh = rotated
        .map(|token| seal(token, CONNECTION_REFRESH_TOKEN_AAD))
        .transpose()?;
    let life = tokens
        .expires_in
        .map_or(credentials.ttl_max, |life| life.min(credentials.ttl_max));
    let new = NewTokens {
        access_token_ct: &access,
        refresh_token_ct: refresh.as_deref(),
        expires_at: Some(credentials.clock.unix_seconds().saturating_add(life)),
    };
    // The old refresh token is spent: losing these would lose the connection, so a database that stumbles is asked again.
    let mut attempt = 0;
    loop {
        attempt += 1;
        match try_store(credentials, source, row, new).await {
            Ok(true) => return Ok(()),
            Ok(false) => {
                tracing::warn!(
                    connection.id = row.id,
                    "refreshed tokens came too late and were dropped"
                );
                return Ok(());
            }
            Err(error) if attempt < STORE_ATTEMPTS_MAX => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "refreshed tokens are not stored yet"
                );
                tokio::time::sleep((LOOK_EVERY * attempt).min(STORE_PAUSE_MAX)).await;
            }
            Err(error) => return Err(unreadable(&error)),
        }
    }
}

async fn try_store(
    credentials: &UpstreamCredentials,
    source: &Source,
    row: &SealedTokens,
    tokens: NewTokens<'_>,
) -> Result<bool, StorageError> {
    let zone = &source.provider.zone_id;
    let mut tx = credentials.database.write(ZoneScope::Zone(zone)).await?;
    let stored =
        provider_connection::store_refreshed(&mut tx, zone, &row.id, row.refresh_token_version, tokens)
            .await?;
    tx.commit().await?;
    Ok(stored)
}

async fn find(
    credentials: &UpstreamCredentials,
    source: &Source,
    subject: &SubjectId,
) -> Result<Option<SealedTokens>, Unavailable> {
    let provider = &source.provider;
    let read = async {
        let mut tx = credentials
            .database
            .read_in(ZoneScope::Zone(&provider.zone_id))
            .await?;
        provider_connection::find_active(&mut tx, &provider.zone_id, &provider.id, subject, SHARED_SUBJECT)
            .await
    };
    read.await.map_err(|error| unreadable(&error))
}

async fn take_lease(
    credentials: &UpstreamCredentials,
    source: &Source,
    row: &SealedTokens,
    lease: &str,
) -> Result<bool, Unavailable> {
    let zone = &source.provider.zone_id;
    let take = async {
        let mut tx = credentials.database.write(ZoneScope::Zone(zone)).await?;
        let version = row.refresh_token_version;
        let taken = provider_connection::lease(&mut tx, zone, &row.id, version, lease, LEASE_SECONDS).await?;
        tx.commit().await?;
        Ok(taken)
    };
    take.await.map_err(|error| unreadable(&error))
}

async fn release(
    credentials: &UpstreamCredentials,
    source: &Source,
    row: &SealedTokens,
    lease: &str,
) -> Result<(), StorageError> {
    let zone = &source.provider.zone_id;
    let mut tx = credentials.database.write(ZoneScope::Zone(zone)).await?;
    provider_connection::release(&mut tx, zone, &row.id, lease).await?;
    tx.commit().await
}

async fn expire(
    credentials: &UpstreamCredentials,
    source: &Source,
    row: &SealedTokens,
) -> Result<(), Unavailable> {
    let zone = &source.provider.zone_id;
    let end = async {
        let mut tx = credentials.database.write(ZoneScope::Zone(zone)).await?;
        provider_connection::expire(&mut tx, zone, &row.id, row.refresh_token_version).await?;
        tx.commit().await
    };
    end.await.map_err(|error| unreadable(&error))
}

fn held(credentials: &UpstreamCredentials, source: &Source, row: &SealedTokens) -> Result<Held, Unavailable> {
    let token = open(
        credentials,
        row.access_token_ct.as_deref(),
        CONNECTION_ACCESS_TOKEN_AAD,
    )?;
    Ok(Held::new(
        source,
        token,
        Some(row.id.clone()),
        row.obtained_at,
        row.expires_at,
        row.refresh_token_ct.is_some(),
    ))
}

fn open(credentials: &UpstreamCredentials, sealed: Option<&[u8]>, aad: &str) -> Result<Secret, Unavailable> {
    let sealed = sealed.ok_or(Unavailable::NotConnected)?;
    let plain = credentials
        .keyring
        .open(sealed, aad.as_bytes())
        .or(Err(Unavailable::Sealed))?;
    let text = str::from_utf8(&plain).or(Err(Unavailable::Sealed))?;
    Ok(Secret::new(text.to_owned()))
}

fn unreadable(error: &StorageError) -> Unavailable {
    tracing::warn!(
        error = error as &dyn std::error::Error,
        "a provider connection cannot be read or written"
    );
    Unavailable::Store
}
