//! The signing keys of one zone, as of one version of its configuration.
//!
//! The newest key signs. Older ones verify, and are published, until every token they could have signed has expired.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use caracal_model::{KeyId, UnixSeconds, ZoneId};
use caracal_storage::zone_model::SigningKeyRow;
use caracal_token::envelope::{Keyring, ZONE_SIGNING_KEY_AAD};
use caracal_token::{JwkSet, KeySet, SigningKey};

/// How long a key stays published after a newer one has replaced it: longer than any token lives, and long enough for
/// every verifier's cached key set to be renewed.
const GRACE_SECONDS: i64 = 86_400;

/// The keys of one zone.
#[derive(Debug)]
pub(crate) struct KeyRing {
    /// Newest first, without those that could not be opened.
    keys: Vec<RingKey>,
    /// Whether the newest key is among them.
    newest_opened: bool,
    /// Keys that could not be opened.
    pub(crate) unopened: usize,
    published: ArcSwapOption<Published>,
}

#[derive(Debug)]
struct RingKey {
    key: SigningKey,
    /// When it stops verifying; `None` for the newest.
    retires_at: Option<UnixSeconds>,
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
    pub(crate) fn open(zone: &ZoneId, rows: Vec<SigningKeyRow>, keyring: &Keyring) -> Self {
        let newest = rows.first().map(|row| row.id.clone());
        let mut keys = Vec::with_capacity(rows.len());
        let mut unopened = 0;
        let mut successor: Option<UnixSeconds> = None;
        for row in rows {
            let created_at = UnixSeconds(row.created_at);
            if let Some(key) = open_key(row.id.clone(), &row.envelope, keyring) {
                keys.push(RingKey {
                    key,
                    retires_at: successor.map(|at| at + GRACE_SECONDS),
                });
            } else {
                tracing::error!(zone.id = %zone, key.id = %row.id, "a zone signing key cannot be opened");
                unopened += 1;
            }
            successor = Some(created_at);
        }
        let newest_opened = keys
            .first()
            .is_some_and(|first| Some(first.key.kid()) == newest.as_ref());
        Self {
            keys,
            newest_opened,
            unopened,
            published: ArcSwapOption::empty(),
        }
    }

    /// The key that signs now; `None` when the zone has none yet or its newest cannot be opened.
    pub(crate) fn signing(&self) -> Option<&SigningKey> {
        self.keys
            .first()
            .filter(|_| self.newest_opened)
            .map(|first| &first.key)
    }

    /// Whether the zone has no key at all, so that one may be made.
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.unopened == 0
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
        let current = || {
            self.keys
                .iter()
                .filter(|key| key.retires_at.is_none_or(|end| end > now))
        };
        let set = JwkSet {
            keys: current().map(|key| key.key.jwk()).collect(),
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

fn open_key(id: KeyId, envelope: &[u8], keyring: &Keyring) -> Option<SigningKey> {
    let pem = keyring.open(envelope, ZONE_SIGNING_KEY_AAD.as_bytes()).ok()?;
    SigningKey::from_sec1_pem(id, std::str::from_utf8(&pem).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use caracal_token::envelope::Kek;

    use super::*;

    fn keyring() -> Keyring {
        let kek = Kek::from_hex("8f3d9a712c45e6b0d18f2a4c6e9b3d57a1c4f8020e6a9c3d5b7f1a2c4e6d8b90").unwrap();
        Keyring::new(kek, None)
    }

    fn row(id: &str, created_at: i64) -> SigningKeyRow {
        let id = KeyId::try_from(id).unwrap();
        let pem = SigningKey::generate(id.clone()).unwrap().to_sec1_pem().unwrap();
        let envelope = keyring()
            .seal(pem.as_bytes(), ZONE_SIGNING_KEY_AAD.as_bytes())
            .unwrap();
        SigningKeyRow {
            id,
            version: 1,
            envelope,
            created_at,
        }
    }

    fn unopenable(id: &str, created_at: i64) -> SigningKeyRow {
        SigningKeyRow {
            envelope: b"CSS1nonsense".to_vec(),
            ..row(id, created_at)
        }
    }

    fn ring(rows: Vec<SigningKeyRow>) -> KeyRing {
        KeyRing::open(&ZoneId::try_from("z1").unwrap(), rows, &keyring())
    }

    fn kids(ring: &KeyRing, now: i64) -> Vec<String> {
        let published = ring.published(UnixSeconds(now)).unwrap();
        let set: JwkSet = serde_json::from_slice(&published.body).unwrap();
        set.keys.iter().map(|key| key.kid().to_string()).collect()
    }

    #[test]
    fn every_key_is_published_until_a_day_after_its_successor() {
        let ring = ring(vec![row("k3", 2_000), row("k2", 1_500), row("k1", 1_000)]);
        assert_eq!(ring.signing().unwrap().kid().as_str(), "k3");
        assert_eq!(
            kids(&ring, 2_000),
            ["k3", "k2", "k1"],
            "two rotations in a day drop nobody's tokens"
        );
        assert_eq!(kids(&ring, 1_500 + GRACE_SECONDS), ["k3", "k2"]);
        assert_eq!(kids(&ring, 2_000 + GRACE_SECONDS), ["k3"]);
    }

    #[test]
    fn an_old_key_that_cannot_be_opened_is_left_out() {
        let ring = ring(vec![row("k2", 2_000), unopenable("k1", 1_000)]);
        assert_eq!(kids(&ring, 2_000), ["k2"]);
        assert_eq!(ring.unopened, 1);
        assert!(ring.signing().is_some());
    }

    #[test]
    fn nothing_signs_when_the_newest_key_cannot_be_opened() {
        let ring = ring(vec![unopenable("k2", 2_000), row("k1", 1_000)]);
        assert!(
            ring.signing().is_none(),
            "an older key would be refused by whoever knows the newer one"
        );
        assert_eq!(kids(&ring, 2_000), ["k1"]);
        assert!(!ring.is_empty(), "so that no third key is made");
    }

    #[test]
    fn a_zone_without_keys_differs_from_one_whose_keys_are_lost() {
        assert_eq!(
            ring(vec![]).published(UnixSeconds(0)).unwrap_err(),
            KeySetUnavailable::None
        );
        let lost = ring(vec![unopenable("k1", 1_000)]);
        assert_eq!(
            lost.published(UnixSeconds(0)).unwrap_err(),
            KeySetUnavailable::Unopened
        );
    }
}
