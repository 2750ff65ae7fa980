//! The signing keys of one zone, as of one version of its configuration.
//!
//! A key waits, published and not signing, until every verifier can know it. Then it signs until the next one does. After
//! that it still verifies, and is published, until every token it could have signed has expired.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use caracal_model::{KeyId, UnixSeconds, ZoneId};
use caracal_storage::zone_model::SigningKeyRow;
use caracal_token::envelope::{Keyring, ZONE_SIGNING_KEY_AAD};
use caracal_token::{JwkSet, KeySet, SigningKey};
use serde::Serialize;

/// How long a key stays published after a newer one has begun to sign: longer than any token lives, and long enough for
/// every verifier's cached key set to be renewed.
pub(super) const GRACE_SECONDS: i64 = 86_400;

/// The keys of one zone.
#[derive(Debug)]
pub(crate) struct KeyRing {
    /// Newest first; withdrawn ones apart.
    keys: Vec<RingKey>,
    /// Newest first.
    withdrawn: Vec<KeyView>,
    published: ArcSwapOption<Published>,
}

#[derive(Debug)]
struct RingKey {
    id: KeyId,
    /// `None` when it could not be opened, or has retired before the ring was made.
    key: Option<SigningKey>,
    signs_from: UnixSeconds,
    /// When it stops verifying; `None` for the newest.
    retires_at: Option<UnixSeconds>,
}

/// Where in its life a key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum KeyState {
    /// Published, does not sign yet.
    Waiting,
    /// Signs.
    Signing,
    /// Signs no more; what it signed is verified.
    Verifying,
    /// Nothing it signed can be alive.
    Retired,
    /// Taken out before its time: nothing it signed is believed.
    Withdrawn,
}

/// What an administrator is told of a key. Times in Unix seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct KeyView {
    pub(crate) kid: KeyId,
    pub(crate) state: KeyState,
    pub(crate) signs_from: UnixSeconds,
    /// When it stops, or stopped, verifying.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ends_at: Option<UnixSeconds>,
}

/// What verifiers get.
#[derive(Debug)]
pub(crate) struct Published {
    /// The JSON Web Key Set, newest key first.
    pub(crate) body: Bytes,
    /// Strong validator of `body` (RFC 9110 section 8.8.3).
    pub(crate) etag: String,
    /// The same keys, for verifying.
    pub(crate) keys: KeySet,
    /// From when on a key has to leave.
    valid_until: UnixSeconds,
}

/// Why there is no key set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeySetUnavailable {
    #[error("the zone has no signing key")]
    None,
    #[error("no signing key of the zone can be opened")]
    Unopened,
}

impl KeyRing {
    /// Opens `rows`, newest first. A key that cannot be opened is left out with an error in the log.
    pub(crate) fn open(zone: &ZoneId, rows: Vec<SigningKeyRow>, keyring: &Keyring, now: UnixSeconds) -> Self {
        let mut keys = Vec::with_capacity(rows.len());
        let mut withdrawn = Vec::new();
        let mut replaced_at: Option<UnixSeconds> = None;
        for row in rows {
            let signs_from = UnixSeconds(row.signs_from);
            if let Some(at) = row.withdrawn_at {
                withdrawn.push(KeyView {
                    kid: row.id,
                    state: KeyState::Withdrawn,
                    signs_from,
                    ends_at: Some(UnixSeconds(at)),
                });
                continue;
            }
            let retires_at = replaced_at.map(|at| at + GRACE_SECONDS);
            let key = if has_ended(retires_at, now) {
                None
            } else {
                open_key(zone, &row, keyring)
            };
            keys.push(RingKey {
                id: row.id,
                key,
                signs_from,
                retires_at,
            });
            replaced_at = Some(replaced_at.map_or(signs_from, |at| at.min(signs_from)));
        }
        Self {
            keys,
            withdrawn,
            published: ArcSwapOption::empty(),
        }
    }

    /// The key that signs at `now`; `None` when the zone has none yet or the one whose turn it is cannot be opened. An
    /// older one would be refused by whoever knows the newer.
    pub(crate) fn signing(&self, now: UnixSeconds) -> Option<&SigningKey> {
        self.turn(now)?.key.as_ref()
    }

    /// How many keys should sign or verify at `now` and cannot be opened.
    pub(crate) fn invalid(&self, now: UnixSeconds) -> usize {
        let is_needed = |key: &&RingKey| !has_ended(key.retires_at, now);
        self.keys
            .iter()
            .filter(is_needed)
            .filter(|key| key.key.is_none())
            .count()
    }

    /// Whether the zone has no key at all, so that one may be made.
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Every key and where in its life it is at `now`, newest first.
    pub(crate) fn views(&self, now: UnixSeconds) -> Vec<KeyView> {
        let turn = self.turn(now).map(|key| &key.id);
        let state = |key: &RingKey| match () {
            () if turn == Some(&key.id) => KeyState::Signing,
            () if key.signs_from > now => KeyState::Waiting,
            () if has_ended(key.retires_at, now) => KeyState::Retired,
            () => KeyState::Verifying,
        };
        let view = |key: &RingKey| KeyView {
            kid: key.id.clone(),
            state: state(key),
            signs_from: key.signs_from,
            ends_at: key.retires_at,
        };
        let living = self.keys.iter().map(view);
        living.chain(self.withdrawn.iter().cloned()).collect()
    }

    /// The newest key whose time has come. The first key of a zone never waits, whatever the clocks say.
    fn turn(&self, now: UnixSeconds) -> Option<&RingKey> {
        self.keys
            .iter()
            .find(|key| key.signs_from <= now)
            .or(self.keys.last())
    }

    /// What verifiers get at `now`. Computed once and again when a key retires; else one atomic load.
    ///
    /// # Errors
    /// [`KeySetUnavailable`].
    pub(crate) fn published(&self, now: UnixSeconds) -> Result<Arc<Published>, KeySetUnavailable> {
        if let Some(published) = self
            .published
            .load_full()
            .filter(|published| now < published.valid_until)
        {
            return Ok(published);
        }
        let published = Arc::new(self.publish(now)?);
        self.published.store(Some(Arc::clone(&published)));
        Ok(published)
    }

    fn publish(&self, now: UnixSeconds) -> Result<Published, KeySetUnavailable> {
        let current = || self.keys.iter().filter(|key| !has_ended(key.retires_at, now));
        let set = JwkSet {
            keys: current()
                .filter_map(|key| Some(key.key.as_ref()?.jwk()))
                .collect(),
        };
        if set.keys.is_empty() {
            return Err(if self.is_empty() {
                KeySetUnavailable::None
            } else {
                KeySetUnavailable::Unopened
            });
        }
        let body = serde_json::to_vec(&set).or(Err(KeySetUnavailable::Unopened))?;
        Ok(Published {
            etag: format!("\"{}\"", hex::encode(caracal_token::digest(&body))),
            body: Bytes::from(body),
            keys: KeySet::from_jwks(&set).or(Err(KeySetUnavailable::Unopened))?,
            valid_until: current()
                .filter_map(|key| key.retires_at)
                .min()
                .unwrap_or(UnixSeconds(i64::MAX)),
        })
    }
}

fn has_ended(retires_at: Option<UnixSeconds>, now: UnixSeconds) -> bool {
    retires_at.is_some_and(|end| end <= now)
}

fn open_key(zone: &ZoneId, row: &SigningKeyRow, keyring: &Keyring) -> Option<SigningKey> {
    let open = || {
        let pem = keyring
            .open(&row.envelope, ZONE_SIGNING_KEY_AAD.as_bytes())
            .ok()?;
        SigningKey::from_sec1_pem(row.id.clone(), std::str::from_utf8(&pem).ok()?).ok()
    };
    let key = open();
    if key.is_none() {
        tracing::error!(zone.id = %zone, key.id = %row.id, "a zone signing key cannot be opened");
    }
    key
}

#[cfg(test)]
mod tests;
