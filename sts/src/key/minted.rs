//! Did this process mint that token?
//!
//! A token that was signed here need not be verified here: its SHA-256 finds the claims. That saves one signature check
//! for each governed request; everything a signature does not prove (expiry, key retirement, revocation) is still
//! checked. Knowing the exact bytes is at least as hard as forging the signature.

use std::sync::Arc;
use std::time::Duration;

use caracal_model::{KeyId, ZoneId};
use caracal_token::Claims;

/// What is remembered of a minted token.
#[derive(Debug)]
pub(crate) struct Minted {
    pub(crate) claims: Arc<Claims>,
    pub(crate) kid: KeyId,
}

/// The tokens minted lately that may come back as subject tokens.
#[derive(Debug)]
pub(crate) struct MintedTokens(moka::sync::Cache<[u8; 32], Arc<Minted>>);

impl MintedTokens {
    /// Remembers at most `tokens_max`, about 2 KiB each, for as long as any token lives.
    pub(crate) fn new(tokens_max: u64, token_life_max: Duration) -> Self {
        Self(
            moka::sync::Cache::builder()
                .max_capacity(tokens_max)
                .time_to_live(token_life_max)
                .build(),
        )
    }

    /// Remembers a token just signed with `kid`. One SHA-256.
    pub(crate) fn remember(&self, token: &str, kid: &KeyId, claims: Arc<Claims>) {
        let minted = Minted {
            claims,
            kid: kid.clone(),
        };
        self.0
            .insert(caracal_token::digest(token.as_bytes()), Arc::new(minted));
    }

    /// What was remembered of exactly these bytes, if they were minted for `zone`. One SHA-256.
    pub(crate) fn find(&self, token: &str, zone: &ZoneId) -> Option<Arc<Minted>> {
        self.0
            .get(&caracal_token::digest(token.as_bytes()))
            .filter(|minted| minted.claims.zone_id == *zone)
    }

    /// Forgets every token, as a replica that minted none of them.
    #[cfg(test)]
    pub(crate) fn forget_all(&self) {
        self.0.invalidate_all();
    }

    /// Tokens remembered, for metrics.
    pub(crate) fn len(&self) -> u64 {
        self.0.run_pending_tasks();
        self.0.entry_count()
    }
}
